"""Models in a folder of the user's own: `FAMILY:local-dir:FOLDER`. No torch.

The folder holds `config.json` (the family's sizes), one weights file, and the tokenizer where the family needs one.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from mwactl.backbone.spec import BackboneSpec, OfficialFile
from mwactl.errors import IncompatibleError, NotFoundError

LOCAL_DIR = "local-dir:"
CONFIG_FILE = "config.json"
_WEIGHTS_FILES = ("model.safetensors", "model.pt", "model.pth")


class Sizes(Protocol):
    """A family's sizes: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self) -> None:
        """Raise ValueError for sizes of which no model can be made."""


SizesOfFamily = TypeVar("SizesOfFamily", bound=Sizes)


def spec_of_folder(name: str, family: str, tokenizer: OfficialFile | None = None) -> BackboneSpec | None:
    """The spec of the folder that a backbone's name means; None for a name of another family.

    Args:
        name: What users type.
        family: The plugin's name.
        tokenizer: The tokenizer's file, where the family has one: of a folder, neither address nor digest is known.

    Raises:
        NotFoundError: The name is of this family, but means no folder, or one without a configuration.
    """
    if not name.startswith(f"{family}:"):
        return None
    place = name.removeprefix(f"{family}:")
    fix = f"{family}:{LOCAL_DIR}FOLDER with a folder that holds {CONFIG_FILE} and {_WEIGHTS_FILES[0]}"
    if not place.startswith(LOCAL_DIR):
        raise NotFoundError(f"no backbone named `{name}`", why=f"`{family}:` names a folder", fix=fix)
    folder = Path(place.removeprefix(LOCAL_DIR)).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        raise NotFoundError(
            "no model in this folder",
            where=str(folder),
            why=f"it has no {CONFIG_FILE}" if folder.is_dir() else "there is no such folder",
            fix=fix,
        )
    place = f"{LOCAL_DIR}{folder.resolve()}"
    own = None if tokenizer is None else replace(tokenizer, url="", sha256=None, summary="")
    return BackboneSpec(f"{family}:{place}", family, place, tokenizer=own)


def folder_of(spec: BackboneSpec) -> Path | None:
    """The folder of a model that is named by one."""
    return Path(spec.model.removeprefix(LOCAL_DIR)) if spec.model.startswith(LOCAL_DIR) else None


def load_config(folder: Path, sizes: type[SizesOfFamily], title: str) -> SizesOfFamily:
    """The sizes that a folder's configuration says.

    Args:
        folder: Where.
        sizes: The family's class of sizes.
        title: The family's name as it is written in sentences.

    Raises:
        IncompatibleError: It is no configuration of this family.
    """
    file = folder / CONFIG_FILE
    needed = [field.name for field in fields(sizes) if field.default is MISSING]
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("it holds no JSON object")
        if unknown := document.keys() - {field.name for field in fields(sizes)}:
            raise ValueError(f"there is no size called `{min(unknown)}`")
        if missing := [name for name in needed if name not in document]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        config = sizes(**document)
        config.check()
    except ValueError as error:
        raise IncompatibleError(
            f"not a {title} configuration",
            where=str(file),
            why=str(error),
            fix=f"write a JSON object with the model's own {', '.join(needed)} into it",
        ) from error
    return config


def weights_in(folder: Path) -> Path:
    """The folder's weights file.

    Raises:
        NotFoundError: It has none.
    """
    for name in _WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise NotFoundError(
        "no weights in this folder",
        where=str(folder),
        why=f"none of {', '.join(_WEIGHTS_FILES)} is there",
        fix="--weights FILE, or --weights random (in a recipe: backbone.weights)",
    )
