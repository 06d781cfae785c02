"""`mwactl registry unpack`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import Column, out, size


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle that `mwactl registry pack` made.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Another name for the adapter; its ancestors keep theirs.")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Take the adapters in a bundle into the registry, once every byte of it is verified."""
    from mwactl.registry import Registry
    from mwactl.registry.bundle import plan_unpacking, unpack

    registry = Registry.default(reporter=out)
    unpacking = plan_unpacking(registry, file, name=name, reporter=out)
    rows: list[dict[str, Any]] = [
        {
            "reference": here,
            "name": given,
            "packed_as": f"{parcel.name}@{parcel.version}",
            "digest": parcel.digest,
            "size_bytes": size_bytes,
            "attachments": len(parcel.attachments),
            "was_here": here is not None,
        }
        for (given, parcel), here, size_bytes in zip(unpacking.parcels, unpacking.here, unpacking.sizes, strict=True)
    ]
    if not dry_run:
        for row, unpacked in zip(rows, unpack(registry, unpacking, reporter=out), strict=True):
            row |= {"reference": unpacked.entry.reference, "was_here": unpacked.was_here}
    out.answer(
        {"schema": 1, "file": str(file), "registry": str(registry.root), "entries": rows, "dry_run": dry_run},
        human=lambda: _print_rows(rows, dry_run=dry_run),
        identifier="\n".join(row["reference"] or row["name"] for row in rows),
    )
    if dry_run:
        flags = [] if name is None else ["--name", name]
        out.hint(shlex.join(["mwactl", "registry", "unpack", str(file), *flags]))
    else:
        out.hint(f"mwactl registry show {rows[-1]['reference']}")


def _print_rows(rows: list[dict[str, Any]], *, dry_run: bool) -> None:
    new = "to be published" if dry_run else "published"
    shown = [
        row | {"reference": row["reference"] or row["name"], "state": "was here already" if row["was_here"] else new}
        for row in rows
    ]
    out.table(
        shown,
        [
            Column("reference", "REFERENCE", keep=True),
            Column("state", "STATE", keep=True),
            Column("packed_as", "PACKED AS"),
            Column("size_bytes", "SIZE", right=True, format=size),
            Column("attachments", "ATTACHED", right=True),
            Column("digest", "DIGEST", format=lambda digest: f"sha256:{digest[:12]}"),
        ],
    )
    if dry_run:
        out.text("nothing written (dry run)")
