"""What a card lacks, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mwactl.card.licences import is_known
from mwactl.card.subject import BASE_MODEL_TAG, LICENCE_LINK_TAG, LICENCE_TAG, Subject, is_hub_id


@dataclass(frozen=True)
class Gap:
    """One thing that is not known."""

    what: str
    """What is missing, in a few words."""
    needed: bool
    """Whether a card without it should not be published."""
    fix: str | None
    """The next command, or what to do; None where nothing can be done about it now."""


def gaps(subject: Subject) -> list[Gap]:
    """Everything that is missing, what is needed first."""
    reference = subject.entry.reference
    tests = [each for each in subject.evaluations if not each.seen]
    tag = f"mwactl registry tag {reference}"
    evaluate = f"mwactl eval {reference}"
    found = [
        (not subject.licence, Gap("the licence is not known", True, f"{tag} {LICENCE_TAG}=apache-2.0")),
        (
            not subject.backbone,
            Gap("the backbone is not recorded", True, "publish it again with this version of mwactl"),
        ),
        (
            not tests,
            Gap("there is no evaluation on data that training did not use", True, f"{evaluate} --data NAME"),
        ),
        (
            not any(each.zero_shot for each in tests),
            Gap("there is no evaluation that was checked to be zero-shot", False, f"{evaluate} --zero-shot NAME"),
        ),
        (
            bool(tests) and not any(each.intervals for each in tests),
            Gap("the results have no intervals", False, None),
        ),
        (
            not subject.base_model,
            Gap(
                "the backbone's repository on the Hub is not known", False, f"{tag} {BASE_MODEL_TAG}=ORGANISATION/NAME"
            ),
        ),
        (
            bool(subject.base_model) and not is_hub_id(subject.base_model),
            Gap(f"the tag {BASE_MODEL_TAG} names no repository", True, f"{tag} {BASE_MODEL_TAG}=ORGANISATION/NAME"),
        ),
        (
            bool(subject.licence) and not is_known(subject.licence) and not subject.licence_link,
            Gap("the Hub does not know this licence, so it wants a link", True, f"{tag} {LICENCE_LINK_TAG}=URL"),
        ),
        (
            not subject.data and not subject.imported and bool(subject.train),
            Gap("the training data is not recorded", False, "train it again with this version of mwactl"),
        ),
        (
            bool(subject.imported),
            Gap("what it was trained on is not known: it was imported", False, "say it in the card by hand"),
        ),
        (
            bool(subject.train) and not subject.curve,
            Gap("validation by epoch was not kept with it", False, None),
        ),
        (
            subject.missing_ancestors > 0,
            Gap("an ancestor is not in this registry", False, f"mwactl registry show {reference}"),
        ),
        *((True, Gap(f"not in the card: {problem}", False, "mwactl registry verify")) for problem in subject.problems),
    ]
    there = sorted((gap for missing, gap in found if missing), key=lambda gap: not gap.needed)
    if subject.entry.version == 0:  # it is in a folder, which has neither tags nor results: into a registry first
        return [replace(gap, fix=gap.fix and f"mwactl registry add {reference}") for gap in there]
    return there
