"""Several methods by one recipe: trained in the same loop, evaluated on the same queries, each compared with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mwactl
from mwactl.config import LoadedRecipe
from mwactl.errors import UsageError
from mwactl.progress import Reporter
from mwactl.registry import Entry, Registry
from mwactl.workflow.compare import compare
from mwactl.workflow.contestants import RankOptions
from mwactl.workflow.facts import data_facts
from mwactl.workflow.splits import checked_split
from mwactl.workflow.train import plan_training, train_recipe

BEFORE = "before training"
#: What each method changes of the recipe, in the order they are shown.
METHODS: dict[str, tuple[str, ...]] = {
    "head": ("method.name=head",),
    "bitfit": ("method.name=bitfit",),
    "lora": ("method.name=lora",),
    "mwa-ke": ("method.name=mwa", "method.mwa.alignment_enhancer=0"),
    "mwa-ae": ("method.name=mwa", "method.mwa.knowledge_extractor=0"),
    "mwa": ("method.name=mwa",),
    "mwa-head": ("method.name=mwa", "method.train_head=true"),
    "full": ("method.name=full",),
}
#: Every weight moves with a smaller step than a few new ones.
_FULL_RATE = 0.1

Load = Callable[[Sequence[str]], LoadedRecipe]


@dataclass(frozen=True)
class Trained:
    """A method's result."""

    method: str
    """Its name."""
    entry: Entry
    """The version."""
    reused: bool
    """Whether it was there already."""


def compare_methods(
    registry: Registry,
    load: Load,
    methods: Sequence[str],
    reporter: Reporter,
    *,
    rates: Mapping[str, float] | None = None,
    baseline: str = "mwa",
    split: str = "test",
    download: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train a recipe by several methods, evaluate all on one split, and compare each with the baseline.

    What was trained by the very recipe on the very data is not trained again, and what was interrupted goes on: the
    same call continues where an earlier one was stopped.

    Args:
        registry: Where the versions go, named RECIPE-METHOD.
        load: The recipe with some more overrides.
        methods: Names of `METHODS`.
        reporter: Is told what happens.
        rates: `train.lr` of a method; by default the recipe's, and a tenth of it for `full`.
        baseline: The method that the others are compared with.
        split: What is evaluated; neither trained on nor validated on.
        download: Whether the network may be used for the backbone's weights.
        command: What to type after an interruption.

    Raises:
        UsageError: No such method, fewer than two, or the split is one that is learnt from.
        MwactlError: As `train_recipe` and `compare`.
    """
    methods = _checked(methods, baseline, rates or {})
    recipe = load([]).recipe
    if split in (recipe.data.train_split, recipe.data.val_split):
        raise UsageError(
            f"the recipe learns from the split {split!r}",
            why="it trains on it, or chooses the best epoch by it", fix="--split with another one",
        )  # fmt: skip
    recipes = {}
    for method in methods:
        rate = (rates or {}).get(method, recipe.train.lr * (_FULL_RATE if method == "full" else 1))
        recipes[method] = load([*METHODS[method], f"name={recipe.name}-{method}", f"train.lr={rate!r}"])
        plan_training(recipes[method].recipe)  # what one of them lacks is better missed now than after hours
    checked_split(recipe.data.name, split, on_error=recipe.data.on_error, reporter=reporter)
    done = [
        _trained(registry, method, loaded, reporter, download=download, command=command)
        for method, loaded in recipes.items()
    ]
    references = {each.method: each.entry.reference for each in done}
    others = [method for method in methods if method != baseline]
    untrained = _untrained(done)
    names = [references[baseline], *([untrained] if untrained else []), *(references[method] for method in others)]
    options = RankOptions(
        recipe.data.name, split, on_error=recipe.data.on_error, batch_size=recipe.train.eval_batch_size,
        device=recipe.train.device, download=download,
    )  # fmt: skip
    document = compare(registry, names, options, reporter)
    differences = {each["reference"]: each["metrics"] for each in document["contestants"]}
    rows = [_row(registry, each, differences.get(each.entry.reference), document) for each in done]
    if untrained:
        rows.insert(0, _row_of_metrics(BEFORE, untrained, differences[_reference(document, untrained)]))
    return {
        **{key: document[key] for key in ("schema", "data", "images", "texts", "protocol", "bootstrap")},
        "recipe": {"name": recipe.name, "backbone": recipe.backbone.name, "epochs": recipe.train.epochs},
        "baseline": baseline,
        "methods": rows,
    }


def _checked(methods: Sequence[str], baseline: str, rates: Mapping[str, float]) -> list[str]:
    """The methods, each once, in the order of `METHODS`.

    Raises:
        UsageError: One is none, or there are too few.
    """
    for name in [*methods, baseline, *rates]:
        if name not in METHODS:
            raise UsageError(f"no method {name!r}", fix=f"--methods with some of {', '.join(METHODS)}")
    if baseline not in methods:
        raise UsageError(f"the baseline {baseline} is not among the methods", fix=f"--baseline {methods[-1]}")
    chosen = [method for method in METHODS if method in methods]
    if idle := sorted(set(rates) - set(chosen)):
        raise UsageError(
            f"a learning rate for {idle[0]}, which is not among the methods",
            fix=f"leave it out, or --methods …,{idle[0]}",
        )
    if len(chosen) < 2:
        raise UsageError("a comparison needs two methods or more", fix="--methods head,mwa,full")
    return chosen


def _trained(
    registry: Registry, method: str, loaded: LoadedRecipe, reporter: Reporter, *, download: bool, command: str
) -> Trained:
    if entry := _same_run(registry, loaded, reporter):
        reporter.info(f"{method}: {entry.reference} was trained by this recipe already")
        return Trained(method, entry, reused=True)
    reporter.info(f"{method}: training {loaded.recipe.name}")
    entry = train_recipe(
        registry, loaded, resume=None, download=download, reporter=reporter, resume_command=command
    ).entry  # fmt: skip
    return Trained(method, entry, reused=False)


def _same_run(registry: Registry, loaded: LoadedRecipe, reporter: Reporter) -> Entry | None:
    """The newest version that this recipe gave with the data of today and this version of the toolkit.

    One that was killed right after publishing lacks what is attached then. Its checkpoint is still there: the end of
    the run is repeated.
    """
    versions = [entry for entry in registry.entries(loaded.recipe.name) if isinstance(entry, Entry)]
    trained = [entry for entry in versions if (entry.manifest.get("train") or {}).get("recipe_digest") == loaded.digest]
    if not trained:
        return None
    data = loaded.recipe.data
    splits = [name for name in (data.train_split, data.val_split) if name is not None]
    facts = [data_facts(checked_split(data.name, name, on_error=data.on_error, reporter=reporter)) for name in splits]
    for entry in trained:
        same_version = entry.manifest["train"]["versions"]["mwactl"] == mwactl.__version__
        if same_version and entry.manifest["data"] == facts and registry.attachments(entry, "training"):
            return entry
    return None


def _untrained(done: Sequence[Trained]) -> str | None:
    """The reference of a version that computes as the bare backbone: what an adapter was before it was trained.

    None where there is none: the preset `authors-code` has Alignment Enhancers that change it from the start.
    """
    for each in done:
        method = each.entry.manifest["train"]["recipe"]["method"]
        neutral = method["name"] == "lora" or method["mwa"]["preset"] == "paper" or each.method == "mwa-ke"
        if each.entry.manifest["parents"] and neutral:
            return f"{each.entry.name}@sha256:{each.entry.manifest['parents'][0]}"
    return None


def _reference(document: dict[str, Any], untrained: str) -> str:
    """What the comparison calls the untrained version."""
    digest = untrained.rpartition(":")[2]
    return str(next(each["reference"] for each in document["contestants"] if each["digest"] == digest))


def _row(
    registry: Registry, trained: Trained, differences: dict[str, Any] | None, document: dict[str, Any]
) -> dict[str, Any]:
    entry = trained.entry
    run = [each["document"] for each in registry.attachments(entry, "training")][-1]
    if differences is None:
        any_other = document["contestants"][0]["metrics"]
        row = _row_of_metrics(trained.method, entry.reference, None)
        row["metrics"] = {name: each["baseline"] for name, each in any_other.items()}
    else:
        row = _row_of_metrics(trained.method, entry.reference, differences)
    evaluations = [each["document"] for each in registry.attachments(entry, "evaluation")]
    row["intervals"] = next(
        each.get("intervals")
        for each in reversed(evaluations)
        if each["data"]["digest"] == document["data"]["digest"] and each["protocol"] == document["protocol"]
    )
    parameters = entry.manifest["tensors"]["parameters"]
    return row | {
        "trained_parameters": parameters,
        "trained_share": parameters / entry.manifest["base"]["parameters"],
        "lr": entry.manifest["train"]["recipe"]["train"]["lr"],
        "best_epoch": entry.manifest["train"]["best_epoch"],
        "seconds_per_step": run["seconds_per_step"],
        "seconds": run["seconds"],
        "reused": trained.reused,
    }


def _row_of_metrics(method: str, reference: str, differences: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "method": method,
        "reference": reference,
        "metrics": differences and {name: each["contestant"] for name, each in differences.items()},
        "against_baseline": differences and {
            name: {key: each[key] for key in ("difference", "interval", "p", "p_holm")}
            for name, each in differences.items()
        },
    }  # fmt: skip
