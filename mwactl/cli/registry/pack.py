"""`mwactl registry pack`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet, SomeReferences
from mwactl.cli.output import Column, out, size

if TYPE_CHECKING:
    from mwactl.registry.bundle import Packing


def pack(
    references: SomeReferences,
    file: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The bundle to write, such as coco.tar.")],
    with_parents: Annotated[
        bool,
        typer.Option("--with-parents", help="Also the adapters that these were made from, as far as they are here."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pack adapters into one file, with their evaluations, to unpack them in another registry.

    The file is a tar of an OCI image layout. It holds the fingerprints of the backbones, not their weights.
    """
    from mwactl.registry import Registry
    from mwactl.registry.bundle import check_target, pack, plan_packing

    packing = plan_packing(Registry.default(), references, with_parents=with_parents)
    if dry_run:
        check_target(packing, file, replace=force)
    digest = None if dry_run else pack(packing, file, replace=force, reporter=out)
    for missing in packing.missing:
        out.warn(f"an ancestor is not in this registry and not packed: sha256:{missing}")
    out.answer(
        _document(packing, file, digest, dry_run=dry_run),
        human=lambda: _print_packing(packing, file, digest),
        identifier=str(file),
    )
    if dry_run:
        flags = ["--with-parents"] * with_parents + ["--force"] * force
        out.hint(shlex.join(["mwactl", "registry", "pack", *references, "-o", str(file), *flags]))
    else:
        out.hint(f"mwactl registry unpack {shlex.quote(str(file))}   (on the other machine)")


def _document(packing: Packing, file: Path, digest: str | None, *, dry_run: bool) -> dict[str, object]:
    entries = [
        {
            "reference": entry.reference,
            "name": entry.name,
            "version": entry.version,
            "digest": entry.digest,
            "size_bytes": entry.size_bytes,
            "attachments": packing.attachments[entry.reference],
        }
        for entry in packing.entries
    ]
    return {
        "schema": 1,
        "file": str(file),
        "size_bytes": packing.size_bytes,
        "sha256": digest,
        "entries": entries,
        "missing_ancestors": list(packing.missing),
        "dry_run": dry_run,
    }


def _print_packing(packing: Packing, file: Path, digest: str | None) -> None:
    rows = [
        {
            "reference": entry.reference,
            "digest": entry.digest,
            "size_bytes": entry.size_bytes,
            "attachments": packing.attachments[entry.reference],
        }
        for entry in packing.entries
    ]
    out.table(
        rows,
        [
            Column("reference", "PACKED", keep=True),
            Column("size_bytes", "SIZE", right=True, format=size),
            Column("attachments", "ATTACHED", right=True),
            Column("digest", "DIGEST", format=lambda digest: f"sha256:{digest[:12]}"),
        ],
    )
    written = f"{file}   {size(packing.size_bytes)}"
    out.text(f"{written}   nothing written (dry run)" if digest is None else f"{written}   sha256:{digest}")
