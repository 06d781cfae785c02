"""The names of BEiT-3 models and the files its authors publish. No torch."""

from __future__ import annotations

from dataclasses import replace

from mwactl.backbone.local_folder import folder_of, load_config, spec_of_folder
from mwactl.backbone.spec import BackboneSpec, OfficialFile
from mwactl_beit3.sizes import BASE, LARGE, Beit3Config

FAMILY = "beit3"
TOKENIZER_FILE = "beit3.spm"
_RELEASE = "https://github.com/addf400/files/releases/download/beit3/"
_LICENCE = "MIT"

TOKENIZER = OfficialFile(
    "tokenizer",
    TOKENIZER_FILE,
    _RELEASE + TOKENIZER_FILE,
    sha256="6f5e2fefcf793761a76a6bfb8ad35489f9c203b25557673284b6d032f41043f4",
    summary="SentencePiece, 64,000 pieces",
)

#: Tag, file name after `beit3_SIZE_`, what it is. Any of them loads at any picture size.
_FILES = (
    ("itc", "itc_patch16_224.pth", "contrastive tuning: the start for retrieval"),
    ("pretrained", "patch16_224.pth", "masked data modelling; no retrieval heads"),
    ("indomain", "indomain_patch16_224.pth", "the same, continued on COCO and VG; no retrieval heads"),
    ("coco", "patch16_384_coco_retrieval.pth", "fine-tuned on COCO at 384 px"),
    ("f30k", "patch16_384_f30k_retrieval.pth", "fine-tuned on Flickr30k at 384 px"),
)

#: Every size by name: 224 pixels unless the name says otherwise.
SIZES: dict[str, Beit3Config] = {
    f"beit3-{word}" + (f"-{pixels}" if pixels != 224 else ""): replace(size, image_size=pixels)
    for word, size in (("base", BASE), ("large", LARGE))
    for pixels in (224, 384, 480)
}


def _spec(name: str) -> BackboneSpec:
    word = "large" if "large" in name else "base"
    files = (
        OfficialFile(tag, f"beit3_{word}_{rest}", f"{_RELEASE}beit3_{word}_{rest}", summary=summary)
        for tag, rest, summary in _FILES
    )
    millions = {"base": 222, "large": 675}[word]
    return BackboneSpec(
        name,
        FAMILY,
        name,
        default_weights="itc",
        licence=_LICENCE,
        summary=f"{millions} M, {SIZES[name].image_size} px",
        files=tuple(files),
        tokenizer=TOKENIZER,
    )


SHORT_NAMES = tuple(_spec(name) for name in SIZES)


def parse(name: str) -> BackboneSpec | None:
    """The spec of `beit3-base-224`, `beit3-large-224` and `beit3:local-dir:FOLDER`; None for any other name.

    Raises:
        NotFoundError: The folder is not there, or has no configuration.
    """
    plain = name.removesuffix("-224")
    if name != plain and plain in SIZES and SIZES[plain].image_size == 224:
        return _spec(plain)
    return spec_of_folder(name, FAMILY, TOKENIZER)


def config_of(spec: BackboneSpec) -> Beit3Config:
    """The sizes of a model: of its name, or from its folder.

    Raises:
        IncompatibleError: The folder's configuration is not one.
    """
    folder = folder_of(spec)
    return SIZES[spec.model] if folder is None else load_config(folder, Beit3Config, "BEiT-3")
