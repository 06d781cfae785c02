"""`mwactl registry list`."""

from __future__ import annotations

from typing import Any

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.cli.registry.facts import clipped, when, words


def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List every version of every adapter, newest first within a name."""
    from mwactl.registry import Registry
    from mwactl.registry.summary import summaries

    registry = Registry.default()
    rows, problems = summaries(registry)
    document = {"schema": 1, "registry": str(registry.root), "entries": rows, "problems": problems}
    out.answer(document, human=lambda: _print_list(rows), identifier="\n".join(row["reference"] for row in rows))
    for row in rows:
        if row["problem"]:
            out.warn(f"{row['reference']}: {row['problem']}")
    for problem in problems:
        out.warn(problem)
    if rows:
        out.hint(f"mwactl registry show {rows[0]['reference']}")
    else:
        out.info(f"the registry is empty ({registry.root})")
        out.hint("mwactl inject --backbone NAME")


def _print_list(rows: list[dict[str, Any]]) -> None:
    shown = [row | {"backbone": "corrupt"} if row["status"] == "corrupt" else row for row in rows]
    out.table(
        shown,
        [
            Column("name", "NAME", keep=True),
            Column("version", "VER", right=True, keep=True),
            Column("aliases", "ALIASES", format=lambda aliases: clipped(", ".join(aliases))),
            Column("backbone", "BASE", keep=True),
            Column("method", "METHOD"),
            Column("size_bytes", "SIZE", right=True, format=lambda value: "" if value is None else size(value)),
            Column("text_to_image_r1", "t2i R@1", right=True, format=lambda r1: "" if r1 is None else f"{r1:.1f}"),
            Column("created", "CREATED", format=when),
            Column("tags", "TAGS", format=lambda tags: clipped(words(tags))),
        ],
    )
