"""The names of VLMo models and the files its authors publish. No torch."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from mwactl.backbone.local_folder import folder_of, load_config, spec_of_folder
from mwactl.backbone.spec import BackboneSpec, OfficialFile
from mwactl_vlmo.sizes import BASE, BASE_PLUS, LARGE, VlmoConfig

FAMILY = "vlmo"
VOCABULARY_FILE = "vocab.txt"
#: BERT's uncased English vocabulary, 30,522 words (Apache 2.0).
VOCABULARY = Path(str(files("mwactl_vlmo"))) / "bert-base-uncased-vocab.txt"
_RELEASE = "https://github.com/wenhui0924/vlmo_ckpts/releases/download/vlmo/"
_LICENCE = "MIT"

#: Tag, end of the file name, what it is. Any of them loads at any picture size.
_FILES = (
    ("pretrained", "patch16_224.pt", "pre-trained, with retrieval heads: the start for retrieval"),
    ("coco", "patch16_384_coco.pt", "fine-tuned on COCO at 384 px"),
    ("f30k", "patch16_384_f30k.pt", "fine-tuned on Flickr30k at 384 px"),
)

#: Word of a name -> sizes, and millions of parameters of the retrieval model.
_SIZES = {"base": (BASE, 177), "base-plus": (BASE_PLUS, 168), "large": (LARGE, 565)}
_PIXELS = (224, 384)


def _name(word: str, pixels: int) -> str:
    return f"{FAMILY}-{word}" + (f"-{pixels}" if pixels != 224 else "")


#: Every size by name: 224 pixels unless the name says otherwise.
SIZES: dict[str, VlmoConfig] = {
    _name(word, pixels): replace(size, image_size=pixels) for word, (size, _) in _SIZES.items() for pixels in _PIXELS
}


def _spec(word: str, pixels: int) -> BackboneSpec:
    name, stem = _name(word, pixels), f"vlmo_{word.replace('-', '_')}_"
    return BackboneSpec(
        name,
        FAMILY,
        name,
        default_weights="pretrained",
        licence=_LICENCE,
        summary=f"{_SIZES[word][1]} M, {pixels} px",
        files=tuple(
            OfficialFile(tag, stem + rest, _RELEASE + stem + rest, summary=summary) for tag, rest, summary in _FILES
        ),
    )


SHORT_NAMES = tuple(_spec(word, pixels) for word in _SIZES for pixels in _PIXELS)


def parse(name: str) -> BackboneSpec | None:
    """The spec of `vlmo-base-224` and its like, and of `vlmo:local-dir:FOLDER`; None for any other name.

    Raises:
        NotFoundError: The folder is not there, or has no configuration.
    """
    if name.endswith("-224") and name.removesuffix("-224") in SIZES:
        return _spec(name.removesuffix("-224").removeprefix(f"{FAMILY}-"), 224)
    return spec_of_folder(name, FAMILY)


def config_of(spec: BackboneSpec) -> VlmoConfig:
    """The sizes of a model: of its name, or from its folder.

    Raises:
        IncompatibleError: The folder's configuration is not one.
    """
    folder = folder_of(spec)
    return SIZES[spec.model] if folder is None else load_config(folder, VlmoConfig, "VLMo")


def vocabulary_of(spec: BackboneSpec) -> Path:
    """The words of a model: `vocab.txt` of its folder, or BERT's, which are in this package."""
    folder = folder_of(spec)
    if folder is not None and (folder / VOCABULARY_FILE).is_file():
        return folder / VOCABULARY_FILE
    return VOCABULARY
