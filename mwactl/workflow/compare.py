"""Compare: several models on the same queries, each against the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from mwactl.data import CaptionedImages
from mwactl.errors import UsageError
from mwactl.evaluate.bootstrap import LEVEL, RESAMPLES, SEED, resample
from mwactl.evaluate.floor import Floor
from mwactl.evaluate.paired import POWER, Difference, differences, rank_one_tests
from mwactl.evaluate.queries import QueryRanks
from mwactl.evaluate.slices import Slice, SliceDifferences, by_length, by_tag, slice_differences
from mwactl.progress import Reporter
from mwactl.registry import Registry
from mwactl.workflow.contestants import Ranked, RankOptions, find_contestants, rank_contestants
from mwactl.workflow.splits import checked_split

FEW_PICTURES = 30
By = Literal["length", "tag"]


def compare(
    registry: Registry,
    names: Sequence[str],
    options: RankOptions,
    reporter: Reporter,
    *,
    by: By | None = None,
    floors: Sequence[Floor] = (),
) -> dict[str, Any]:
    """The document of a comparison: every other contestant against the first one, the baseline.

    Args:
        registry: Where versions and their ranks are; what is evaluated now is kept there.
        names: References, or names of backbones without an adapter.
        options: What to compare on.
        reporter: Is told what is evaluated.
        by: Compare slices as well.
        floors: What each contestant must reach; the document says whether it does.

    Raises:
        UsageError: Fewer than two contestants, options that do not exist, or slices by tags that the data set lacks.
        NotFoundError: No such contestant, data set or split.
        MwactlError: As `rank_contestants`.
    """
    if len(names) < 2:
        raise UsageError("a comparison needs two contestants or more", fix="mwactl compare BASELINE OTHER --data DATA")
    options = options.checked()
    contestants = find_contestants(registry, names)
    split = None
    if by or options.zero_shot or not options.stored:
        split = checked_split(options.data, options.split, on_error=options.on_error, reporter=reporter)
    if by == "tag" and split and not split.dataset.tags:
        raise UsageError(
            f"the pictures of {options.data} {options.split} have no tags",
            why="the annotations have no `tag`", fix="leave out --by tag, or: --by length",
        )  # fmt: skip
    ranked = rank_contestants(registry, contestants, split, options, reporter)
    _warn(ranked, reporter)
    ranks = [each.of.ranks for each in ranked]
    metrics = differences(resample(ranks))
    parts = slice_differences(ranks, _slices(by, split.dataset, ranks[0]) if by and split else [])
    baseline, *others = _sides(ranked)
    for at, side in enumerate(others):
        tests = rank_one_tests(ranks[0], ranks[at + 1])
        side["metrics"] = _metrics(metrics[at])
        side["mcnemar"] = {name: asdict(test) for name, test in tests.items()}
        side["slices"] = [_slice(part) for part in parts[at]]
        side["floors"] = [asdict(floor) | {"holds": floor.holds(metrics[at])} for floor in floors]
    first = ranked[0].of
    return {
        "schema": 1,
        "data": {"name": options.data, "split": options.split, "digest": first.digest},
        "images": first.images,
        "texts": first.texts,
        "protocol": first.protocol,
        "zero_shot": options.zero_shot,
        "bootstrap": {"over": "pictures", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "power": POWER},
        "by": by,
        "baseline": baseline,
        "contestants": others,
    }


def _warn(ranked: Sequence[Ranked], reporter: Reporter) -> None:
    if len({each.of.precision for each in ranked}) > 1:
        sides = ", ".join(f"{each.contestant.name} {each.of.precision}" for each in ranked)
        reporter.warn(f"the towers computed in different precisions: {sides}")
    if (images := ranked[0].of.images) < FEW_PICTURES:
        reporter.warn(f"pictures: {images}; intervals of fewer than {FEW_PICTURES} are narrower than they should be")


def _sides(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    return [each.contestant.as_dict() | {"stored": each.stored, "precision": each.of.precision} for each in ranked]


def _slices(by: By, dataset: CaptionedImages, ranks: QueryRanks) -> list[Slice]:
    return by_length(dataset.captions, ranks) if by == "length" else by_tag(dataset.tags, ranks)


def _slice(part: SliceDifferences) -> dict[str, Any]:
    counts = {"images": int(part.of.pictures.sum()), "texts": int(part.of.queries.sum())}
    return {"name": part.of.name, **counts, **part.of.facts, "metrics": _metrics(part.metrics)}


def _metrics(metrics: dict[str, Difference]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in metrics.items()}
