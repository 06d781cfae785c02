"""`mwactl registry log`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out
from mwactl.cli.registry.change import said, with_undo
from mwactl.cli.registry.facts import when
from mwactl.errors import NotFoundError

if TYPE_CHECKING:
    from mwactl.registry import Registry


def log(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="coco-mwa, or coco-mwa@3 for one version. Default: everything.",
            autocompletion=complete_reference,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say who did what and when, oldest first, and how to undo it; also for versions that were removed."""
    from mwactl.registry import Registry

    lines = _lines(Registry.default(), reference)
    if not lines and reference is not None:
        raise NotFoundError(f"there is no history of {reference}", fix="mwactl registry log   (of everything)")
    intact = [line for line in lines if "problem" not in line]
    references = "\n".join(line["reference"] for line in intact)
    out.answer({"schema": 1, "lines": lines}, human=lambda: _print(intact), identifier=references)
    for line in lines:
        if "problem" in line:
            out.warn(line["problem"])
    out.hint(f"mwactl registry show {intact[-1]['name']}" if intact else "mwactl registry list")


def _lines(registry: Registry, reference: str | None) -> list[dict[str, Any]]:
    """The lines as they are, each with its name, its version's reference and the undo; damaged ones too."""
    from mwactl.registry import parse_reference
    from mwactl.registry.change import Change

    parsed = parse_reference(reference) if reference is not None else None
    found = []
    for name in registry.names() if parsed is None else [parsed.name]:
        for line in registry.history(name):
            if "problem" in line:
                found.append({"name": name, **line})
                continue
            change = Change.from_record(name, line)
            if parsed is None or parsed.version in (None, change.version):
                found.append({"name": name, "reference": change.reference, **line, "undo": change.undo})
    return sorted(found, key=lambda line: line.get("time", ""))


def _print(lines: list[dict[str, Any]]) -> None:
    from mwactl.registry.change import Change

    for line in lines:
        change = Change.from_record(line["name"], line)
        text = f"{when(line['time'])}  {line['user']}@{line['host']}  {line['verb']}  {said(change)}"
        out.text(with_undo(text, change))
