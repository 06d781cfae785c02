"""`mwactl registry list`."""

from __future__ import annotations

from typing import Any

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.cli.registry.facts import when


def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List every version of every adapter, newest first within a name."""
    from mwactl.registry import Registry
    from mwactl.registry.summary import summary

    registry = Registry.default()
    rows = [summary(registry, item) for item in registry.entries()]
    document = {"schema": 1, "registry": str(registry.root), "entries": rows}
    out.answer(document, human=lambda: _print_list(rows), identifier="\n".join(row["reference"] for row in rows))
    for row in rows:
        if row["problem"]:
            out.warn(f"{row['reference']}: {row['problem']}")
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
            Column("backbone", "BASE", keep=True),
            Column("method", "METHOD"),
            Column("size_bytes", "SIZE", right=True, format=lambda value: "" if value is None else size(value)),
            Column("text_to_image_r1", "t2i R@1", right=True, format=lambda r1: "" if r1 is None else f"{r1:.1f}"),
            Column("created", "CREATED", format=when),
        ],
    )
