"""`mwactl backbones`: what can be adapted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out

app = typer.Typer(help="Backbones: the models that can be adapted.", no_args_is_help=True)


@app.command("list", epilog="Example: mwactl backbones list  Next: mwactl backbones show clip-vit-b-32")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the backbones that have a short name. Any other open_clip model is `clip:MODEL[/TAG]`."""
    from mwactl.backbone import all_specs

    rows = [asdict(spec) for spec in all_specs()]
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="A backbone.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a backbone's sizes and where modules attach. Builds it on the meta device: seconds, no weights."""
    from mwactl.backbone import find_spec

    plugin, spec = find_spec(name)
    model = plugin.build_without_weights(spec)
    sites = model.sites()
    towers = {
        modality: {"blocks": len(own), "width": own[0].width, "norm_eps": own[0].eps}
        for modality in ("image", "text")
        if (own := [site for site in sites if modality in site.modalities])
    }
    document = {
        "schema": 1,
        **asdict(spec),
        "parameters": model.count_parameters(),
        "image_size": list(model.image_size),
        "embedding_width": model.embedding_width,
        "towers": towers,
    }

    def human() -> None:
        out.text(
            f"{spec.name}   {document['parameters']:,} parameters   {model.image_size[0]}×{model.image_size[1]} px"
        )
        for modality, tower in towers.items():
            out.text(f"  {modality}: {tower['blocks']} blocks of width {tower['width']}")
        out.text(f"  weights: {spec.default_weights or 'its own folder, or --weights FILE'}   licence: {spec.licence}")

    out.answer(document, human=human, identifier=spec.name)
    out.hint(f"mwactl inject --backbone {name} --dry-run")
