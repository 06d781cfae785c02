"""Run an exported retrieval model: pictures and captions to embeddings, with onnxruntime and without torch.

This file is the whole runtime. Every bundle holds a copy of it as `runtime.py`, to be used where nothing else of the
toolkit is installed (`pip install -r requirements.txt` in the bundle's folder is enough):

    from runtime import load

    model = load(".")
    scores = model.encode_texts(["a dog on a beach"]) @ model.encode_images(["dog.jpg"]).T

Shape notation: n pictures or captions, b those of one batch, h and w pixels, s tokens, e the shared space.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import html
import importlib
import io
import json
import math
import string
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

T = TypeVar("T")
Embeddings = NDArray[np.float32]
Picture = Image.Image | NDArray[np.uint8] | Path | str | bytes
Facts = Mapping[str, Any]

KIND, SCHEMA = "mwactl-bundle", 1
FACTS: dict[str, Any] = {
    "identity": str, "preprocess": str, "embedding_width": int, "dtype": str, "model.reference": str,
    "tolerance.max_abs": (int, float), "tolerance.min_cosine": (int, float), "files": dict,
}  # fmt: skip
"""What this runtime reads of a manifest, and of which type it is; `a.b` is `b` of `a`."""
FILES = ("image.onnx", "text.onnx", "preprocess.json", "golden.npz")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
MAX_PIXELS = 200_000_000
"""Pictures with more pixels are refused before they are decoded. Pillow's own error limit, twice
`PIL.Image.MAX_IMAGE_PIXELS` (179 million unless changed), holds as well: the smaller of the two decides."""


class BundleError(Exception):
    """The bundle is damaged, or does not compute what it computed when it was exported."""


class NoBundleError(BundleError):
    """There is no bundle in this folder."""


class UnsupportedBundleError(BundleError):
    """The bundle was made for another version of this runtime."""


class MissingPackageError(BundleError, ImportError):
    """A package of the bundle's requirements is not installed."""


class DeviceError(Exception):
    """The device that was asked for cannot compute."""


class PictureError(ValueError):
    """A picture cannot be read: `where` it is, and `why` not."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"cannot read the picture {where}: {why}")
        self.where, self.why = where, why


# -- pictures: any file becomes RGB as a person sees it, and then the model's pixels ---------------------------------

# What Pillow's decoders raise on damaged files, beside OSError.
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, RuntimeError,
    MemoryError, struct.error, Image.DecompressionBombError,
    Warning,  # where warnings are errors: of damaged metadata, or of more pixels than usual
)  # fmt: skip


def open_picture(picture: Picture | IO[bytes], where: str | None = None) -> Image.Image:
    """A picture (its file, its bytes, opened by Pillow, or uint8 [h, w, 3]) as a person sees it, mode RGB.

    The EXIF orientation is applied. Transparency is put on white. Of an animation the first frame is taken. 16-bit
    greys are scaled to 8 bits. Colour profiles are not applied, as in all retrieval benchmarks.

    Args:
        picture: What to open; a picture that Pillow has opened is not changed.
        where: What an error calls it; by default its path.

    Raises:
        PictureError: There is no such file, it is no picture, it is damaged, it has too many pixels, or its values
            have no defined range (floats), or it is an array of another kind.
    """
    path = Path(picture) if isinstance(picture, str | Path) else None
    where = where or _name(picture)
    if path is not None and not path.is_file():
        raise PictureError(where, "no such file")
    try:
        if isinstance(picture, Image.Image):
            return _as_seen(picture.copy(), picture.format)
        if isinstance(picture, np.ndarray):
            return _from_array(picture)
        with path.open("rb") if path else _as_file(picture) as file:
            return _decoded(file, where)
    except _DECODING_ERRORS as error:
        if isinstance(error, PictureError):
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise PictureError(where, why) from error


def _name(picture: Any) -> str:
    return str(
        picture if isinstance(picture, str | Path) else getattr(picture, "filename", "") or type(picture).__name__
    )


def _as_file(picture: Any) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not isinstance(picture, bytes) and not hasattr(picture, "read"):
        raise TypeError("not a picture; give its path, its bytes, an opened picture, or uint8 [h, w, 3]")
    return io.BytesIO(picture) if isinstance(picture, bytes) else contextlib.nullcontext(picture)


def _from_array(picture: NDArray[Any]) -> Image.Image:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"an array of {picture.dtype} {list(picture.shape)}; it must be uint8 [h, w, 3], RGB")
    return Image.fromarray(picture)


def _decoded(file: IO[bytes], where: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width:,} × {image.height:,} pixels"
                raise PictureError(where, f"{size}; at most {MAX_PIXELS:,} are allowed")
            image.load()
            return _as_seen(image, image.format)
    except UnidentifiedImageError as error:
        empty = file.seek(0, io.SEEK_END) == 0
        raise PictureError(where, "the file is empty" if empty else "not a picture of a known format") from error


def _as_seen(image: Image.Image, file_format: str | None) -> Image.Image:
    """Upright and in RGB, whatever the mode; the picture itself is changed."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return _from_16_bit(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} of {file_format} has no defined range of values; convert it to 8 bits")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8 bits: 65535 becomes 255. (Pillow's own conversion clips at 255.)"""
    values = np.asarray(image).astype(np.uint32)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535  # on white
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


class PictureTransform:
    """From RGB to the model's pixels: resized by Pillow, cut or filled to the size, normalised; to the bit as trained.

    Args:
        facts: `image` of preprocess.json.
    """

    def __init__(self, facts: Facts) -> None:
        self.height, self.width = facts["size"]
        self._resize = _known({mode: mode for mode in ("squash", "shortest", "longest")}, facts["resize"], "resize")
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        self._filter = _known(filters, facts["interpolation"], "interpolation")
        self._fill = (facts["fill"],) * 3
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, self.std = (np.asarray(facts[name], np.float32)[:, None] for name in ("mean", "std"))
        self._normalised = (levels - mean) / self.std  # [3, 256]: a value for each level of each channel

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture -> [3, h, w].

        Raises:
            ValueError: Its sides are so unequal that nothing would be left of one.
        """
        width, height = self._resized(*image.size)
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"its sides, {image.width:,} × {image.height:,}, are too unequal to be resized")
        image = self._cropped(image.resize((width, height), self._filter))
        levels = np.asarray(image)  # [h, w, 3]
        return np.stack([table[levels[:, :, channel]] for channel, table in enumerate(self._normalised)])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to resize to: all but `squash` keep the aspect, and cover the size or lie within it."""
        if self._resize == "squash":
            return self.width, self.height
        if self._resize == "shortest" and self.width == self.height:
            short = min(width, height)  # what becomes the side of a square; the other side is cut, not rounded
            return int(self.width * width / short), int(self.width * height / short)
        ratio = (min if self._resize == "shortest" else max)(width / self.width, height / self.height)
        return round(width / ratio), round(height / ratio)

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The middle, after filling up what is too small."""
        lack_x, lack_y = max(self.width - image.width, 0), max(self.height - image.height, 0)
        if lack_x or lack_y:
            image = ImageOps.expand(image, (lack_x // 2, lack_y // 2, (lack_x + 1) // 2, (lack_y + 1) // 2), self._fill)
        left, top = round((image.width - self.width) / 2), round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


# -- captions ------------------------------------------------------------------------------------------------------


class CaptionTokenizer:
    """From captions to the model's token ids.

    Args:
        facts: `text` of preprocess.json.
        content: The tokenizer's file.
    """

    def __init__(self, facts: Facts, content: bytes) -> None:
        self._facts = facts
        self._clean = [_known(_CLEANING, step, "cleaning step")() for step in facts["clean"]]
        self._encode = _known(_LIBRARIES, facts["library"], "tokenizer library")(facts, content)

    def __call__(self, captions: Sequence[str]) -> NDArray[np.int64]:
        """Captions -> [b, s]; columns that are padding in every row are cut where the model allows it."""
        tokens = self.padded([self._row(caption) for caption in captions])
        used = np.flatnonzero((tokens != self._facts["padding"]).any(axis=0))
        return np.ascontiguousarray(tokens[:, : used[-1] + 1]) if self._facts["trim"] and len(used) else tokens

    def padded(self, rows: Iterable[Sequence[int]]) -> NDArray[np.int64]:
        """Ids of captions, filled up on the right: [b, length]."""
        rows = list(rows)
        tokens = np.full((len(rows), self._facts["length"]), self._facts["padding"], np.int64)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return tokens

    def _row(self, caption: str) -> list[int]:
        for step in self._clean:
            caption = step(caption)
        ids = self._encode(caption)
        if self._facts["begin"] is None:  # the library itself frames, cuts and fills
            return ids
        return [self._facts["begin"], *ids[: self._facts["length"] - 2], self._facts["end"]]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"this bundle needs the package `{name}`; pip install -r requirements.txt") from error


_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))
_CLEANING: dict[str, Callable[[], Callable[[str], str]]] = {
    "ftfy": lambda: _package("ftfy").fix_text,
    "unescape": lambda: lambda text: html.unescape(html.unescape(text)),
    "strip": lambda: str.strip,
    "whitespace": lambda: lambda text: " ".join(text.split()),
    "punctuation": lambda: lambda text: text.translate(_PUNCTUATION),
    "lower": lambda: str.lower,
}


def _byte_pairs(facts: Facts, content: bytes) -> Callable[[str], list[int]]:
    """CLIP's byte-pair encoding: words by a pattern, bytes as letters, the pair that was merged first is merged first.

    `content` holds a merge a line. The vocabulary: the letters, the letters that end a word, the merges, the specials.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = dict(zip([*printable, *others], map(chr, [*printable, *range(256, 256 + len(others))]), strict=True))
    merges = [tuple(line.split(" ")) for line in content.decode("utf-8").split("\n")]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ends = [f"{letter}</w>" for letter in letters.values()]
    specials = facts["special"]
    ids = {piece: id for id, piece in enumerate([*letters.values(), *ends, *map("".join, merges), *specials])}
    regex = _package("regex")
    words = regex.compile(facts["pattern"], regex.IGNORECASE)

    @lru_cache(maxsize=1 << 16)
    def word_ids(word: str) -> list[int]:
        if word in specials:
            return [ids[word]]
        pieces = [letters[byte] for byte in word.encode("utf-8")]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, math.inf))
            if best not in ranks:
                break
            pieces = _merged(pieces, best)
        return [ids[piece] for piece in pieces]

    return lambda text: [id for word in words.findall(text) for id in word_ids(word)]


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of the pair joined, from the left."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _sentencepiece(facts: Facts, content: bytes) -> Callable[[str], list[int]]:
    """SentencePiece's ids, moved by an offset, but for the unknown piece."""
    pieces = _package("sentencepiece").SentencePieceProcessor()
    pieces.LoadFromSerializedProto(content)
    unknown, unknown_id = facts["unknown"]
    offset = facts["offset"]
    return lambda text: [unknown_id if piece == unknown else piece + offset for piece in pieces.encode(text)]


def _tokenizers(facts: Facts, content: bytes) -> Callable[[str], list[int]]:
    """Hugging Face's tokenizers; `replace` maps ids to others afterwards."""
    tokenizer = _package("tokenizers").Tokenizer.from_str(content.decode("utf-8"))
    replace = dict(facts["replace"])
    return lambda text: [replace.get(id, id) for id in tokenizer.encode(text).ids]


_LIBRARIES = {"bpe": _byte_pairs, "sentencepiece": _sentencepiece, "tokenizers": _tokenizers}


def _known(choices: Mapping[str, T], name: str, what: str) -> T:
    if name not in choices:
        raise UnsupportedBundleError(f"this runtime knows no {what} `{name}`; the bundle was made by a newer version")
    return choices[name]


# -- the model -----------------------------------------------------------------------------------------------------


def is_bundle(path: Path | str) -> bool:
    """Whether this folder is a bundle, damaged or not."""
    try:
        manifest = json.loads((Path(path) / "manifest.json").read_bytes())
    except OSError:
        return False
    except ValueError:
        return (Path(path) / "text.onnx").is_file()
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def load(
    bundle: Path | str, *, device: str = "auto", threads: int | None = None, check_files: bool = True
) -> RetrievalModel:
    """Open a bundle.

    Args:
        bundle: Its folder.
        device: `cpu`, `cuda`, `tensorrt`, or `auto`: CUDA where it works, otherwise the CPU.
        threads: How many threads compute on the CPU; by default onnxruntime decides.
        check_files: Compare every file with its digest first.

    Raises:
        NoBundleError: There is none.
        BundleError: A file is absent or damaged.
        UnsupportedBundleError: It is of a newer version.
        MissingPackageError: A package it needs is not installed.
        DeviceError: No such device.
    """
    folder = Path(bundle)
    manifest = _manifest(folder)
    for name in manifest["files"] if check_files else ():
        _check_file(folder, name, manifest["files"][name])
    return RetrievalModel(folder, manifest, device=device, threads=threads)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        why = "it has no manifest.json" if folder.is_dir() else "there is no such folder"
        raise NoBundleError(f"no bundle in {folder}: {why}")
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["kind"] != KIND:
            raise NoBundleError(f"no bundle in {folder}: its manifest.json is of another kind")
        if manifest["schema"] != SCHEMA:
            raise UnsupportedBundleError(f"{path} is of schema {manifest['schema']}; this runtime knows {SCHEMA}")
        lacking = [name for name, kind in FACTS.items() if not isinstance(_fact(manifest, name), kind)]
        lacking += [name for name in FILES if name not in manifest.get("files", ())]
        if lacking:
            raise ValueError(f"without {', '.join(lacking)}")
        if unnamed := [name for name, file in manifest["files"].items() if not isinstance(file["sha256"], str)]:
            raise ValueError(f"no digest of {', '.join(unnamed)}")
        if manifest["files"]["preprocess.json"]["sha256"] != manifest["preprocess"]:
            raise ValueError("two digests of preprocess.json")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error
    return manifest  # type: ignore[no-any-return]


def _fact(manifest: Facts, name: str) -> Any:
    """A fact by its path, `tolerance.max_abs`; None: it is not there."""
    found: Any = manifest
    for step in name.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _check_file(folder: Path, name: str, expected: Facts) -> None:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise BundleError(f"there is no {path}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected["sha256"]:
        raise BundleError(
            f"{path} is damaged: its SHA-256 is {digest.hexdigest()[:12]}…, not {expected['sha256'][:12]}…"
        )


class RetrievalModel:
    """An exported model; made by `load`.

    Args:
        folder: The bundle.
        manifest: Its content, checked.
        device: As `load` takes it.
        threads: As `load` takes it.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], *, device: str, threads: int | None) -> None:
        if device not in ("auto", *PROVIDERS):
            raise DeviceError(f"no device `{device}`; there are auto, {', '.join(PROVIDERS)}")
        self.folder, self.manifest, self.device = folder, manifest, device
        self.identity: str = manifest["identity"]
        self.preprocess_digest: str = manifest["preprocess"]
        self.width: int = manifest["embedding_width"]
        try:
            preprocess = json.loads((folder / "preprocess.json").read_bytes())
            self._transform = PictureTransform(preprocess["image"])
            tokenizer = preprocess["text"]["file"]
            if tokenizer not in manifest["files"]:
                raise ValueError(f"{tokenizer} is not in manifest.json")
            self._tokenizer = CaptionTokenizer(preprocess["text"], (folder / tokenizer).read_bytes())
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BundleError(f"{folder / 'preprocess.json'} cannot be used: {error}") from error
        self._threads = threads or 0
        self._sessions: dict[str, Any] = {}
        self._opening = threading.Lock()

    def encode_images(self, images: Sequence[Picture], batch_size: int = 32) -> Embeddings:
        """Pictures (files, their bytes, opened, or uint8 [h, w, 3]) -> [n, e], rows of length one.

        Raises:
            PictureError: One cannot be read.
        """
        return self._in_batches("image", self.pixels, images, range(len(images)), batch_size)

    def encode_texts(self, captions: Sequence[str], batch_size: int = 256) -> Embeddings:
        """Captions -> [n, e], rows of length one."""
        # In order of length, so that short captions are not computed at the length of a long neighbour.
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        return self._in_batches("text", self.tokens, captions, order, batch_size)

    def pixels(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Pictures -> what the image tower takes, [b, 3, h, w].

        Raises:
            PictureError: One cannot be read.
        """
        rows = np.empty((len(images), 3, self._transform.height, self._transform.width), np.float32)
        for row, picture in zip(rows, images, strict=True):
            image = open_picture(picture)
            try:
                row[:] = self._transform(image)
            except ValueError as error:
                raise PictureError(_name(picture), str(error)) from error
        return rows

    def tokens(self, captions: Sequence[str]) -> NDArray[np.int64]:
        """Captions -> what the text tower takes, [b, s]."""
        return self._tokenizer(captions)

    @property
    def providers(self) -> dict[str, list[str]]:
        """The execution providers that compute each tower, the first one first."""
        return {tower: self._session(tower).get_providers() for tower in ("image", "text")}

    def verify(self) -> dict[str, Any]:
        """Compute again what torch computed when the bundle was exported.

        Token ids must be equal; pixels too, but for one level of 255 where another version of Pillow resizes;
        embeddings within the manifest's tolerance, and so the same in batches of 1, 2 and 5.

        Returns:
            How far apart: `pixels` in levels of 255, each other in `max_abs` and `min_cosine`.

        Raises:
            BundleError: Too far.
        """
        with np.load(self.folder / "golden.npz", allow_pickle=False) as file:
            golden = dict(file)
        picture, captions = Image.fromarray(golden["picture"]), golden["captions"].tolist()
        images, texts = golden["image_embeddings"], golden["text_embeddings"]
        ids, expected_ids = (self._tokenizer.padded(ids) for ids in (self.tokens(captions), golden["tokens"]))
        if not np.array_equal(ids, expected_ids):
            raise BundleError("the captions' token ids are not those of the export; compare the tokenizer's version")
        report = {
            "pixels": self._compare_pixels(self.pixels([picture]), golden["pixels"]),
            "image": self._compare("image", self._embed("image", golden["pixels"]), images),
            "text": self._compare("text", self._embed("text", golden["tokens"]), texts),
            "text, padding cut": self._compare("text", self.encode_texts(captions, 1), texts),
        }
        pictures = [picture, *map(picture.transpose, list(Image.Transpose)[:4])]
        captions = [*captions, "", " ".join(captions * 20)]
        images, texts = self.encode_images(pictures, 1), self.encode_texts(captions, 1)
        for size in (2, 5):
            for tower, found, alone in (
                ("image", self.encode_images(pictures, size), images),
                ("text", self.encode_texts(captions, size), texts),
            ):
                report[f"{tower} in batches of {size}"] = self._compare(tower, found, alone, slack=2)
        return report

    def _compare(self, what: str, found: Embeddings, expected: Embeddings, slack: int = 1) -> dict[str, float]:
        """How far rows [n, e] are apart; `slack` 2 where both may be as far from the truth as is tolerated.

        Raises:
            BundleError: Further than the manifest tolerates.
        """
        max_abs, min_cosine = self.manifest["tolerance"]["max_abs"], self.manifest["tolerance"]["min_cosine"]
        cosine = min(1.0, float((found * expected).sum(1).min()))
        apart = {"max_abs": float(np.abs(found - expected).max()), "min_cosine": cosine}
        within = apart["max_abs"] <= slack * max_abs and apart["min_cosine"] >= 1 - slack**2 * (1 - min_cosine)
        if not within:  # so that what is no number is not within either
            raise BundleError(
                f"the {what} embeddings are not those of the export: up to {apart['max_abs']:.1e} apart, "
                f"cosine {apart['min_cosine']:.6f}; tolerated are {max_abs:.1e} and {min_cosine:.6f}"
            )
        return apart

    def _compare_pixels(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
        """How many levels of 255 the pixels [1, 3, h, w] are apart."""
        levels = np.abs(found - expected) * 255 * self._transform.std[None, :, :, None]
        if not levels.max() <= 1.01:
            raise BundleError(f"the pixels are not those of the export: up to {levels.max():.1f} levels of 255 apart")
        return {"max_levels": float(levels.max())}

    def _in_batches(
        self,
        tower: str,
        prepare: Callable[[list[T]], NDArray[Any]],
        items: Sequence[T],
        order: Sequence[int],
        size: int,
    ) -> Embeddings:
        if isinstance(items, str | bytes) or size < 1:
            raise ValueError("a list is embedded, not one picture or caption" if size > 0 else f"batches of {size}")
        rows = np.empty((len(items), self.width), np.float32)
        for start in range(0, len(order), size):
            batch = list(order[start : start + size])
            rows[batch] = self._embed(tower, prepare([items[index] for index in batch]))
        return rows

    def _embed(self, tower: str, batch: NDArray[Any]) -> Embeddings:
        """Pixels [b, 3, h, w] or tokens [b, s] -> [b, e], rows of length one."""
        name = {"image": "pixels", "text": "tokens"}[tower]
        rows: Embeddings = self._session(tower).run(["embeddings"], {name: batch})[0]
        lengths: Embeddings = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise BundleError(f"{tower}.onnx gives embeddings that are not numbers, or zero")
        return rows / lengths

    def _session(self, tower: str) -> Any:
        """The tower's onnxruntime session; opened when it is first needed.

        Raises:
            DeviceError: The device cannot compute.
            BundleError: The graph belongs to another bundle, or the manifest is not the one of the export.
        """
        with self._opening:
            if tower not in self._sessions:
                session = _open_session(self.folder / f"{tower}.onnx", self.device, self._threads)
                self._check_facts(tower, session.get_modelmeta().custom_metadata_map.get("mwactl", "{}"))
                self._sessions[tower] = session
            return self._sessions[tower]

    def _check_facts(self, tower: str, told: str) -> None:
        """The manifest, all but its list of files, is what the graph says of itself.

        Raises:
            BundleError: A fact is another, or stands in one of them alone.
        """
        try:
            facts = dict(json.loads(told))
        except (ValueError, TypeError):
            facts = {}
        manifest = {name: fact for name, fact in self.manifest.items() if name != "files"}
        both = [name for name in manifest if name in facts and facts[name] == manifest[name]]
        if differing := sorted((manifest.keys() | facts.keys()) - set(both)):
            raise BundleError(
                f"{tower}.onnx belongs to another bundle, or manifest.json was changed: "
                f"they differ in {', '.join(differing)}"
            )


def _open_session(path: Path, device: str, threads: int) -> Any:
    """An onnxruntime session on the device, and on no other.

    Raises:
        DeviceError: The device cannot compute.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: onnxruntime's choice, a thread a core
    options.log_severity_level = 3
    available = runtime.get_available_providers()
    wanted = PROVIDERS["cuda" if device == "auto" else device]
    if device == "auto" and not _has_driver():  # onnxruntime would try, and print that it cannot
        available = [PROVIDERS["cpu"]]
    if wanted not in available and device != "auto":
        raise DeviceError(f"device {device}: this onnxruntime has no {wanted}, only {', '.join(available)}")
    # Each falls back on the next for what it cannot compute; TF32 would round fp32 products to 10 bits.
    fallbacks = [(PROVIDERS["cuda"], {"use_tf32": "0"}), PROVIDERS["cpu"]]
    providers = {"cpu": fallbacks[1:], "tensorrt": [PROVIDERS["tensorrt"], *fallbacks]}.get(device, fallbacks)
    if wanted not in available:
        providers = [PROVIDERS["cpu"]]
    if PROVIDERS["cuda"] in available and device != "cpu" and hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it tries; what comes of it is checked below
            runtime.preload_dlls()  # the CUDA libraries that pip has installed
    try:
        session = runtime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's have no common base
        raise BundleError(f"onnxruntime {runtime.__version__} cannot open {path}: {error}") from error
    session.disable_fallback()  # on the CPU, silently, where a device fails later
    found = session.get_providers()[0]
    if device != "auto" and found != wanted:
        raise DeviceError(
            f"device {device}: {wanted} cannot run here, {found} would; are its driver and libraries here?"
        )
    return session


def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed, without which no onnxruntime computes on a GPU."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
