"""`mwactl train`: from a recipe to a published adapter."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.launch import Layout, launch, silent_torch
from mwactl.cli.launched import is_first, one_of_several, typed_command
from mwactl.cli.options import Debug, Download, DryRun, Json, Overrides, Quiet
from mwactl.cli.output import Mode, duration, out, size
from mwactl.cli.recipes import SomeRecipe, announce, print_resolved
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.config import LoadedRecipe
    from mwactl.workflow.train import Trained

_MODE_FLAGS: dict[Mode, list[str]] = {Mode.HUMAN: [], Mode.JSON: ["--json"], Mode.QUIET: ["--quiet"]}


def train(
    recipe: SomeRecipe,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from this recipe's checkpoint.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw this recipe's checkpoint away.")] = False,
    download: Download = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine: one a GPU.")] = 1,
    nnodes: Annotated[int, typer.Option("--nnodes", min=1, help="Machines; this command is typed on each.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Which machine this is, from 0.")] = 0,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Where machines meet: on machine 0.")
    ] = None,
    dry_run: DryRun = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole recipe, and where each value comes from; no more.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train what a recipe says, choose the best epoch on the validation split, and publish it.

    Ctrl-C and SIGTERM save a checkpoint first; `--resume` ends with exactly the tensors of an uninterrupted run.

    With `--nproc 4`, four processes share every batch, a GPU each; its size, its negatives and the result stay.
    """
    if resume and restart:
        raise UsageError("--resume goes on from the checkpoint, --restart throws it away", fix="give one of the two")
    from mwactl.config import load_recipe

    layout = Layout(nproc, nnodes, node_rank, rendezvous)
    layout.check()
    typed = ["train", recipe, *(overrides or [])]
    command = typed_command(shlex.join(["mwactl", *typed, *layout.options()]))
    flags = {"--resume": resume, "--restart": restart, "--download": download}
    with one_of_several():
        loaded = load_recipe(recipe, overrides or [])
        announce(loaded)
        if print_config:
            print_resolved(loaded)
        elif dry_run:
            _dry_run(loaded, layout)
        elif layout.count > 1:
            _launch(loaded, layout, [*typed, *(flag for flag, given in flags.items() if given)], command)
        else:
            _train(loaded, f"{command} --resume", resume=resume, restart=restart, download=download)


def _launch(loaded: LoadedRecipe, layout: Layout, arguments: Sequence[str], command: str) -> None:
    with silent_torch():
        from mwactl.train.distributed import uses_gpus

    uses_gpus(loaded.recipe.train.device, layout.processes)
    launch([*arguments, *_MODE_FLAGS[out.mode], *(["--debug"] if out.debug else [])], layout, command=command)
    if layout.machine > 0:
        out.info("done; the adapter is in the registry of machine 0")


def _train(loaded: LoadedRecipe, resume_command: str, *, resume: bool, restart: bool, download: bool) -> None:
    from mwactl.registry import Registry
    from mwactl.workflow.train import train_recipe

    trained = train_recipe(
        Registry.default(reporter=out),
        loaded,
        resume=resume,
        restart=restart,
        download=download,
        resume_command=resume_command,
        reporter=out,
    )
    if not is_first():
        return
    out.answer(_document(trained), human=lambda: _describe(trained), identifier=trained.entry.reference)
    out.hint(f"mwactl eval {trained.entry.reference} --data {loaded.recipe.data.name}")


def _dry_run(loaded: LoadedRecipe, layout: Layout) -> None:
    from dataclasses import asdict

    from mwactl.workflow.train import plan_training

    recipe, plan = loaded.recipe, plan_training(loaded.recipe)
    asked = recipe.train.micro_batch_size
    total = plan.memory.total(
        -(-recipe.train.batch_size // layout.count),
        micro_batch=None if asked == "auto" else asked,
        captions_per_image=plan.captions_per_image,
    )
    each = "" if layout.count == 1 else f" in each of {layout.count} processes"
    parts = "" if asked is None else ", in parts where less fits" if asked == "auto" else f", {asked} at once"

    def human() -> None:
        out.text(f"{recipe.name}: {recipe.method.name} on {recipe.backbone.name}, from {loaded.source}")
        counts = f"{plan.images:,} pictures, {plan.captions:,} captions"
        out.text(f"  data      {recipe.data.name} {recipe.data.train_split}: {counts}")
        out.text(
            f"  steps     {plan.steps_per_epoch:,} an epoch × {recipe.train.epochs} epochs = {plan.total_steps:,} "
            f"of {_step_in_words(recipe.train.batch_size, plan.captions_per_image)}"
        )
        out.text(
            f"  trained   {plan.trainable_parameters:,} of {plan.parameters:,} parameters "
            f"({100 * plan.trainable_parameters / plan.parameters:.2f} %)"
        )
        out.text(
            f"  memory    about {size(total)} in fp32{each} ({size(plan.memory.activations_per_pair)} a pair{parts})"
        )
        out.text("nothing written (dry run)")

    document = {
        "schema": 1, "dry_run": True, "recipe": loaded.as_dict(), **asdict(plan),
        "memory": plan.memory.as_dict() | {"total": total},
    }  # fmt: skip
    out.answer(document, human=human, identifier=recipe.name)
    source = loaded.source.removeprefix("packaged recipe ")
    out.hint(shlex.join(["mwactl", "train", source, *loaded.overrides, *layout.options()]))


def _step_in_words(batch_size: int, captions_per_image: int) -> str:
    if captions_per_image == 1:
        return f"{batch_size} pairs"
    return f"{batch_size // captions_per_image} pictures with up to {captions_per_image} captions each"


def _document(trained: Trained) -> dict[str, Any]:
    outcome, entry = trained.outcome, trained.entry
    return {
        "schema": 1,
        "adapter": entry.reference,
        "digest": entry.digest,
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "seconds_per_step": outcome.seconds_per_step,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "trainable_parameters": entry.manifest["tensors"]["parameters"],
        "best_epoch": outcome.best_epoch,
        "validation_rsum": outcome.best_rsum,
        "folder": str(trained.folder),
    }


def _describe(trained: Trained) -> None:
    outcome, entry = trained.outcome, trained.entry
    what = f"{entry.reference}   {size(entry.size_bytes)}   sha256:{entry.digest[:12]}…"
    out.text(f"trained in {duration(outcome.seconds)}: {what}")
    if outcome.best_epoch is not None:
        out.text(f"best epoch {outcome.best_epoch}, validation RSUM {outcome.best_rsum:.1f}")
    out.text(f"log: {trained.folder / 'log.jsonl'}")
