"""The command tree: one line a command, each in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer

import mwactl
from mwactl.cli import backbones, card, data, eval, help, inject, quickstart, recipes, registry, train
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
app.command("eval", epilog="Example: mwactl eval --zero-shot flickr30k  Next: mwactl registry list")(eval.evaluate)
app.command("card", epilog="Example: mwactl card coco-mwa@3 -o README.md  Next: mwactl card coco-mwa@3 --check")(
    card.card
)
app.add_typer(backbones.app, name="backbones")
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.add_typer(registry.app, name="registry")
app.add_typer(help.app, name="help")
