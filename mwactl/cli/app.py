"""The command tree: one line a command, each in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer

import mwactl
from mwactl.cli import (
    backbones,
    bench,
    card,
    compare,
    data,
    doctor,
    embed,
    eval,
    export,
    help,
    index,
    inject,
    merge,
    quickstart,
    recipes,
    registry,
    runs,
    search,
    train,
    verify,
)
from mwactl.cli.options import Debug, Json, Quiet

app = typer.Typer(
    name="mwactl",
    help="Inject, train, evaluate and keep MultiWay-Adapters for image-text retrieval.",
    epilog="Start here: mwactl quickstart",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"mwactl {mwactl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Inject, train, evaluate and keep MultiWay-Adapters for image-text retrieval."""


app.command("quickstart", epilog="Example: mwactl quickstart  Next: mwactl registry list")(quickstart.quickstart)
app.command("inject", epilog="Example: mwactl inject --backbone clip-vit-b-32 --dry-run  Next: mwactl recipes list")(
    inject.inject
)
app.command("train", epilog="Example: mwactl train coco.yaml train.epochs=5  Next: mwactl eval --data coco")(
    train.train
)
app.command("merge", epilog="Example: mwactl merge coco-mwa@3  Next: mwactl export coco-mwa-merged --onnx")(merge.merge)
app.command("eval", epilog="Example: mwactl eval --zero-shot flickr30k  Next: mwactl registry list")(eval.evaluate)
app.command(
    "compare",
    epilog="Example: mwactl compare coco-mwa@3 coco-mwa@4 --data coco --fail-below t2i.R@1=-0.5  "
    "Next: mwactl registry diff coco-mwa@3 coco-mwa@4",
)(compare.compare)
app.command(
    "export",
    epilog="Example: mwactl export coco-mwa:prod --onnx --quantize int8 --gate t2i.R@1=0.5 --data coco  "
    "Next: mwactl verify ./coco-mwa@3-onnx-int8",
)(export.export)
app.command(
    "verify",
    epilog="Example: mwactl verify coco-mwa-onnx  Next: mwactl embed ./coco-mwa-onnx photographs -o photos.emb",
)(verify.verify)
app.command("card", epilog="Example: mwactl card coco-mwa@3 -o README.md  Next: mwactl card coco-mwa@3 --check")(
    card.card
)
app.command(
    "embed",
    epilog="Example: mwactl embed coco-mwa@3 photographs -o photographs.emb  Next: mwactl search photographs.emb",
)(embed.embed)
app.command("index", epilog="Example: mwactl index photographs.emb --approximate  Next: mwactl search photographs.emb")(
    index.index
)
app.command(
    "search", epilog='Example: mwactl search photographs.emb "two dogs on a beach" -k 5  Next: mwactl help exit-codes'
)(search.search)
app.command("doctor", epilog="Example: mwactl doctor --json > doctor.json  Next: mwactl quickstart")(doctor.doctor)
app.add_typer(backbones.app, name="backbones")
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.add_typer(registry.app, name="registry")
app.add_typer(runs.app, name="runs")
app.add_typer(help.app, name="help")
