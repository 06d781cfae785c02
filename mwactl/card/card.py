"""A model card: its front matter, its text, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from typing import Any

from mwactl.card import sections
from mwactl.card.gaps import Gap, gaps
from mwactl.card.metadata import front_matter
from mwactl.card.subject import Subject, read_subject
from mwactl.packaged import templates
from mwactl.registry import Entry, Registry


@dataclass(frozen=True)
class ModelCard:
    """The card of one entry."""

    metadata: dict[str, Any]
    """The front matter."""
    text: str
    """The whole README.md."""
    gaps: list[Gap]
    """What is missing, what is needed first."""

    @property
    def publishable(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not any(gap.needed for gap in self.gaps)


def model_card(registry: Registry, entry: Entry) -> ModelCard:
    """Make the card of an entry from its manifest, its attachments and its tags; the same ones give the same text.

    Raises:
        NotFoundError: The installation lacks the template.
        VerificationError: The name's tags are damaged.
    """
    subject = read_subject(registry, entry)
    metadata = front_matter(subject)
    template = Template(templates().joinpath("card.md").read_text(encoding="utf-8"))
    body = template.substitute(_values(subject))
    return ModelCard(metadata, f"---\n{_yaml(metadata)}---\n\n{body}", gaps(subject))


def _values(subject: Subject) -> dict[str, str]:
    return {
        "name": subject.entry.name,
        "digest": subject.entry.digest,
        "summary": sections.summary(subject),
        "results": sections.results(subject),
        "model": sections.model(subject),
        "data": sections.data(subject),
        "training": sections.training(subject),
        "curve": sections.curve(subject),
        "recipe": sections.recipe(subject),
        "limits": sections.limits(subject),
        "licence": sections.licence(subject),
        "files": sections.files(subject),
    }


def _yaml(metadata: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=120)
    return text
