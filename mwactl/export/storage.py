"""Graphs as files: one where that is possible, weights beside it where not, and facts that are added to it later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx

from mwactl.files import naming_write_errors

#: A protobuf message ends at 2 GiB; graphs with larger weights keep them in a file beside.
LARGEST_BYTES = 1_800_000_000
#: Tensors below this stay in the graph: shapes must be there to be understood.
_SMALL_BYTES = 1024


def save(model: onnx.ModelProto, path: Path, *, largest_bytes: int = LARGEST_BYTES) -> None:
    """Write a graph to a file that is not there yet; large weights go to `PATH.data`.

    Raises:
        ResourceError: The disk is full.
    """
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    with naming_write_errors(path):
        if weights <= largest_bytes:
            path.write_bytes(model.SerializeToString(deterministic=True))
        else:
            onnx.save_model(
                model, str(path), save_as_external_data=True, all_tensors_to_one_file=True,
                location=weights_file(path).name, size_threshold=_SMALL_BYTES,
            )  # fmt: skip


def weights_file(path: Path) -> Path:
    """Where a graph's weights lie if they are not in it."""
    return path.with_name(f"{path.name}.data")


def size_bytes(path: Path) -> int:
    """A graph's size with its weights."""
    beside = weights_file(path)
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def copy_with_facts(source: Path, target: Path, facts: Mapping[str, str]) -> None:
    """Copy a graph that has no facts yet and write some into the copy's metadata.

    Nothing is parsed: of two protobuf messages in a row the repeated fields are joined, so the facts are appended.

    Raises:
        ResourceError: The disk is full.
    """
    metadata = onnx.ModelProto()
    for key, value in facts.items():
        metadata.metadata_props.add(key=key, value=value)
    with naming_write_errors(target):
        shutil.copyfile(source, target)
        with target.open("ab") as file:
            file.write(metadata.SerializeToString(deterministic=True))
        if (beside := weights_file(source)).exists():
            # The graph calls its weights by the name they have: both copies must keep it.
            shutil.copyfile(beside, target.with_name(beside.name))
