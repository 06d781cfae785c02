"""`mwactl registry show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import print_fact, when

if TYPE_CHECKING:
    from mwactl.registry import Entry, Registry


def show(
    reference: Annotated[
        str | None, typer.Argument(metavar="REF", help="coco-mwa, coco-mwa@3, coco-mwa@sha256:…; default: the newest.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show one version: what it is, its files, where it comes from, and its evaluations."""
    from mwactl.registry import Registry

    registry = Registry.default()
    entry = registry.resolve(reference)
    document = _description(registry, entry)
    out.answer(document, human=lambda: _print_entry(document), identifier=entry.reference)
    for attachment in document["attachments"]:
        if "problem" in attachment:
            out.warn(attachment["problem"])
    for line in document["history"]:
        if "problem" in line:
            out.warn(line["problem"])
    out.hint(f"mwactl eval {entry.reference}")


def _description(registry: Registry, entry: Entry) -> dict[str, Any]:
    references = registry.references()
    lineage = [
        manifest | {"references": references.get(manifest.get("digest", ""), [])}
        for manifest in registry.lineage(entry)
    ]
    about = [line for line in registry.history(entry.name) if "problem" in line or _is_about(line, entry)]
    return {
        "schema": 1,
        "reference": entry.reference,
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "created": entry.created,
        "size_bytes": entry.size_bytes,
        "manifest": entry.manifest,
        "lineage": lineage,
        "attachments": registry.attachments(entry),
        "history": about,
    }


def _is_about(line: dict[str, Any], entry: Entry) -> bool:
    return isinstance(line["new"], dict) and line["new"].get("version") == entry.version


def _print_entry(document: dict[str, Any]) -> None:
    manifest = document["manifest"]
    out.text(f"{document['reference']}  {manifest['kind']}  sha256:{document['digest']}")
    out.text(f"created   {when(document['created'])}")
    out.text(f"files     {size(document['size_bytes'])}")
    for file in manifest["files"]:
        out.text(f"  {file['path']}  {size(file['size'])}  sha256:{file['sha256'][:12]}")
    for fact in sorted(manifest.keys() - {"schema", "kind", "parents", "files"}):
        print_fact(fact, manifest[fact])
    if len(document["lineage"]) > 1:
        out.text("lineage")
        for ancestor in document["lineage"][1:]:
            out.text(f"  {_ancestor(ancestor)}")
    for attachment in document["attachments"]:
        if "problem" not in attachment:
            print_fact(f"{attachment['kind']}, {when(attachment['created'])}", attachment["document"])
    for line in document["history"]:
        if "problem" not in line:
            out.text(f"history   {when(line['time'])}  {line['verb']}  by {line['user']} on {line['host']}")


def _ancestor(manifest: dict[str, Any]) -> str:
    if "missing" in manifest:
        state = "corrupt" if "problem" in manifest else "no longer in this registry"
        return f"sha256:{manifest['missing'][:12]}  {state}"
    names = ", ".join(manifest["references"]) or "no name"
    return f"{names}  {manifest['kind']}  sha256:{manifest['digest'][:12]}"
