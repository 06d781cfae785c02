"""Models in a folder of the user's own: `FAMILY:local-dir:FOLDER`. No torch.

The folder holds `config.json` (the family's sizes), one weights file, and the tokenizer where the family needs one.
"""

from __future__ import annotations

from pathlib import Path

from mwactl.backbone.spec import BackboneSpec
from mwactl.errors import NotFoundError

LOCAL_DIR = "local-dir:"
CONFIG_FILE = "config.json"
_WEIGHTS_FILES = ("model.safetensors", "model.pt", "model.pth")


def named_folder(name: str, family: str) -> Path | None:
    """The folder that a backbone's name means, absolute; None for a name of another family.

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
    return folder.resolve()


def folder_of(spec: BackboneSpec) -> Path | None:
    """The folder of a model that is named by one."""
    return Path(spec.model.removeprefix(LOCAL_DIR)) if spec.model.startswith(LOCAL_DIR) else None


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
