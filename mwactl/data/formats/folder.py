"""A folder of pictures, each with a text file of the same name beside it: `cat.jpg`, `cat.txt` (a caption a line).

Sub-folders `train`, `val` (or `dev`) and `test` are the splits; without any of them everything is one split, `all`.
Pictures may lie deeper; the order is that of their paths. Hidden files and files of other kinds are ignored.
"""

from __future__ import annotations

from pathlib import Path

from mwactl.data.formats.rows import WHOLE, Row, RowCollector
from mwactl.data.formats.text import read_text
from mwactl.data.walk import visible_files
from mwactl.errors import NotFoundError, UsageError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_SPLITS = {"train": "train", "val": "val", "dev": "val", "test": "test"}


def read_folder(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of a folder (see `Reader`)."""
    if annotations is not None:
        raise UsageError("the format 'folder' has no annotation file", fix="leave out --annotations")
    if not images.is_dir():
        raise NotFoundError("no such picture folder", where=str(images), fix="check --images")
    collector = RowCollector(images, images, absolute=False)
    splits = {name: split for name, split in _SPLITS.items() if (images / name).is_dir()}
    if "dev" in splits and "val" in splits:
        collector.problem("dev/, val/", "both mean the split val; only one of them can be there")
    files = sorted(visible_files(images))
    sidecars: dict[Path, list[Path]] = {path: [] for path in files if path.suffix == ".txt"}
    for path in files:
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        name, top = path.relative_to(images), path.relative_to(images).parts[0]
        sidecar = path.with_suffix(".txt")
        if splits and top not in splits:
            collector.problem(str(name), "a picture outside of the split folders")
        elif sidecar not in sidecars:
            collector.problem(str(name), f"picture without caption (no {sidecar.name} beside it)")
        else:
            sidecars[sidecar].append(path)
            _add_captions(collector, images, path, splits.get(top, WHOLE))
    for sidecar, pictures in sidecars.items():
        if len(pictures) > 1:
            names = ", ".join(picture.name for picture in pictures)
            collector.problem(str(sidecar.relative_to(images)), f"captions of several pictures at once ({names})")
        elif not pictures and (not splits or sidecar.relative_to(images).parts[0] in splits):
            collector.problem(str(sidecar.relative_to(images)), "captions without a picture beside them")
    return collector.rows()


def _add_captions(collector: RowCollector, images: Path, path: Path, split: str) -> None:
    """Take a picture's rows from the text file beside it; blank lines at its end are no captions."""
    name, sidecar = path.relative_to(images), path.with_suffix(".txt")
    captions = read_text(sidecar).rstrip().split("\n")
    for line, caption in enumerate(captions, start=1):
        where = f"{sidecar.relative_to(images)}:{line}"
        collector.add(where, split=split, image=str(name), caption=caption.rstrip("\r"))
