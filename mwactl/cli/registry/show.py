"""`mwactl registry show`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import line, print_fact, when, words
from mwactl.cli.registry.family import print_tree
from mwactl.cli.registry.outcome import event_line, print_outcome

if TYPE_CHECKING:
    from mwactl.registry import Entry, Registry
    from mwactl.registry.tree import FamilyTree


def show(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REF",
            help="coco-mwa, coco-mwa@3, coco-mwa:prod, coco-mwa@sha256:…, ./FOLDER; default: the newest.",
            autocompletion=complete_reference,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show one version: what it is, its files, where it comes from, what came of it, and its evaluations."""
    from mwactl.registry import Registry
    from mwactl.registry.tree import family_tree

    registry = Registry.default()
    entry = registry.resolve(reference)
    tree = family_tree(registry, entry)
    document = _description(registry, entry, tree)
    out.answer(document, human=lambda: _print_entry(document, tree), identifier=entry.reference)
    for attachment in document["attachments"]:
        if "problem" in attachment:
            out.warn(attachment["problem"])
    for event in document["history"]:
        if "problem" in event:
            out.warn(event["problem"])
    for problem in document["problems"]:
        out.warn(problem)
    if tree.unread:
        out.warn(f"unreadable, so perhaps missing from the tree: {', '.join(tree.unread)}")
    out.hint(f"mwactl eval {entry.reference}")
    out.hint(f"mwactl registry show {entry.reference} --json   (manifest and recipe)")


def _description(registry: Registry, entry: Entry, tree: FamilyTree) -> dict[str, Any]:
    references = {member.digest: member.references for member in tree.members}
    lineage = [
        manifest | {"references": references.get(manifest.get("digest"), [])} for manifest in registry.lineage(entry)
    ]
    labels = registry.labels(entry.name)
    about = [event for event in registry.history(entry.name) if "problem" in event or _is_about(event, entry)]
    return {
        "schema": 1,
        "reference": entry.reference,
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "created": entry.created,
        "aliases": labels.aliases.get(entry.version, []),
        "tags": labels.tags.get(entry.version, {}),
        "size_bytes": entry.size_bytes,
        "manifest": entry.manifest,
        "lineage": lineage,
        "tree": tree.as_dict(),
        "attachments": registry.attachments(entry),
        "history": about,
        "problems": labels.problems,
    }


def _is_about(event: dict[str, Any], entry: Entry) -> bool:
    return isinstance(event["new"], dict) and event["new"].get("version") == entry.version


def _print_entry(document: dict[str, Any], tree: FamilyTree) -> None:
    on_terminal = sys.stdout.isatty()
    digest = document["digest"][:12] if on_terminal else document["digest"]
    line(f"{document['reference']}  {document['manifest']['kind']}  sha256:{digest}")
    if document["aliases"]:
        line(f"aliases   {', '.join(document['aliases'])}")
    if document["tags"]:
        line(f"tags      {words(document['tags'])}")
    line(f"created   {when(document['created'])}")
    line(f"files     {size(document['size_bytes'])}")
    for file in document["manifest"]["files"]:
        line(f"  {file['path']}  {size(file['size'])}  sha256:{file['sha256'][:12]}")
    out.text("family")
    print_tree(tree)
    if on_terminal:
        print_outcome(document)
    else:
        _print_everything(document)


def _print_everything(document: dict[str, Any]) -> None:
    """A fact a line, for programs: results and all that the manifest holds, numbers as they are."""
    manifest = document["manifest"]
    for attachment in document["attachments"]:
        if "problem" not in attachment:
            print_fact(f"{attachment['kind']}, {attachment['created']}", attachment["document"])
    for fact in sorted(manifest.keys() - {"schema", "kind", "parents", "files"}):
        print_fact(fact, manifest[fact])
    for event in document["history"]:
        if "problem" not in event:
            out.text(event_line(event))
