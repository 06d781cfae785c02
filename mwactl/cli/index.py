"""`mwactl index`: check, index, delete from and compact a folder of embeddings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.errors import UsageError


def index(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What mwactl embed wrote.")],
    exact: Annotated[bool, typer.Option("--exact", help="No index: every vector is compared.")] = False,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="An approximate index, whatever the size.")
    ] = False,
    above: Annotated[
        int | None,
        typer.Option("--above", min=0, metavar="N", help="Of more rows than this (1,000,000), an approximate index."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="For building; 0: one a core.")] = 0,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="ID", help="Let a row never be found again (repeatable).")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Leave deleted and replaced rows out for good.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Take damaged parts out, to be embedded again.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check the embeddings, and make an approximate index where they are many.

    Up to --above rows exact search is quick enough and needs no index: then this only verifies every file. An
    approximate index that is there is kept up to date, until --exact removes it.
    """
    quoted = shlex.quote(str(folder))
    if exact and approximate:
        raise UsageError("--exact and --approximate exclude each other", fix=f"mwactl index {quoted}")
    from mwactl.search import build_index, delete_ids, repair_parts
    from mwactl.search import compact as compact_parts
    from mwactl.search.maintain import ABOVE
    from mwactl.search.manifest import read_manifest

    # A compaction and a repair take the index out: one that was there is made again.
    approximate = approximate or (read_manifest(folder).graph is not None and not exact)
    removed = repair_parts(folder) if repair else []
    deleted = delete_ids(folder, delete) if delete else 0
    left_out = compact_parts(folder, reporter=out) if compact else 0
    done = build_index(
        folder,
        kind="exact" if exact else "approximate" if approximate else None,
        above=ABOVE if above is None else above,
        threads=threads,
        reporter=out,
    )
    document = {
        "schema": 1,
        "folder": str(folder),
        "rows": done.rows,
        "index": done.kind,
        "built": done.built,
        "generation": done.generation,
        "size_bytes": done.size_bytes,
        "deleted": deleted,
        "compacted": left_out,
        "repaired": removed,
    }

    def human() -> None:
        for name in removed:
            out.text(f"took out {name}, which was damaged")
        if delete:
            out.text(f"deleted {deleted:,}")
        if compact:
            out.text(f"left out {left_out:,} rows that could not be found any more")
        if done.kind == "exact":
            out.text(f"{done.rows:,} rows, every file as it was written; exact search needs no index")
        else:
            state = "made" if done.built else "up to date"
            out.text(f"{done.rows:,} rows; approximate index {done.generation}, {size(done.size_bytes)}, {state}")

    out.answer(document, human=human, identifier=done.kind)
    if any(name.startswith("part-") for name in removed):
        out.hint(f"mwactl embed MODEL SOURCE -o {quoted}")
    else:
        out.hint(f'mwactl search {quoted} "two dogs on a beach"')
