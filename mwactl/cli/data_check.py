"""`mwactl data check`: what is broken, twice, or leaks."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import DataName, Debug, Json, Quiet
from mwactl.cli.output import out
from mwactl.errors import VerificationError

if TYPE_CHECKING:
    from mwactl.workflow.data_check import DataCheck

_NAMED = 5


def check(
    name: DataName,
    split: Annotated[list[str] | None, typer.Option("--split", help="Which split; may be repeated. [all]")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as well: exit 5.")] = False,
    distance: Annotated[
        int, typer.Option("--distance", min=0, max=32, help="Bits of 64 that may differ in near duplicates.")
    ] = 8,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pictures opened at once. [one a core, at most 8]")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Open every picture and look for what is broken, what is twice, and what is in two splits.

    Errors (exit 5): mistakes in the annotations, pictures that cannot be opened, empty captions, a picture in two
    splits. Warnings: a caption twice, a caption of several pictures, a picture twice in a split, pictures of two splits
    that look the same.
    """
    from mwactl.workflow.data_check import check_data

    found = check_data(name, splits=split or [], distance=distance, workers=workers, reporter=out)
    failed = found.failed(strict=strict)
    out.answer(_document(found, strict=strict), human=lambda: _print(found), identifier=name)
    if failed:
        counted = [finding for finding in found.findings if strict or finding.level == "error"]
        raise VerificationError(
            f"'{name}' did not pass",
            why="; ".join(f"{finding.check}, {len(finding.places):,}" for finding in counted),
            fix=_fix(name, [finding.check for finding in counted]),
        )
    out.hint(f"mwactl data show {name} --sheet {name}.png")


def _fix(name: str, checks: list[str]) -> str:
    """A new division helps where pictures are in two splits, and nowhere else."""
    across = {"pictures in two splits", "near duplicates"}
    divide = f"divide it anew: mwactl data split {shlex.quote(name)}"
    if across.issuperset(checks):
        return divide
    mend = f"mend or remove what is named above (all of it: mwactl data check {shlex.quote(name)} --json)"
    return f"{mend}, then {divide}" if across.intersection(checks) else mend


def _document(found: DataCheck, *, strict: bool) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": found.name,
        "passed": not found.failed(strict=strict),
        "strict": strict,
        "splits": {
            split: {"images": images, "captions": captions} for split, (images, captions) in found.splits.items()
        },
        "findings": [
            {
                "check": finding.check,
                "level": finding.level,
                "what": finding.what,
                "count": len(finding.places),
                "places": list(finding.places),
            }
            for finding in found.findings
        ],
    }


def _print(found: DataCheck) -> None:
    for split, (images, captions) in found.splits.items():
        out.text(f"{split}: {images:,} pictures, {captions:,} captions")
    for finding in found.findings:
        out.text(f"{finding.level}: {finding.check}, {len(finding.places):,}: {finding.what}")
        for place in finding.places[:_NAMED]:
            out.text(f"  {place}")
        if len(finding.places) > _NAMED:
            out.text(f"  … and {len(finding.places) - _NAMED:,} more (--json names all)")
    if not found.findings:
        out.text("nothing was found")
