"""`mwactl backbones`: what can be adapted."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_backbone
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out
from mwactl.errors import Interrupted

if TYPE_CHECKING:
    from mwactl.backbone import BackboneSpec

app = typer.Typer(help="Backbones: the models that can be adapted.", no_args_is_help=True)


@app.command("list", epilog="Example: mwactl backbones list  Next: mwactl backbones show clip-vit-b-32")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the backbones that have a short name. Any other open_clip model is `clip:MODEL[/TAG]`, a folder
    of one's own `FAMILY:local-dir:FOLDER`."""
    from mwactl.backbone import all_specs

    rows = [_facts(spec) for spec in all_specs()]
    columns = [
        Column("name", "NAME", keep=True),
        Column("family", "FAMILY"),
        Column("summary", "SIZE"),
        Column("default_weights", "WEIGHTS"),
        Column("licence", "LICENCE"),
    ]
    out.answer(
        {"schema": 1, "backbones": rows},
        human=lambda: out.table(rows, columns),
        identifier="\n".join(row["name"] for row in rows),
    )
    out.hint("mwactl backbones show NAME")


@app.command(
    epilog="Example: mwactl backbones show clip-vit-b-32  Next: mwactl inject --backbone clip-vit-b-32 --dry-run"
)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A backbone.", autocompletion=complete_backbone)],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a backbone's sizes, where modules attach, and its published files.

    Builds it on the meta device: seconds, no weights.
    """
    from mwactl.backbone import find_spec
    from mwactl.backbone.local_folder import folder_of

    plugin, spec = find_spec(name)
    model = plugin.build_without_weights(spec)
    sites = model.sites()
    towers = {
        modality: {"blocks": len(own), "width": own[0].width, "norm_eps": own[0].eps}
        for modality in ("image", "text")
        if (own := [site for site in sites if modality in site.modalities])
    }
    files = _files(spec)
    document = {
        "schema": 1,
        **_facts(spec),
        "parameters": model.count_parameters(),
        "image_size": list(model.image_size),
        "embedding_width": model.embedding_width,
        "towers": towers,
        "files": files,
    }

    def human() -> None:
        out.text(
            f"{spec.name}   {document['parameters']:,} parameters   {model.image_size[0]}×{model.image_size[1]} px"
        )
        for modality, tower in towers.items():
            out.text(f"  {modality}: {tower['blocks']} blocks of width {tower['width']}")
        licence = f"   licence: {spec.licence}" if spec.licence else ""
        own = "its own folder, or --weights FILE" if folder_of(spec) else "none of its own: --weights FILE, or random"
        out.text(f"  weights: {spec.default_weights or own}{licence}")
        for file in files:
            place = "here" if file["here"] else "not here"
            out.text(f"    {file['tag']}: {file['filename']} ({place})  {file['summary']}".rstrip())

    out.answer(document, human=human, identifier=spec.name)
    out.hint(f"mwactl inject --backbone {name} --dry-run")


@app.command(
    epilog="Example: mwactl backbones pull beit3-base --weights itc  Next: mwactl inject --backbone beit3-base"
)
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A backbone.", autocompletion=complete_backbone)],
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="The tag of published weights (default: the backbone's), or `tokenizer`."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a backbone's published weights and its tokenizer. An interrupted download goes on where it stopped."""
    from mwactl.backbone import find_spec

    plugin, spec = find_spec(name)
    choice = f" --weights {weights}" if weights is not None else ""
    try:
        paths = [str(path) for path in plugin.pull(spec, weights, out)]
    except Interrupted as stop:
        again = f"mwactl backbones pull {name}{choice}"
        raise Interrupted("interrupted; what has come is kept", fix=again) from stop

    def human() -> None:
        for path in paths:
            out.text(path)

    document = {"schema": 1, "name": spec.name, "paths": paths}
    out.answer(document, human=human, identifier="\n".join(paths))
    out.hint(f"mwactl inject --backbone {name}{choice if weights != 'tokenizer' else ''}")


@app.command(
    epilog="Example: mwactl backbones new my-encoder --into plugins  "
    "Next: mwactl inject --backbone my-encoder --weights random"
)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the plugin and its backbone: my-encoder.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Where its folder is made.")] = Path(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a plugin package: a tiny dual encoder that works, to be changed into a backbone of your own.

    What to change is explained in docs/plugin.md.
    """
    from mwactl.scaffold import write_scaffold

    files = [str(path) for path in write_scaffold(name, into)]
    folder = str(into / name)
    out.answer(
        {"schema": 1, "name": name, "path": folder, "files": files},
        human=lambda: out.text("\n".join(f"wrote {file}" for file in files)),
        identifier=folder,
    )
    place = shlex.quote(folder)
    out.hint(f"pip install -e {place} && pytest {place} && mwactl inject --backbone {name} --weights random")


def _facts(spec: BackboneSpec) -> dict[str, Any]:
    """What a row of a list says; the files are told by `show`."""
    return {key: value for key, value in asdict(spec).items() if key not in ("files", "tokenizer")}


def _files(spec: BackboneSpec) -> list[dict[str, Any]]:
    """The published files, and which of them are on this machine."""
    from mwactl.backbone.store import is_here

    return [
        {"tag": file.tag, "filename": file.filename, "here": is_here(spec, file), "summary": file.summary}
        for file in (*spec.files, *([spec.tokenizer] if spec.tokenizer else []))
    ]
