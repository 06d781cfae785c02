"""Where the files lie that come with the package and are data, not code: recipes, the model card's text."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from mwactl.errors import NotFoundError


def templates() -> Traversable:
    """The folder of files that are data, not code: inside the package in a wheel, beside it in a checkout.

    Raises:
        NotFoundError: Neither is there.
    """
    package = resources.files("mwactl")
    if (inside := package.joinpath("templates")).is_dir():
        return inside
    beside = Path(str(package)).parent / "templates"
    if beside.is_dir():
        return beside
    raise NotFoundError(
        "the templates that come with mwactl are missing",
        where=str(package),
        why="the installation is incomplete",
        fix="pip install --force-reinstall mwactl",
    )
