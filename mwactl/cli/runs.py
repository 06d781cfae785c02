"""`mwactl runs`: what was trained here, what is being trained, and how it goes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_run
from mwactl.cli.options import Debug, DryRun, Json, Quiet, Yes
from mwactl.cli.output import Column, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.runs import Run

app = typer.Typer(help="Runs: what was trained here, and how it went.", no_args_is_help=True)

SomeRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name or its beginning (mwactl runs list), or its folder.",
        autocompletion=complete_run,
    ),
]

_CURVE_WIDTH = 60
_VALIDATION_COLUMNS = [
    Column("epoch", "epoch", right=True, keep=True),
    Column("step", "step", right=True, format="{:,}".format),
    Column("rsum", "RSUM", right=True, format="{:.1f}".format, keep=True),
    Column("text_to_image_R@1", "t2i R@1", right=True, format=lambda value: "" if value is None else f"{value:.1f}"),
    Column("image_to_text_R@1", "i2t R@1", right=True, format=lambda value: "" if value is None else f"{value:.1f}"),
]


@app.command("list", epilog="Example: mwactl runs list  Next: mwactl runs show coco-mwa")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List all runs, the one that changed last first."""
    from mwactl.runs import all_runs

    runs = all_runs(out)
    rows = [_document(run) | {"outcome": _outcome(run), "done": _done(run)} for run in runs]
    columns = [
        Column("run", "run", keep=True),
        Column("method", "method"),
        Column("outcome", "state", keep=True),
        Column("done", "steps", right=True, keep=True),
        Column("loss", "loss", right=True, format=lambda value: "" if value is None else f"{value:.3f}"),
        Column("best_rsum", "best RSUM", right=True, format=lambda value: "" if value is None else f"{value:.1f}"),
        Column("changed", "changed"),
        Column("folder", "folder"),
    ]
    out.answer(
        {"schema": 1, "runs": [_document(run) for run in runs]},
        human=lambda: out.table(rows, columns) if rows else out.info("no runs so far"),
        identifier="\n".join(run.id for run in runs),
    )
    out.hint(f"mwactl runs show {runs[0].id}" if runs else "mwactl recipes list")


@app.command(epilog="Example: mwactl runs show coco-mwa --curves curves.png  Next: mwactl eval coco-mwa --data coco")
def show(
    run: SomeRun,
    curves: Annotated[
        Path | None, typer.Option("--curves", metavar="PNG", help="Draw loss, learning rate and validation.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a run: its state, its curves, its validations, and the command that goes on with it.

    Of steps that were done again after a resumption, only the last counts.
    """
    from mwactl.runs import find_run
    from mwactl.runs.curves import draw_curves

    found = find_run(run)
    if broken := found.history.broken_lines:
        out.warn(f"the log has {broken} line{'s' if broken > 1 else ''} that cannot be read: {found.folder}/log.jsonl")
    document = _document(found) | {
        "starts": found.history.starts,
        "processes": found.history.processes,
        "steps_logged": found.history.steps,
        "validations": found.history.validations,
        "error": found.history.failure,
        "recipe": found.recipe,
        "broken_lines": found.history.broken_lines,
    }
    if curves is not None:
        document["curves"] = str(draw_curves(found.folder, curves))
    out.answer({"schema": 1, **document}, human=lambda: _describe(found, curves), identifier=found.id)
    out.hint(_next(found))


@app.command(epilog="Example: mwactl runs rm coco-mwa-1a2b3c4d  Next: mwactl runs list")
def rm(
    run: SomeRun,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove a run's folder: log, checkpoint, curves. An adapter that it published stays in the registry."""
    from mwactl.runs import find_run
    from mwactl.runs.remove import remove_run

    if "/" in run:
        raise UsageError("a run is removed by its name", where=run, fix="mwactl runs list")
    found = find_run(run)
    if not dry_run:
        _confirm(found, yes=yes)
        remove_run(found)
    said = "would remove" if dry_run else "removed"
    document = {"schema": 1, "run": found.id, "folder": str(found.folder), "dry_run": dry_run}
    out.answer(document, human=lambda: out.text(f"{said} {found.folder}"), identifier=found.id)
    out.hint("mwactl runs list")


def _confirm(run: Run, *, yes: bool) -> None:
    """Ask, where somebody can answer.

    Raises:
        UsageError: Nobody can, and nobody said --yes; or the answer was no.
    """
    if yes:
        return
    again = shlex.join(["mwactl", "runs", "rm", run.id, "--yes"])
    if not sys.stdin.isatty():
        raise UsageError("removing needs --yes where nobody can be asked; nothing was removed", fix=again)
    if not typer.confirm(f"remove {run.id} ({_outcome(run)})?", err=True):
        raise UsageError("not confirmed; nothing was removed", fix=again)


def _document(run: Run) -> dict[str, Any]:
    """What both `list` and `show` say of a run."""
    best = run.best or {}
    return {
        "run": run.id,
        "name": run.name,
        "method": run.setting("method", "name"),
        "state": str(run.state),
        "adapter": run.history.adapter,
        "steps": run.steps,
        "total_steps": run.history.total_steps,
        "loss": run.loss,
        "best_rsum": best.get("rsum"),
        "best_epoch": best.get("epoch"),
        "checkpoint_step": run.checkpoint_step,
        "resume": run.resume_command,
        "changed": run.changed.isoformat(),
        "folder": str(run.folder),
    }


def _outcome(run: Run) -> str:
    """The state, with what a user wants to know next."""
    if run.history.adapter:
        return f"{run.state} → {run.history.adapter}"
    if run.checkpoint_damaged:
        return f"{run.state} (its checkpoint is damaged)"
    return f"{run.state} (resumable)" if run.checkpoint_step is not None and run.resume_command else str(run.state)


def _done(run: Run) -> str:
    return f"{run.steps:,}" + ("" if run.history.total_steps is None else f" of {run.history.total_steps:,}")


def _describe(run: Run, curves: Path | None) -> None:
    from mwactl.chart import bars

    history, best = run.history, run.best
    losses, rsums = [each["loss"] for each in history.steps], [each["rsum"] for each in history.validations]
    facts = {
        "adapter": history.adapter,
        "error": history.failure,
        "steps": _done(run),
        "when": _when(run),
        "method": run.setting("method", "name"),
        "backbone": run.setting("backbone", "name"),
        "data": run.setting("data", "name"),
        "loss": losses and f"{bars(losses, width=_CURVE_WIDTH)}  {losses[0]:.3f} to {losses[-1]:.3f}",
        "RSUM": best and f"{bars(rsums, width=_CURVE_WIDTH)}  best {best['rsum']:.1f}, epoch {best['epoch']}",
        "speed": _speed(run),
        "recipe": run.recipe and run.folder / "recipe.yaml",
        "log": run.folder / "log.jsonl",
        "curves": curves,
    }
    out.text(f"{run.id}: {_outcome(run)}")
    rows = [{"what": what, "value": value} for what, value in facts.items() if value]
    out.table(rows, [Column("what", "", keep=True), Column("value", "", keep=True)])
    if history.validations:
        out.text()
        out.table(history.validations, _VALIDATION_COLUMNS)


def _when(run: Run) -> str:
    resumed = ", ".join(f"{step:,}" for step in run.history.starts[1:])
    processes = "" if run.history.processes == 1 else f"{run.history.processes} processes"
    changed = f"last heard of at {run.changed:%Y-%m-%d %H:%M} UTC"
    return "; ".join(part for part in (resumed and f"resumed at step {resumed}", processes, changed) if part)


def _speed(run: Run) -> str | None:
    """Of the last step that was logged."""
    if not run.history.steps:
        return None
    last = run.history.steps[-1]
    pairs, stall, memory = (last.get(key) for key in ("pairs_per_second", "data_stall", "peak_memory_bytes"))
    parts = [
        pairs is not None and f"{pairs:,.0f} pairs/s",
        stall is not None and f"data stall {stall:.0%}",
        memory is not None and f"peak memory {size(memory)}",
    ]
    return ", ".join(part for part in parts if part)


def _next(run: Run) -> str:
    if run.resume_command:
        return run.resume_command
    if run.history.adapter:
        return f"mwactl eval {run.history.adapter} --data {run.setting('data', 'name') or 'NAME'}"
    return "mwactl runs list"
