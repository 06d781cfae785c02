"""The names of CLIP models. No torch, no open_clip: lists and errors must be quick."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mwactl.backbone.spec import BackboneSpec
from mwactl.errors import NotFoundError

FAMILY = "clip"
LOCAL_DIR = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
TINY_EMOJI = "clip-tiny-emoji"
TINY_EMOJI_FOLDER = Path(str(files("mwactl_clip"))) / TINY_EMOJI


def _short(name: str, model: str, tag: str, licence: str, summary: str) -> BackboneSpec:
    return BackboneSpec(name, FAMILY, model, default_weights=tag, licence=licence, summary=summary)


_TINY = BackboneSpec(
    TINY_EMOJI,
    FAMILY,
    f"{LOCAL_DIR}{TINY_EMOJI_FOLDER}",
    licence="Apache-2.0 (pictures: Twemoji, CC BY 4.0)",
    summary="64 px, in the package, for the quickstart",
)

#: Weights: LAION's where they exist, OpenAI's under names of their own (they need QuickGELU), SigLIP's from WebLI.
SHORT_NAMES: tuple[BackboneSpec, ...] = (
    _TINY,
    _short("clip-vit-b-32", "ViT-B-32", "laion2b_s34b_b79k", "MIT", "151 M, 224 px"),
    _short("clip-vit-b-32-openai", "ViT-B-32-quickgelu", "openai", "MIT", "151 M, 224 px"),
    _short("clip-vit-b-16", "ViT-B-16", "laion2b_s34b_b88k", "MIT", "150 M, 224 px"),
    _short("clip-vit-b-16-openai", "ViT-B-16-quickgelu", "openai", "MIT", "150 M, 224 px"),
    _short("clip-vit-l-14", "ViT-L-14", "laion2b_s32b_b82k", "MIT", "428 M, 224 px"),
    _short("clip-vit-l-14-openai", "ViT-L-14-quickgelu", "openai", "MIT", "428 M, 224 px"),
    _short("clip-vit-l-14-336-openai", "ViT-L-14-336-quickgelu", "openai", "MIT", "428 M, 336 px"),
    _short("clip-vit-h-14", "ViT-H-14", "laion2b_s32b_b79k", "MIT", "986 M, 224 px"),
    _short("clip-vit-bigg-14", "ViT-bigG-14", "laion2b_s39b_b160k", "MIT", "2.5 B, 224 px"),
    _short("siglip-vit-b-16", "ViT-B-16-SigLIP", "webli", "Apache-2.0", "203 M, 224 px, sigmoid loss"),
    _short("siglip-vit-b-16-384", "ViT-B-16-SigLIP-384", "webli", "Apache-2.0", "203 M, 384 px, sigmoid loss"),
    _short("siglip-so400m-14", "ViT-SO400M-14-SigLIP", "webli", "Apache-2.0", "878 M, 224 px, sigmoid loss"),
)


def parse(name: str) -> BackboneSpec | None:
    """The spec of a name that starts with `clip:`; None for any other.

    Raises:
        NotFoundError: A folder that is not there or is not an open_clip model's.
    """
    if not name.startswith(f"{FAMILY}:"):
        return None
    model = name.removeprefix(f"{FAMILY}:")
    if model.startswith(LOCAL_DIR):
        return _local_folder(Path(model.removeprefix(LOCAL_DIR)).expanduser())
    architecture, _, tag = model.partition("/")
    return BackboneSpec(name, FAMILY, architecture, default_weights=tag or None)


def _local_folder(folder: Path) -> BackboneSpec:
    if not (folder / CONFIG_FILE).is_file():
        raise NotFoundError(
            "no open_clip model in this folder",
            where=str(folder),
            why=f"it has no {CONFIG_FILE}" if folder.is_dir() else "there is no such folder",
            fix=f"clip:{LOCAL_DIR}FOLDER with a folder that holds {CONFIG_FILE} and the weights",
        )
    resolved = folder.resolve()
    return BackboneSpec(f"{FAMILY}:{LOCAL_DIR}{resolved}", FAMILY, f"{LOCAL_DIR}{resolved}")
