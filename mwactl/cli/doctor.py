"""`mwactl doctor`: what is here, what is missing, what is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out
from mwactl.errors import MwactlError

if TYPE_CHECKING:
    from mwactl.workflow.doctor import Finding


def doctor(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Look at versions, devices, places, the registry, backbones and optional features; say how to mend each.

    Writes nothing and asks no network. Exit code 1: something is broken, or lacks that every job needs.
    """
    from mwactl.workflow.doctor import diagnose

    sections = diagnose()
    troubles = [finding for findings in sections.values() for finding in findings if finding.is_trouble]
    document = {
        "schema": 1,
        "ok": not troubles,
        "sections": {name: [finding.as_dict() for finding in findings] for name, findings in sections.items()},
    }
    out.answer(document, human=lambda: _print(sections), identifier="\n".join(found.name for found in troubles) or "ok")
    if troubles:
        first = troubles[0]
        others = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
        raise MwactlError(f"{first.name}: {first.state.value}{others}", why=first.detail, fix=first.fix)
    out.hint("mwactl quickstart")


def _print(sections: dict[str, list[Finding]]) -> None:
    width = max(len(finding.name) for findings in sections.values() for finding in findings)
    for number, (name, findings) in enumerate(sections.items()):
        out.text(("\n" if number else "") + name)
        for finding in findings:
            out.text(f"  {finding.state.value:<7}  {finding.name:<{width}}  {finding.detail}".rstrip())
            if finding.fix:
                out.text(f"  {'':<7}  {'':<{width}}  fix: {finding.fix}")
