"""An exported bundle among the toolkit's own: the same calls, and errors that say what to do next.

Shape notation: n pictures or captions, e the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwactl import runtime
from mwactl.errors import DataError, IncompatibleError, MwactlError, NotFoundError, UsageError, VerificationError
from mwactl.runtime.bundle import Picture


class BundleEncoder:
    """A bundle's model as an `Encoder`; its errors are the toolkit's.

    Args:
        model: As `mwactl.runtime.load` gives it.
    """

    def __init__(self, model: runtime.RetrievalModel) -> None:
        self.model = model
        self.identity = model.identity
        self.preprocess_digest = model.preprocess_digest
        self.width = model.width

    def encode_images(self, images: Sequence[Picture], batch_size: int = 32) -> NDArray[np.float32]:
        """Pictures (files, their bytes, or opened) -> [n, e], rows of length one.

        Raises:
            DataError: A picture cannot be read.
            UsageError: The device cannot compute.
        """
        with _toolkit_errors(self.model.folder):
            return self.model.encode_images(images, batch_size)

    def encode_texts(self, captions: Sequence[str], batch_size: int = 256) -> NDArray[np.float32]:
        """Captions -> [n, e], rows of length one.

        Raises:
            UsageError: The device cannot compute.
        """
        with _toolkit_errors(self.model.folder):
            return self.model.encode_texts(captions, batch_size)


def open_bundle(folder: Path | str, *, device: str = "auto", threads: int | None = None) -> BundleEncoder:
    """Open a bundle, every file checked against its digest.

    Args:
        folder: Where it is.
        device: `auto`, `cpu`, `cuda`, `tensorrt`.
        threads: How many compute on the CPU; None: onnxruntime decides.

    Raises:
        NotFoundError: There is none.
        VerificationError: Damaged bytes.
        IncompatibleError: It is of a newer version.
        UsageError: No such device, or a package is not installed.
    """
    with _toolkit_errors(Path(folder)):
        return BundleEncoder(runtime.load(folder, device=device, threads=threads))


def verify_bundle(folder: Path | str, *, device: str = "auto") -> dict[str, Any]:
    """Check every byte of a bundle, and that it computes here what it computed when it was exported.

    Returns:
        The JSON document of `mwactl verify`.

    Raises:
        NotFoundError, IncompatibleError, UsageError: As `open_bundle`.
        VerificationError: Damaged bytes, or embeddings beyond the tolerance.
    """
    model = open_bundle(folder, device=device).model
    with _toolkit_errors(Path(folder)):
        differences = model.verify()
        return {
            "schema": 1,
            "bundle": str(folder),
            "identity": model.identity,
            "model": model.manifest["model"],
            "files": len(model.manifest["files"]),
            "dtype": model.manifest["dtype"],
            "providers": model.providers,
            "tolerance": model.manifest["tolerance"],
            "differences": differences,
        }


@contextmanager
def picture_errors() -> Iterator[None]:
    """The runtime's error for a picture, as the toolkit's.

    Raises:
        DataError: The picture cannot be read.
    """
    try:
        yield
    except runtime.PictureError as error:
        raise DataError(
            "cannot read the picture", where=error.where, why=error.why, fix="repair or remove it"
        ) from error


@contextmanager
def _toolkit_errors(folder: Path) -> Iterator[None]:
    try:
        with picture_errors():
            yield
    except runtime.DeviceError as error:
        raise UsageError(str(error), fix="--device cpu, or --device auto") from error
    except runtime.BundleError as error:
        raise _explained(error, folder) from error


def _explained(error: runtime.BundleError, folder: Path) -> MwactlError:
    where = str(folder)
    if isinstance(error, runtime.NoBundleError):
        return NotFoundError("no bundle here", where=where, why=str(error), fix=f"mwactl export REF --onnx -o {where}")
    if isinstance(error, runtime.MissingPackageError):
        return UsageError(str(error), where=where, fix=f"pip install -r {folder / 'requirements.txt'}")
    if isinstance(error, runtime.UnsupportedBundleError):
        return IncompatibleError(str(error), where=where, fix="pip install --upgrade mwactl, or use its own runtime.py")
    return VerificationError("the bundle cannot be trusted", where=where, why=str(error), fix="export it again")
