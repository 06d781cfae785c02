"""`mwactl registry add`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.completion import complete_backbone
from mwactl.cli.options import Debug, Download, DryRun, Json, Quiet
from mwactl.cli.output import out, size
from mwactl.cli.registry.facts import print_fact
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.workflow.adopt import Adoption


def add(
    folder: Annotated[
        str | None, typer.Argument(metavar="[FOLDER]", help="A folder with manifest.json and the files it lists.")
    ] = None,
    from_authors: Annotated[
        Path | None,
        typer.Option("--from-authors", metavar="FILE", help="A checkpoint of the MWA authors' training program."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The adapter's name (default: the folder's, or BACKBONE-authors).")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Its backbone (default: the one with the sizes in the file).",
            autocompletion=complete_backbone,
        ),
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
    """Take over an adapter: from a folder, or from the MWA authors' program with --from-authors.

    A folder's manifest stays as it is, so the adapter keeps its digest. Of the authors' checkpoint the backbone becomes
    a weights file of its own; the adapter is checked on it and published.
    """
    said = {"--backbone": backbone, "--alpha": alpha, "--layer-norm": layer_norm}
    if (folder is None) == (from_authors is None):
        raise UsageError(
            "exactly one of FOLDER and --from-authors FILE says what to add",
            fix="mwactl registry add ./folder, or mwactl registry add --from-authors checkpoint-best.pth",
        )
    if folder is not None:
        if given := [option for option, value in said.items() if value is not None]:
            raise UsageError(f"{given[0]} belongs to --from-authors", fix=f"mwactl registry add {shlex.quote(folder)}")
        _add_folder(folder, name, dry_run=dry_run)
    elif from_authors is not None:
        _add_from_authors(from_authors, name, backbone, alpha, layer_norm, download=download, dry_run=dry_run)


def _add_folder(folder: str, name: str | None, *, dry_run: bool) -> None:
    from mwactl.registry import Registry
    from mwactl.registry.folder_entry import folder_file, read_folder, read_folder_file
    from mwactl.registry.reference import checked_name

    source = read_folder(folder)
    given = [] if name is None else ["--name", name]
    name = checked_name(source.name if name is None else name)
    files = source.manifest["files"]
    if dry_run:
        for file in files:
            read_folder_file(source, file["path"], file["sha256"])
        reference = name
    else:
        blobs = {file["sha256"]: folder_file(source, file["path"]) for file in files}
        entry = Registry.default(reporter=out).receive(name, source.manifest_bytes, blobs, verb="add")
        reference = entry.reference
    document = {
        "schema": 1,
        "dry_run": dry_run,
        "reference": reference,
        "digest": source.digest,
        "size_bytes": source.size_bytes,
        "manifest": source.manifest,
    }

    def human() -> None:
        out.text(f"{folder}   {source.manifest['kind']}   {size(source.size_bytes)}   sha256:{source.digest[:12]}…")
        out.text("nothing written (dry run)" if dry_run else f"published {reference}   sha256:{source.digest[:12]}…")

    out.answer(document, human=human, identifier=reference)
    out.hint(
        shlex.join(["mwactl", "registry", "add", folder, *given]) if dry_run else f"mwactl registry show {reference}"
    )


def _add_from_authors(
    from_authors: Path,
    name: str | None,
    backbone: str | None,
    alpha: float | None,
    layer_norm: str | None,
    *,
    download: bool,
    dry_run: bool,
) -> None:
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
    out.text(f"{adoption.file.name}   sha256:{foreign.sha256[:12]}…   on {foreign.backbone}")
    out.text(f"{adapter.description()}, {model.trainable_count():,} parameters")
    print_fact("options", dict(foreign.options))
    entry = adoption.injection.entry
    out.text(f"backbone  {adoption.backbone_file}")
    out.text(
        "nothing written (dry run)" if entry is None else f"published {entry.reference}   sha256:{entry.digest[:12]}…"
    )
