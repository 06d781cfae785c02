"""`mwactl registry log`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out
from mwactl.cli.registry.change import said, with_undo
from mwactl.cli.registry.facts import line, when, width
from mwactl.errors import NotFoundError

if TYPE_CHECKING:
    from mwactl.registry import Registry


def log(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="coco-mwa; coco-mwa@3 or coco-mwa:prod for one version. Default: everything.",
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
    intact = [event for event in lines if "problem" not in event]
    references = "\n".join(event["reference"] for event in intact)
    out.answer({"schema": 1, "lines": lines}, human=lambda: _print(intact), identifier=references)
    for event in lines:
        if "problem" in event:
            out.warn(event["problem"])
    out.hint(f"mwactl registry show {intact[-1]['name']}" if intact else "mwactl registry list")


def _lines(registry: Registry, reference: str | None) -> list[dict[str, Any]]:
    """The lines as they are, each with its name, its version's reference and the undo; damaged ones too.

    A number is not looked up: the version may have been removed, and its history is what is left of it.
    """
    from mwactl.registry import parse_reference
    from mwactl.registry.change import Change

    parsed = parse_reference(reference) if reference is not None else None
    version = parsed.version if parsed is not None else None
    if reference is not None and parsed is not None and (parsed.alias or parsed.digest_prefix or parsed.folder):
        version = registry.locate(reference).version
    found = []
    for name in registry.names() if parsed is None else [parsed.name]:
        for event in registry.history(name):
            if "problem" in event:
                found.append({"name": name, **event})
                continue
            change = Change.from_record(name, event)
            if version in (None, change.version):
                found.append({"name": name, "reference": change.reference, **event, "undo": change.undo})
    return sorted(found, key=lambda event: event.get("time", ""))


def _print(lines: list[dict[str, Any]]) -> None:
    from mwactl.registry.change import Change

    for event in lines:
        change = Change.from_record(event["name"], event)
        text = f"{when(event['time'])}  {event['user']}@{event['host']}  {event['verb']}  {said(change)}"
        if change.undo and sys.stdout.isatty() and len(with_undo(text, change)) > width():
            line(text)
            out.text(f"  undo: {change.undo}")  # whole: it is there to be typed
        else:
            line(with_undo(text, change))
