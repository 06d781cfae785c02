"""`mwactl registry show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import print_fact, when, words
from mwactl.cli.registry.family import print_tree

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
    for line in document["history"]:
        if "problem" in line:
            out.warn(line["problem"])
    for problem in document["problems"]:
        out.warn(problem)
    if tree.unread:
        out.warn(f"unreadable, so perhaps missing from the tree: {', '.join(tree.unread)}")
    out.hint(f"mwactl eval {entry.reference}")


def _description(registry: Registry, entry: Entry, tree: FamilyTree) -> dict[str, Any]:
    references = {member.digest: member.references for member in tree.members}
    lineage = [
        manifest | {"references": references.get(manifest.get("digest"), [])} for manifest in registry.lineage(entry)
    ]
    labels = registry.labels(entry.name)
    about = [line for line in registry.history(entry.name) if "problem" in line or _is_about(line, entry)]
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


def _is_about(line: dict[str, Any], entry: Entry) -> bool:
    return isinstance(line["new"], dict) and line["new"].get("version") == entry.version


def _print_entry(document: dict[str, Any], tree: FamilyTree) -> None:
    manifest = document["manifest"]
    out.text(f"{document['reference']}  {manifest['kind']}  sha256:{document['digest']}")
    out.text(f"created   {when(document['created'])}")
    if document["aliases"]:
        out.text(f"aliases   {', '.join(document['aliases'])}")
    if document["tags"]:
        out.text(f"tags      {words(document['tags'])}")
    out.text(f"files     {size(document['size_bytes'])}")
    for file in manifest["files"]:
        out.text(f"  {file['path']}  {size(file['size'])}  sha256:{file['sha256'][:12]}")
    for fact in sorted(manifest.keys() - {"schema", "kind", "parents", "files"}):
        print_fact(fact, manifest[fact])
    out.text("family")
    print_tree(tree)
    for attachment in document["attachments"]:
        if "problem" not in attachment:
            print_fact(f"{attachment['kind']}, {when(attachment['created'])}", attachment["document"])
    for line in document["history"]:
        if "problem" not in line:
            out.text(f"history   {when(line['time'])}  {line['verb']}  by {line['user']} on {line['host']}")
