"""`mwactl registry`: what is kept, and everything about one version of it."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import Debug, Download, DryRun, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.registry import Entry, Registry
    from mwactl.workflow.adopt import Adoption

app = typer.Typer(help="Look at the adapters that are kept, and add others.", no_args_is_help=True)


@app.command(name="list", epilog="Example: mwactl registry list  Next: mwactl registry show coco-mwa@3")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List every version of every adapter, newest first within a name."""
    from mwactl.registry import Registry
    from mwactl.registry.summary import summary

    registry = Registry.default()
    rows = [summary(registry, item) for item in registry.entries()]
    document = {"schema": 1, "registry": str(registry.root), "entries": rows}
    out.answer(document, human=lambda: _print_list(rows), identifier="\n".join(row["reference"] for row in rows))
    for row in rows:
        if row["problem"]:
            out.warn(f"{row['reference']}: {row['problem']}")
    if rows:
        out.hint(f"mwactl registry show {rows[0]['reference']}")
    else:
        out.info(f"the registry is empty ({registry.root})")
        out.hint("mwactl inject --backbone NAME")


@app.command(epilog="Example: mwactl registry show coco-mwa@3  Next: mwactl eval coco-mwa@3")
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


@app.command(
    epilog="Example: mwactl registry add --from-authors checkpoint-best.pth --name authors-coco  "
    "Next: mwactl eval authors-coco --data coco"
)
def add(
    from_authors: Annotated[
        Path, typer.Option("--from-authors", metavar="FILE", help="A checkpoint of the MWA authors' training program.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="The adapter's name (default: BACKBONE-authors).")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Its backbone (default: the one with the sizes in the file).")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Their ffn_adapter_scalar, where the file does not hold it.")
    ] = None,
    layer_norm: Annotated[
        str | None, typer.Option("--layer-norm", help="Their ffn_adapter_layernorm_option, likewise: in or none.")
    ] = None,
    download: Download = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Take over an adapter that the authors' program trained, with the backbone that its checkpoint holds.

    The backbone becomes a weights file of its own; the adapter is checked on it and published.
    """
    if layer_norm not in (None, "in", "none"):
        why = "a LayerNorm on what they add cannot be expressed" if layer_norm == "out" else None
        raise UsageError(f"--layer-norm {layer_norm}: neither in nor none", why=why, fix="--layer-norm in, or none")
    from mwactl.backbone.spec import ImportHints
    from mwactl.registry import Registry
    from mwactl.workflow.adopt import adopt_adapter, plan_adoption

    adoption = plan_adoption(from_authors, name=name, backbone=backbone, hints=ImportHints(alpha, layer_norm))
    if assumed := adoption.foreign.assumed:
        out.warn(f"the file does not say it; assumed: {'; '.join(assumed)} (--alpha and --layer-norm say otherwise)")
    if not dry_run:
        adoption = adopt_adapter(Registry.default(reporter=out), adoption, download=download)
    entry = adoption.injection.entry
    out.answer(
        adoption.as_dict() | {"dry_run": dry_run},
        human=lambda: _print_adoption(adoption),
        identifier=entry.reference if entry else adoption.name,
    )
    said = {"--name": name, "--backbone": backbone, "--alpha": alpha, "--layer-norm": layer_norm}
    again = [str(part) for option, value in said.items() if value is not None for part in (option, value)]
    out.hint(
        f"mwactl eval {entry.reference} --data DATA   (mwactl data list)"
        if entry
        else shlex.join(["mwactl", "registry", "add", "--from-authors", str(from_authors), *again])
    )


def _print_adoption(adoption: Adoption) -> None:
    model, foreign = adoption.injection.model, adoption.foreign
    adapter = model.adapter
    assert adapter is not None
    counts = adapter.module_counts()
    out.text(f"{adoption.file.name}   sha256:{foreign.sha256[:12]}…   on {foreign.backbone}")
    out.text(
        f"{counts['knowledge_extractor']} Knowledge Extractors and {counts['alignment_enhancer']} Alignment Enhancers "
        f"at {len(adapter.sites)} blocks, {model.trainable_count():,} parameters"
    )
    _print_fact("options", dict(foreign.options))
    entry = adoption.injection.entry
    out.text(f"backbone  {adoption.backbone_file}")
    out.text(
        "nothing written (dry run)" if entry is None else f"published {entry.reference}   sha256:{entry.digest[:12]}…"
    )


def _print_list(rows: list[dict[str, Any]]) -> None:
    shown = [row | {"backbone": "corrupt"} if row["status"] == "corrupt" else row for row in rows]
    out.table(
        shown,
        [
            Column("name", "NAME", keep=True),
            Column("version", "VER", right=True, keep=True),
            Column("backbone", "BASE", keep=True),
            Column("method", "METHOD"),
            Column("size_bytes", "SIZE", right=True, format=lambda value: "" if value is None else size(value)),
            Column("text_to_image_r1", "t2i R@1", right=True, format=lambda r1: "" if r1 is None else f"{r1:.1f}"),
            Column("created", "CREATED", format=_when),
        ],
    )


def _when(created: str | None) -> str:
    """Relative on a terminal, ISO where a program may read it."""
    if created is None or not sys.stdout.isatty():
        return created or ""
    return _ago((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())


def _ago(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit} ago"
    return "just now"


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
    out.text(f"created   {_when(document['created'])}")
    out.text(f"files     {size(document['size_bytes'])}")
    for file in manifest["files"]:
        out.text(f"  {file['path']}  {size(file['size'])}  sha256:{file['sha256'][:12]}")
    for fact in sorted(manifest.keys() - {"schema", "kind", "parents", "files"}):
        _print_fact(fact, manifest[fact])
    if len(document["lineage"]) > 1:
        out.text("lineage")
        for ancestor in document["lineage"][1:]:
            out.text(f"  {_ancestor(ancestor)}")
    for attachment in document["attachments"]:
        if "problem" not in attachment:
            _print_fact(f"{attachment['kind']}, {_when(attachment['created'])}", attachment["document"])
    for line in document["history"]:
        if "problem" not in line:
            out.text(f"history   {_when(line['time'])}  {line['verb']}  by {line['user']} on {line['host']}")


def _print_fact(name: str, value: Any, indent: str = "") -> None:
    """A fact and what is in it, a line each: whatever is in a manifest can be read, also what a plugin put there."""
    if isinstance(value, dict) and value:
        out.text(f"{indent}{name}")
        for key, item in value.items():
            _print_fact(key, item, indent + "  ")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value, 1):
            _print_fact(f"{name} {number}", item, indent)
    else:
        out.text(f"{indent}{name}  {_plain(value)}")


def _plain(value: Any) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if type(value) is int else str(value)


def _ancestor(manifest: dict[str, Any]) -> str:
    if "missing" in manifest:
        state = "corrupt" if "problem" in manifest else "no longer in this registry"
        return f"sha256:{manifest['missing'][:12]}  {state}"
    names = ", ".join(manifest["references"]) or "no name"
    return f"{names}  {manifest['kind']}  sha256:{manifest['digest'][:12]}"
