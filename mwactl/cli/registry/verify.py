"""`mwactl registry verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import counted
from mwactl.errors import VerificationError

if TYPE_CHECKING:
    from mwactl.registry.fault import Fault
    from mwactl.registry.verify import Verification


def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REF]…",
            help="coco-mwa (all of that name), coco-mwa@3, …; default: everything.",
            autocompletion=complete_reference,
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move rotten blobs to quarantine/, and heal what the rest can witness.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every version, alias, tag, file and result against its digest, offline; a line for each fault."""
    from mwactl.registry import Registry
    from mwactl.registry.verify import repair as repair_faults
    from mwactl.registry.verify import verify as look

    start = time.monotonic()
    registry = Registry.default(reporter=out)
    result = look(registry, references or ())
    if repair and result.faults:
        result = repair_faults(registry, result)
    seconds = time.monotonic() - start
    out.answer(
        _document(registry.root, result, seconds),
        human=lambda: _print(registry.root, result, seconds),
        identifier="\n".join(fault.file.relative_to(registry.root).as_posix() for fault in result.faults),
    )
    if result.faults:
        fix = result.faults[0].repair if repair else "mwactl registry verify --repair   (what it cannot heal, it says)"
        raise VerificationError(counted(len(result.faults), "fault"), where=str(registry.root), fix=fix)
    out.hint("mwactl registry gc")


def _document(root: Path, result: Verification, seconds: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "registry": str(root),
        "versions": result.versions,
        "blobs": len(result.blobs),
        "size_bytes": result.size_bytes,
        "seconds": round(seconds, 3),
        "faults": [fault.as_dict(root) for fault in result.faults],
        "healed": [fault.as_dict(root) for fault in result.healed],
    }


def _print(root: Path, result: Verification, seconds: float) -> None:
    counts = f"{counted(result.versions, 'version')}, {counted(len(result.blobs), 'blob')}"
    out.text(f"{counts}, {size(result.size_bytes)} in {seconds:.1f} s")
    for fault in result.healed:
        out.text(f"healed  {fault.what}  {fault.file.relative_to(root).as_posix()}")
    for fault in result.faults:
        print_fault(fault, root)


def print_fault(fault: Fault, root: Path) -> None:
    """One line: whose file, the file, what was expected and found, and the command."""
    file = fault.file.relative_to(root).as_posix()
    out.text(f"{fault.what}  {file}  expected {fault.expected}, found {fault.found}   repair: {fault.repair}")
