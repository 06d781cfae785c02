"""The scaffold under a name of its own, installed as `pip install -e` would: found by its entry point, without pip."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mwactl.backbone import plugins
from mwactl.scaffold import write_scaffold

NAME, PACKAGE = "tiny-towers", "tiny_towers"


def _install(folder: Path) -> None:
    """Write beside the package what an installer writes: the metadata that its pyproject.toml asks for."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def install() -> Callable[[Path], None]:
    """install(folder): make a plugin's package one that is found, where its folder is in `sys.path`."""
    return _install


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scaffold as it is written, and installed."""
    folder = tmp_path_factory.mktemp("plugins")
    write_scaffold(NAME, folder)
    _install(folder / NAME)
    return folder / NAME


@pytest.fixture
def own_plugin(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a backbone that another package provides."""
    monkeypatch.syspath_prepend(plugin_folder)
    plugins.cache_clear()
    yield NAME
    plugins.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] == PACKAGE]:
        del sys.modules[module]
