"""Train: from a recipe to a published version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import mwactl
from mwactl.adapter import AdaptedModel, inject
from mwactl.adapter.serialise import to_bytes
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config import LoadedRecipe, Recipe
from mwactl.config.presets import complete
from mwactl.data import Catalogue
from mwactl.data.loader import PairBatch, pair_batches
from mwactl.data.workers import worker_count
from mwactl.errors import MwactlError, ResourceError, UsageError
from mwactl.files import atomic_write, canonical_json, naming_write_errors, sha256_bytes
from mwactl.home import runs_path
from mwactl.progress import Reporter, Silent
from mwactl.registry import Entry, Registry
from mwactl.runs.curves import draw_curves
from mwactl.train.checkpoint import FILE_NAME as CHECKPOINT_FILE
from mwactl.train.distributed import ALONE, Processes, joined
from mwactl.train.loop import TrainingRun, TrainOutcome, Validate
from mwactl.train.memory import MemoryEstimate, estimate_memory
from mwactl.train.sampling import EpochPlan, Row
from mwactl.train.track import TrackedRun, Trackers
from mwactl.workflow import pictures
from mwactl.workflow.evaluate import EvaluationOptions, evaluate_model
from mwactl.workflow.facts import ADAPTER_FILE, PICTURES_FILE, RECIPE_FILE, adapter_facts, data_facts, versions
from mwactl.workflow.inject import publish_untrained
from mwactl.workflow.picture_source import PictureSource, approximates, evaluation_source, training_source
from mwactl.workflow.place import remember
from mwactl.workflow.splits import CheckedSplit, checked_split


@dataclass(frozen=True)
class TrainingPlan:
    """What a run would do, without doing it.

    Args:
        images: Of the training split.
        captions: Of the training split.
        pairs_per_epoch: Shown in an epoch.
        captions_per_image: Shown with a picture, at most.
        steps_per_epoch: Optimiser steps of an epoch.
        total_steps: Of the run.
        parameters: Of the backbone.
        trainable_parameters: Of what is trained.
        memory: The estimate.
    """

    images: int
    captions: int
    pairs_per_epoch: int
    captions_per_image: int
    steps_per_epoch: int
    total_steps: int
    parameters: int
    trainable_parameters: int
    memory: MemoryEstimate


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    entry: Entry
    outcome: TrainOutcome
    folder: Path


def plan_training(recipe: Recipe) -> TrainingPlan:
    """Count pictures, steps, parameters and memory; read no weights and no pictures, write nothing.

    Raises:
        NotFoundError: No such data set, split or backbone.
        IncompatibleError: A tower cannot host modules.
    """
    entry = Catalogue.default().get(recipe.data.name)
    dataset = entry.load(recipe.data.train_split)
    if recipe.data.val_split is not None:
        entry.load(recipe.data.val_split)
    plan = _epoch_plan(recipe, dataset.pairs)
    plugin, spec = find_spec(recipe.backbone.name)
    model = inject(plugin.build_without_weights(spec), recipe.method)
    return TrainingPlan(
        images=len(dataset.images),
        captions=len(dataset.captions),
        pairs_per_epoch=plan.pairs_per_epoch,
        captions_per_image=plan.captions_per_image,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.steps_per_epoch * recipe.train.epochs,
        parameters=model.backbone.count_parameters(),
        trainable_parameters=model.trainable_count(),
        memory=estimate_memory(model, averaged=recipe.train.ema is not None),
    )


def train_recipe(
    registry: Registry,
    loaded: LoadedRecipe,
    *,
    resume: bool | None = False,
    restart: bool = False,
    download: bool = False,
    resume_command: str = "",
    reporter: Reporter | None = None,
) -> Trained:
    """Train what a recipe says and publish it.

    Where torchrun started several processes, all call this; the first alone saves, speaks and publishes.

    Args:
        registry: Where the result goes.
        loaded: The recipe.
        resume: Go on from this recipe's checkpoint; None: where there is one.
        restart: Throw this recipe's checkpoint away.
        download: Whether the network may be used for the backbone's weights.
        resume_command: What to type after an interruption.
        reporter: Who is told.

    Raises:
        UsageError: There is a checkpoint, and neither `resume` nor `restart` is given.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
        MwactlError: Data, weights or memory are not as they must be; nothing is published.
    """
    recipe = loaded.recipe
    torch.manual_seed(recipe.train.seed)
    plugin, spec = find_spec(recipe.backbone.name)
    with joined(recipe.train.device) as processes:
        reporter = reporter if reporter is not None and processes.first else Silent()
        with processes.first_of_each_machine():
            train_split, val_split = _splits(recipe, reporter)
            request = WeightsRequest(recipe.backbone.weights, recipe.backbone.weights_seed, download, reporter)
            backbone = plugin.build(spec, request)
        base = fingerprint(backbone)
        if missing := sorted(backbone.untrained_parameter_names()):
            reporter.info(f"the weights lack {', '.join(missing)}: they are trained and saved with the adapter")
        model = inject(backbone, recipe.method, seed=recipe.train.seed)
        backbone.tokenize(["a"])  # a tokenizer that is not here is better missed now than by a loader's worker
        identity = _identity(loaded, base, [train_split, val_split])
        processes.same_run(identity)
        folder = runs_path() / f"{recipe.name}-{identity[:8]}"
        with _only_run_in(folder) if processes.first else nullcontext():
            if processes.first:
                _claim(folder, resume=resume is not False, restart=restart, command=resume_command)
            run = _training_run(
                loaded, model, train_split, val_split, folder=folder, identity=identity, processes=processes,
                resume_command=resume_command, reporter=reporter,
            )  # fmt: skip
            parents: Sequence[str] = ()
            if processes.first:
                if model.adapter is not None:
                    parents = [publish_untrained(registry, model, base, name=recipe.name).digest]
                atomic_write(folder / RECIPE_FILE, loaded.as_yaml().encode())
            if run.resume():
                reporter.info("resumed from the checkpoint")
            elif resume:
                reporter.warn("this recipe has no checkpoint to resume from; the run begins at the start")
            with run.log:
                outcome = run.run()
                splits = [train_split, val_split]
                entry = processes.from_first(lambda: _publish(registry, loaded, model, base, outcome, splits, parents))
                run.log.write("published", adapter=entry.reference, digest=entry.digest)
            if processes.first:
                (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
                _draw_curves(folder, reporter)
    return Trained(entry, outcome, folder)


def _training_run(
    loaded: LoadedRecipe,
    model: AdaptedModel,
    train_split: CheckedSplit,
    val_split: CheckedSplit | None,
    *,
    folder: Path,
    identity: str,
    processes: Processes,
    resume_command: str,
    reporter: Reporter,
) -> TrainingRun:
    """The loop with its data, its validation and its trackers."""
    recipe = loaded.recipe
    validating = processes if recipe.train.shard_backbone else ALONE
    with processes.first_of_each_machine():
        source = training_source(model.backbone, train_split, recipe.data, reporter)
        validate = None
        if val_split is not None:
            own = _workers_of_each(validating, recipe.data.workers)
            validate = _validation(recipe, model, val_split, own, reporter)
    workers = _workers_of_each(processes, recipe.data.workers)
    tracked = recipe.train.track if processes.first else ()
    return TrainingRun(
        model,
        _epoch_plan(recipe, train_split.dataset.pairs),
        lambda rows: _batches(recipe, model, train_split, source, rows, workers),
        recipe.train,
        folder=folder,
        identity=identity,
        validate=validate,
        resume_command=resume_command,
        reporter=reporter,
        processes=processes,
        trackers=Trackers(tracked, TrackedRun(folder, loaded.as_dict()), reporter),
    )


def _draw_curves(folder: Path, reporter: Reporter) -> None:
    """The adapter is published: a picture that cannot be written ends nothing."""
    try:
        draw_curves(folder)
    except MwactlError as error:
        reporter.warn(f"the curves were not drawn: {error}")


def _workers_of_each(processes: Processes, asked: int | None) -> int | None:
    """Loader processes of each training process: as asked for, else a fair share of the machine's."""
    if asked is not None or processes.alone:
        return asked
    return max(1, worker_count(None) // processes.local_count)


@contextmanager
def _only_run_in(folder: Path) -> Iterator[None]:
    """Keep two runs of one recipe from overwriting each other's checkpoint.

    Raises:
        ResourceError: Another process runs this recipe.
    """
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ResourceError(
                "another process is training this very recipe",
                where=str(folder),
                fix="wait for it, or change the recipe",
            ) from error
    try:
        yield
    finally:
        lock.release()


def _splits(recipe: Recipe, reporter: Reporter) -> tuple[CheckedSplit, CheckedSplit | None]:
    data = recipe.data
    train_split = checked_split(data.name, data.train_split, on_error=data.on_error, reporter=reporter)
    if data.val_split is None:
        return train_split, None
    return train_split, checked_split(data.name, data.val_split, on_error=data.on_error, reporter=reporter)


def _epoch_plan(recipe: Recipe, pairs: Any) -> EpochPlan:
    plan = EpochPlan(
        pairs,
        batch_size=recipe.train.batch_size,
        captions=recipe.data.captions,
        seed=recipe.train.seed,
        captions_per_image=recipe.data.captions_per_image,
    )
    if plan.steps_per_epoch == 0:
        what = "pair" if plan.pairs_per_epoch == 1 else "picture"
        raise UsageError(
            f"{recipe.data.name} {recipe.data.train_split} has a single {what}",
            why="a contrastive step needs at least two",
            fix="mwactl data show " + recipe.data.name,
        )
    return plan


def _batches(
    recipe: Recipe,
    model: AdaptedModel,
    split: CheckedSplit,
    source: PictureSource,
    rows: Iterator[list[Row]],
    workers: int | None,
) -> Iterator[PairBatch]:
    data, backbone = recipe.data, model.backbone
    return pair_batches(
        split.dataset,
        split.digests,
        rows,
        transform=source.transform,
        pictures=source.pictures,
        flip=data.augment == "flip",
        tokenize=backbone.tokenize,
        seed=recipe.train.seed,
        workers=workers,
        pin=backbone.logit_scale.is_cuda,
    )


def _validation(
    recipe: Recipe, model: AdaptedModel, split: CheckedSplit, workers: int | None, reporter: Reporter
) -> Validate:
    options = EvaluationOptions(
        batch_size=recipe.train.eval_batch_size,
        device=recipe.train.device,
        precision=recipe.train.precision,
        workers=workers,
    )
    source = evaluation_source(model.backbone, split, recipe.data.cache, reporter, workers=workers)

    def validate() -> dict[str, float]:
        result = evaluate_model(model, split, options, Silent(), source)
        return {
            "rsum": result.rsum,
            "image_to_text_R@1": result.image_to_text["R@1"],
            "text_to_image_R@1": result.text_to_image["R@1"],
        }

    return validate


def _identity(loaded: LoadedRecipe, base: str, splits: Sequence[CheckedSplit | None]) -> str:
    """The digest of everything that decides a run's result; how often it is saved or who decodes pictures does not.

    Nor does a cache that gives the same pixels; one that approximates them does. Compilation, the micro batch, the
    number of processes and what each of them holds change the last bits of a gradient, no more; but where something is
    drawn at random, a micro batch and another number of processes mean other draws.
    """
    recipe = loaded.as_dict()
    del recipe["data"]["workers"], recipe["train"]["checkpoint_every"], recipe["train"]["eval_batch_size"]
    del recipe["train"]["track"]
    del recipe["train"]["compile"], recipe["train"]["shard_backbone"]
    if not approximates(loaded.recipe.data):
        del recipe["data"]["cache"]
    if not _draws_while_encoding(loaded.recipe):
        del recipe["train"]["micro_batch_size"]
    data = [split and data_facts(split)["digest"] for split in splits]
    return sha256_bytes(canonical_json([recipe, base, data, mwactl.__version__]))


def _draws_while_encoding(recipe: Recipe) -> bool:
    """Whether a tower in training mode may draw random numbers; a frozen backbone does not, one that is trained may."""
    method = recipe.method
    dropout = {"mwa": complete(method.mwa).dropout, "lora": method.lora.dropout}.get(method.name, 0)
    return method.name == "full" or dropout > 0


def _claim(folder: Path, *, resume: bool, restart: bool, command: str) -> None:
    """Neither overwrite nor silently continue an unfinished run."""
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.is_file() or resume:
        return
    if not restart:
        raise UsageError(
            "this recipe has an unfinished run", where=str(folder), fix=f"{command}   (or --restart to begin again)"
        )
    checkpoint.unlink()


def _publish(
    registry: Registry,
    loaded: LoadedRecipe,
    model: AdaptedModel,
    base: str,
    outcome: TrainOutcome,
    splits: Sequence[CheckedSplit | None],
    parents: Sequence[str],
) -> Entry:
    recipe = loaded.recipe
    used = [split for split in splits if split is not None]
    facts = {
        **adapter_facts(model, base, outcome.state),
        "train": {
            "recipe": loaded.as_dict(),
            "recipe_digest": loaded.digest,
            "seed": recipe.train.seed,
            "steps": outcome.steps,
            "best_epoch": outcome.best_epoch,
            "versions": versions(),
        },
        "data": [data_facts(split) for split in used],
        "metrics": []
        if outcome.best_rsum is None
        else [{"dataset": recipe.data.name, "split": recipe.data.val_split, "rsum": outcome.best_rsum}],
    }
    seen = [digest for split in used for digest in split.digests]
    files: dict[str, bytes] = {
        ADAPTER_FILE: to_bytes(outcome.state, {"kind": "adapter", "method": recipe.method.name, "base": base}),
        RECIPE_FILE: loaded.as_yaml().encode(),
        PICTURES_FILE: pictures.pack(seen),
    }
    entry = registry.publish(recipe.name, kind="adapter", files=files, facts=facts, parents=parents, verb="train")
    timing = {
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "seconds_per_step": outcome.seconds_per_step,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "micro_batch_size": outcome.micro_batch_size,
        "validation": [{"epoch": epoch, "rsum": rsum} for epoch, rsum in enumerate(outcome.validation_rsums, 1)],
    }
    registry.attach(entry, "training", timing)
    remember(registry, entry, model.backbone)
    return entry
