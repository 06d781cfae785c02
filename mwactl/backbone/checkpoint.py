"""Reading weights files: safetensors mapped into memory, torch files turned into safetensors once.

A torch file is a pickle. It is read with torch's restricted unpickler, which runs no code. Beside tensors and plain
containers only `argparse.Namespace` and the names in `_LEFT_OUT` may occur in it, and of the latter nothing is read.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mwactl.backbone.digests import known_sha256, record_sha256, recorded_sha256
from mwactl.backbone.safetensors_bytes import DTYPE_NAMES, SafetensorsBytes
from mwactl.errors import NotFoundError, VerificationError
from mwactl.files import atomic_file
from mwactl.home import cache_path

CONTAINERS = ("model", "module", "state_dict")
#: Paths and numbers of numpy among the options of a training run. The classes themselves are not let in: they run code
#: of other libraries on what the file says.
_LEFT_OUT = [
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
]
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, LookupError, ValueError, AttributeError, TypeError, OSError,
)  # fmt: skip
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class LeftOut:
    """What stands in a torch file's document for a value that weights have no use for; it keeps nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "a value that is not read"


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file.

    Args:
        state: The tensors by name, floating ones in fp32; mapped from a file and not copied into memory, but for what a
            `.safetensors` file holds in another precision.
        sha256: The digest of the file they came from.
    """

    state: dict[str, Tensor]
    sha256: str


def read_checkpoint(
    path: Path, *, containers: Sequence[str] = CONTAINERS, strip: Sequence[str] = ("module.",)
) -> Checkpoint:
    """Read a `.safetensors` file, or any other as a torch file.

    A torch file is converted to fp32 once, into the cache; from then on the conversion is what is read. The tensors
    of the first reading are mapped from it as well, so that every reading gives the same memory layout.

    Args:
        path: The file.
        containers: Where a torch file may keep its weights, in the order to look; one without any of these keys
            is itself the state dict.
        strip: Prefixes to take off the names, each only where all names carry it, in this order: usually that of
            models trained in torch's DistributedDataParallel.

    Raises:
        NotFoundError: There is no such file.
        VerificationError: It is truncated, holds no weights, or is a pickle that wants to run code.
        ResourceError: The file cannot be read, or there is no space for the conversion.
    """
    if not path.is_file():
        raise NotFoundError(
            "no weights file here",
            where=str(path),
            why="it is a folder" if path.is_dir() else None,
            fix="name a file that exists",
        )
    digest = known_sha256(path)
    if path.suffix == ".safetensors":
        state = map_safetensors(path)
    else:
        converted = cache_path() / "weights" / f"{digest}.{'+'.join(containers)}.safetensors"
        if not _is_as_written(converted):
            _convert(path, converted, containers)
        state = map_safetensors(converted)
    return Checkpoint(_stripped({name: _as_fp32(tensor) for name, tensor in state.items()}, strip), digest)


def read_torch_file(path: Path) -> Any:
    """All that a torch file holds, on the CPU, its tensors mapped where they can be.

    Raises:
        VerificationError: It is truncated, or a pickle that wants to run code.
    """
    allowed: list[Any] = [argparse.Namespace, *((LeftOut, name) for name in _LEFT_OUT)]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        if (wanted := _GLOBAL.search(str(error))) is not None:
            raise VerificationError(
                "this file wants to run code; nothing of it was run",
                where=str(path),
                why=f"beside tensors its pickle names {wanted.group(1)}",
                fix="only if you trust its source: load it with torch yourself and save its weights as .safetensors",
            ) from None
        raise VerificationError(
            "not a complete torch checkpoint",
            where=str(path),
            why=_why_unreadable(path, error),
            fix="fetch or copy the file again",
        ) from None


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Keep tensors as a safetensors file, the floating ones in fp32: complete or not at all, its digest beside it.

    Raises:
        ResourceError: The disk is full.
    """
    with atomic_file(path) as file:
        _write_safetensors(file, state)
    record_sha256(path, known_sha256(path))


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped privately: writing to one changes memory and not the file.

    Raises:
        VerificationError: It is truncated, or no such file.
    """
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise VerificationError(
            "not a complete safetensors file", where=str(path), why=str(error), fix="fetch or copy the file again"
        ) from error


def _is_as_written(converted: Path) -> bool:
    try:
        return converted.is_file() and recorded_sha256(converted) == known_sha256(converted)
    except VerificationError:
        return False


def _convert(path: Path, converted: Path, containers: Sequence[str]) -> None:
    write_weights(converted, _weights_in(read_torch_file(path), containers, path))


def _why_unreadable(path: Path, error: Exception) -> str:
    """The reason in our words; torch's are advice to read the file without any protection."""
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and not start.startswith(pickle.PROTO):
        return "it is neither a zip archive nor a pickle" if start else "it is empty"
    kind = "zip archive" if start == b"PK" else "pickle"
    if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
        return f"it is a {kind}, but not one of weights"
    return f"it is a {kind} that is cut off or damaged"


def _weights_in(document: Any, containers: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The state dict of what a torch file holds, with nothing in it but plain tensors."""
    container = None
    if isinstance(document, Mapping):
        container = next((name for name in containers if name in document), None)
    state = document if container is None else document[container]
    problem = _why_no_state(state)
    if problem is not None:
        where_in_file = f"`{container}`" if container else f"there is no {', '.join(containers)} in it, and the file"
        raise VerificationError(
            "no weights in this file",
            where=str(path),
            why=f"{where_in_file} {problem}",
            fix=f"name a file that holds tensors by name, or has them under one of {', '.join(containers)}",
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def _why_no_state(state: Any) -> str | None:
    """What keeps a value from being a state dict, as the end of a sentence."""
    if not isinstance(state, Mapping):
        return f"is a {type(state).__name__}, not a table of tensors"
    if not state:
        return "is empty"
    found = [f"{name} ({kind})" for name, value in state.items() if (kind := _kind(name, value)) is not None]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"holds what is no plain tensor: {', '.join(found[:3])}{more}" if found else None


def _kind(name: Any, value: Any) -> str | None:
    """What an entry is, if it is no tensor that can be used."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if not isinstance(name, str):
        return "under a name that is no text"
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if plain and (value.is_floating_point() or value.dtype in DTYPE_NAMES):
        return None
    return f"{value.layout} {value.dtype} on {value.device}".replace("torch.", "")


def _as_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _stripped(state: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _write_safetensors(file: IO[bytes], state: Mapping[str, Tensor]) -> None:
    for chunk in SafetensorsBytes(state).chunks():
        file.write(chunk)
