"""Who is compared, and the rank of every query of each: kept by an evaluation, or evaluated now.

No torch is loaded where all ranks are kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.discovery import plugins
from mwactl.errors import IncompatibleError, NotFoundError, UsageError
from mwactl.progress import Reporter
from mwactl.registry import Entry, Registry
from mwactl.workflow.splits import CheckedSplit
from mwactl.workflow.stored_ranks import RanksOf, kept_ranks

if TYPE_CHECKING:
    from mwactl.workflow.evaluate import Evaluated

AUTO = "auto"
PRECISION = "fp32"
"""Of an evaluation, where none is asked for."""


@dataclass(frozen=True)
class RankOptions:
    """What the ranks are of, and how those that are not kept are found.

    Args:
        data: The data set's name.
        split: Its split.
        protocol: `full` or `coco-1k`.
        zero_shot: Whether no contestant may have been trained on it; this is checked.
        stored: Take what is kept, and evaluate nothing.
        on_error: A picture that cannot be read: stop or skip.
        batch_size: Of an evaluation.
        device: Of an evaluation: `auto`, `cpu`, `cuda`. None: `auto`.
        precision: Of the towers; ranks of another one do not count. None: kept ranks of any, else fp32.
        download: Whether the network may be used for a backbone's weights.
    """

    data: str
    split: str = "test"
    protocol: str = "full"
    zero_shot: bool = False
    stored: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 256
    device: str | None = None
    precision: str | None = None
    download: bool = False

    def checked(self) -> RankOptions:
        """The same with `auto` decided; told before anything is read.

        Raises:
            UsageError: No such device or precision.
        """
        if self.device is None and self.precision is None:
            return self
        from mwactl.backbone.precision import Precision, choose_device, choose_precision

        device = choose_device(self.device or AUTO)
        if self.stored and self.precision in get_args(Precision):  # of whichever machine has made the ranks
            return self
        precision = None if self.precision is None else choose_precision(self.precision, device)
        return replace(self, precision=precision)

    def fit(self, ranks: RanksOf) -> bool:
        """Whether kept ranks are of this protocol, and of this precision where one is asked for."""
        return self.protocol == ranks.protocol and self.precision in (None, ranks.precision)


@dataclass(frozen=True)
class Contestant:
    """A version of the registry, or a backbone without an adapter."""

    name: str
    """The reference, or the backbone's name."""
    entry: Entry | None
    """None: a backbone."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        kind = "backbone" if self.entry is None else self.entry.manifest["kind"]
        return {"reference": self.name, "kind": kind, "digest": None if self.entry is None else self.entry.digest}


@dataclass(frozen=True)
class Ranked:
    """A contestant with its ranks."""

    contestant: Contestant
    """Who."""
    of: RanksOf
    """The ranks."""
    stored: bool
    """Whether they were kept before."""


def find_contestants(registry: Registry, names: Sequence[str]) -> list[Contestant]:
    """Versions by their references, and backbones without an adapter by their names.

    Raises:
        UsageError: A name of two things.
        NotFoundError: A name of nothing.
    """
    return [_contestant(registry, name) for name in names]


def rank_contestants(
    registry: Registry,
    contestants: Sequence[Contestant],
    split: CheckedSplit | None,
    options: RankOptions,
    reporter: Reporter,
) -> list[Ranked]:
    """The ranks of all contestants on the same queries.

    Args:
        registry: Where versions and their ranks are; what is evaluated now is kept there.
        contestants: Of whom.
        split: The split; None: where `options.stored`, whichever the stored ranks have in common.
        options: What the ranks are of.
        reporter: Is told what is evaluated.

    Raises:
        UsageError: A zero-shot claim about a backbone.
        NotFoundError: Nothing is stored and only that may be used.
        IncompatibleError: The stored ranks are of other pictures or captions than each other's or the split's.
        VerificationError: A contestant was trained on data that is meant to be zero-shot.
    """
    if split is None and (options.zero_shot or not options.stored):
        raise ValueError("stored ranks alone can be compared without the split")
    if options.zero_shot and split is not None:
        _check_unseen(registry, contestants, split)
    if options.stored or split is None:
        ranks = _stored(registry, contestants, split, options, reporter)
        found = [Ranked(contestant, of, True) for contestant, of in zip(contestants, ranks, strict=True)]
    else:
        found = [_stored_or_evaluated(registry, each, split, options, reporter) for each in contestants]
    _check_same_queries(found)
    return found


def _contestant(registry: Registry, name: str) -> Contestant:
    try:
        find_spec(name)
        backbone_error = None
    except NotFoundError as error:
        backbone_error = error
    try:
        entry = registry.resolve(name)
    except (NotFoundError, UsageError):
        if backbone_error is None:
            return Contestant(name, None)
        if name.partition(":")[0] in plugins():  # meant as a backbone: it says what it lacks
            raise backbone_error from None
        raise
    if backbone_error is None:
        raise UsageError(
            f"{name!r} is a backbone and a name in the registry", why="they may be different models",
            fix=f"{entry.reference} for the version; inject a version of the backbone for the other",
        )  # fmt: skip
    return Contestant(entry.reference, entry)


def _check_unseen(registry: Registry, contestants: Sequence[Contestant], split: CheckedSplit) -> None:
    from mwactl.workflow.evaluate import check_unseen

    for contestant in contestants:
        if contestant.entry is None:
            raise UsageError(
                f"--zero-shot cannot be checked for the backbone {contestant.name}",
                why="what a backbone was trained on is unknown", fix=f"--data {split.dataset.name}",
            )  # fmt: skip
        check_unseen(registry, contestant.entry, split)


def _stored(
    registry: Registry,
    contestants: Sequence[Contestant],
    split: CheckedSplit | None,
    options: RankOptions,
    reporter: Reporter,
) -> list[RanksOf]:
    """Of each contestant the newest ranks on the split; where that was not read, on the newest that all have."""
    here = f"{options.data} {options.split}"
    digest = _digest(split) if split else None
    kept: list[list[RanksOf]] = []
    for contestant in contestants:
        everything = [] if contestant.entry is None else list(kept_ranks(registry, contestant.entry, reporter))
        fitting = [
            each
            for each in everything
            if options.fit(each) and (each.digest == digest or (each.data, each.split) == (options.data, options.split))
        ]
        if not fitting:
            _check_protocol(options.protocol)
            kinds = {f"{each.data} {each.split} {each.protocol} {each.precision}" for each in everything}
            others = ", ".join(sorted(kinds))
            asked = f", {options.precision}" if options.precision else ""
            raise NotFoundError(
                f"{contestant.name} has no stored ranks on {here}, protocol {options.protocol}{asked}",
                why=f"there are: {others}" if others else None,
                fix="leave out --stored: what is missing is evaluated, and kept"
                + ("" if contestant.entry else " unless it is a bare backbone's"),
            )
        kept.append(fitting)
    digests = {digest} if digest else set.intersection(*({each.digest for each in of} for of in kept))
    common = next((each.digest for each in kept[0] if each.digest in digests), None)
    chosen = [next((each for each in of if each.digest == common), None) for of in kept]
    if None in chosen:
        sides = [f"{who.name} {of[0].digest[:12]}" for who, of in zip(contestants, kept, strict=True)]
        sides += [f"here {digest[:12]}"] if digest else []
        raise IncompatibleError(
            f"the stored ranks are not all of the same {here}",
            why=f"digests of its pictures and captions: {', '.join(sides)}",
            fix="leave out --stored: what does not fit is evaluated again",
        )
    return [each for each in chosen if each is not None]


def _check_protocol(protocol: str) -> None:
    from mwactl.evaluate.protocols import check_protocol

    check_protocol(protocol)


def _stored_or_evaluated(
    registry: Registry, contestant: Contestant, split: CheckedSplit, options: RankOptions, reporter: Reporter
) -> Ranked:
    """The ranks of a contestant on the split: the newest that are kept, or of an evaluation now."""
    digest = _digest(split)
    kept = kept_ranks(registry, contestant.entry, reporter) if contestant.entry else iter(())
    if ranks := next((each for each in kept if each.digest == digest and options.fit(each)), None):
        return Ranked(contestant, ranks, True)
    asked = f" in {options.precision}" if options.precision else ""
    reporter.info(f"{contestant.name} has no stored ranks on {options.data} {options.split}{asked}: evaluating it")
    evaluated = _evaluate(registry, contestant, split, options, reporter)
    return Ranked(contestant, RanksOf.of(evaluated.document, evaluated.ranks), False)


def _evaluate(
    registry: Registry, contestant: Contestant, split: CheckedSplit, options: RankOptions, reporter: Reporter
) -> Evaluated:
    from mwactl.workflow.evaluate import EvaluationOptions, evaluate_adapter, evaluate_backbone
    from mwactl.workflow.load import build_backbone

    how = EvaluationOptions(
        protocol=options.protocol, batch_size=options.batch_size,
        device=options.device or AUTO, precision=options.precision or PRECISION,
    )  # fmt: skip
    if contestant.entry is not None:
        return evaluate_adapter(
            registry, contestant.entry, split, how, reporter, zero_shot=options.zero_shot, download=options.download
        )
    try:
        backbone = build_backbone(contestant.name, WeightsRequest(None, download=options.download, reporter=reporter))
    except NotFoundError as error:
        if error.fix and "--weights FILE" in error.fix:  # an option that there is only where a backbone is alone
            untrained = f"mwactl inject --backbone {shlex.quote(contestant.name)} --weights FILE"
            error.fix = f"--download where it is published, or compare what this makes, the same model: {untrained}"
        raise
    return evaluate_backbone(backbone, split, how, reporter)


def _digest(split: CheckedSplit) -> str:
    return split.dataset.digest([digest or "" for digest in split.digests])


def _check_same_queries(found: Sequence[Ranked]) -> None:
    """Whatever the digests say: ranks that came from elsewhere are of the same queries, or are not compared."""
    baseline = found[0].of.ranks
    for each in found[1:]:
        ranks = each.of.ranks
        sizes = [(len(of.image_to_text), of.folds) for of in (baseline, ranks)]
        lists = ((baseline.texts, ranks.texts), (baseline.pictures, ranks.pictures))
        if sizes[0] != sizes[1] or not all(np.array_equal(*pair) for pair in lists):
            raise IncompatibleError(
                f"the ranks of {each.contestant.name} and {found[0].contestant.name} are not of the same queries",
                why="they name the same data, but captions belong to other pictures",
                fix=f"evaluate both again: mwactl eval {each.contestant.name} --data {each.of.data}",
            )
