"""`mwactl card`: the model card of an adapter, and what it lacks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import out
from mwactl.errors import UsageError, VerificationError
from mwactl.files import atomic_write

if TYPE_CHECKING:
    from mwactl.card import ModelCard
    from mwactl.registry import Entry


def card(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REF", help="An adapter: name, name@3. Default: the newest.", autocompletion=complete_reference
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there, for example README.md.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="List what is missing; fail if a card should not be published without it.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the model card of an adapter: a README.md for people and for the Hugging Face Hub.

    Everything in it comes from the registry. The licence and the backbone's repository on the Hub are tags of the
    version: mwactl registry tag REF license=apache-2.0 base_model=ORGANISATION/NAME
    """
    from mwactl.card import model_card
    from mwactl.registry import Registry

    registry = Registry.default()
    entry = registry.resolve(reference)
    made = model_card(registry, entry)
    passed = made.publishable or not check
    if output is not None:
        _check_free(output, entry, force=force)
        if passed and not dry_run:
            atomic_write(output, made.text.encode("utf-8"))
    written = output is not None and passed and not dry_run
    out.answer(
        _document(entry, made, output, written=written),
        human=lambda: _print(made, output, check=check, written=written),
        identifier=str(output) if output is not None else entry.reference,
    )
    if not passed:
        needed = [gap for gap in made.gaps if gap.needed]
        raise VerificationError(
            f"the card of {entry.reference} should not be published yet",
            why="; ".join(gap.what for gap in needed),
            fix=needed[0].fix,
        )
    if not check:
        out.hint(f"mwactl card {entry.reference} --check")
    elif not written:
        out.hint(f"mwactl card {entry.reference} -o README.md")


def _check_free(output: Path, entry: Entry, *, force: bool) -> None:
    if output.is_dir():
        fix = f"mwactl card {entry.reference} -o {shlex.quote(str(output / 'README.md'))}"
        raise UsageError("this is a folder", where=str(output), fix=fix)
    if output.exists() and not force:
        raise UsageError(
            "the file is already there; it was not changed",
            where=str(output),
            fix=f"mwactl card {entry.reference} -o ANOTHER.md, or add --force to replace it",
        )


def _document(entry: Entry, made: ModelCard, output: Path | None, *, written: bool) -> dict[str, Any]:
    return {
        "schema": 1,
        "reference": entry.reference,
        "digest": entry.digest,
        "path": None if output is None else str(output),
        "written": written,
        "publishable": made.publishable,
        "missing": [{"what": gap.what, "needed": gap.needed, "fix": gap.fix} for gap in made.gaps],
        "metadata": made.metadata,
        "text": made.text,
    }


def _print(made: ModelCard, output: Path | None, *, check: bool, written: bool) -> None:
    if check:
        for gap in made.gaps:
            out.text(f"{'needed' if gap.needed else 'wanted'}  {gap.what}")
            if gap.fix:
                out.text(f"        {gap.fix}")
        if not made.gaps:
            out.text("nothing is missing")
    if written:
        out.text(f"wrote {output}")
    elif output is not None and (made.publishable or not check):
        out.text(f"would write {output}, {len(made.text.encode('utf-8')):,} bytes; nothing written (dry run)")
    elif output is None and not check:
        out.text(made.text.rstrip("\n"))
