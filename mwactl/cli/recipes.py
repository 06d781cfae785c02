"""`mwactl recipes`: find a recipe, read it, make it one's own, check it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out

if TYPE_CHECKING:
    from mwactl.config import LoadedRecipe

app = typer.Typer(help="Recipes: everything that decides what an adapter becomes.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A recipe that comes with mwactl (mwactl recipes list).")]


@app.command("list", epilog="Example: mwactl recipes list  Next: mwactl recipes show coco")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the recipes that come with mwactl."""
    from mwactl.config import packaged_recipes

    rows = [{"name": recipe.name, "description": recipe.description} for recipe in packaged_recipes().values()]
    columns = [Column("name", "name", keep=True), Column("description", "what for", keep=True)]
    out.answer(
        {"schema": 1, "recipes": rows},
        human=lambda: out.table(rows, columns),
        identifier="\n".join(row["name"] for row in rows),
    )
    out.hint(f"mwactl recipes show {rows[0]['name']}")


@app.command(epilog="Example: mwactl recipes show coco  Next: mwactl recipes copy coco")
def show(name: Name, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Print a recipe that comes with mwactl, comments and all."""
    from mwactl.config import packaged_recipe

    recipe = packaged_recipe(name)
    document = {"schema": 1, "name": recipe.name, "description": recipe.description, "text": recipe.text}
    out.answer(document, human=lambda: out.text(recipe.text.rstrip("\n")), identifier=recipe.name)
    out.hint(f"mwactl recipes copy {recipe.name}")


@app.command(epilog="Example: mwactl recipes copy coco my-coco.yaml  Next: mwactl recipes check my-coco.yaml")
def copy(
    name: Name,
    to: Annotated[
        Path | None, typer.Argument(metavar="TO", help="A file or a folder. Default: NAME.yaml, here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe that comes with mwactl, to change it."""
    from mwactl.config import packaged_recipe

    recipe = packaged_recipe(name)
    target = recipe.copy_to(to or Path(), replace=force)
    document = {"schema": 1, "name": recipe.name, "path": str(target)}
    out.answer(document, human=lambda: out.text(f"wrote {target}"), identifier=str(target))
    out.hint(f"mwactl recipes check {shlex.quote(str(target))}")


@app.command(epilog="Example: mwactl recipes check coco.yaml train.epochs=5  Next: mwactl train coco.yaml")
def check(
    recipe: Annotated[str, typer.Argument(metavar="FILE", help="A recipe's file, or the name of a packaged one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OPTION=VALUE", help="Changes, for example train.epochs=5.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole recipe, and where each value comes from.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a recipe: every mistake at once, by line. Nothing is trained, no data is read."""
    from mwactl.config import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    announce(loaded)
    document = {
        "schema": 1,
        "source": loaded.source,
        "packaged": loaded.packaged,
        "overrides": list(loaded.overrides),
        "digest": f"sha256:{loaded.digest}",
        "recipe": loaded.as_dict(),
    }

    def human() -> None:
        if print_config:
            out.text(loaded.as_yaml(origins=True).rstrip("\n"))
        else:
            out.text(f"ok: {loaded.source}")
            out.table(_plan(loaded), [Column("what", "", keep=True), Column("value", "", keep=True)])

    out.answer(document, human=human, identifier=f"sha256:{loaded.digest}")
    out.hint(shlex.join(["mwactl", "train", recipe, *loaded.overrides]))


def announce(loaded: LoadedRecipe) -> None:
    """Say that a recipe came with the package, where the user may think it is a file."""
    if loaded.packaged:
        name = loaded.source.rpartition(" ")[2]
        out.info(f"using the {loaded.source}; to change it: mwactl recipes copy {name}")


def _plan(loaded: LoadedRecipe) -> list[dict[str, Any]]:
    """What the recipe would do, line by line."""
    recipe = loaded.recipe
    mwa, data, train = recipe.method.mwa, recipe.data, recipe.train
    method: str = recipe.method.name
    if method == "mwa":
        sizes = f"Knowledge Extractor {mwa.knowledge_extractor}, Alignment Enhancer {mwa.alignment_enhancer}"
        method += f": {sizes}, {mwa.layers} layers, {' and '.join(mwa.modalities)}"
    validation = f"best epoch by {data.val_split}" if data.val_split else "no validation, the last epoch is kept"
    lines = {
        "adapter": recipe.name,
        "backbone": f"{recipe.backbone.name}, weights: {recipe.backbone.weights or 'its own'}",
        "method": method,
        "data": f"{data.name}: trained on {data.train_split}, {validation}",
        "training": f"{train.epochs} epochs, batches of {train.batch_size:,}, learning rate {train.lr:g}",
        "digest": f"sha256:{loaded.digest}",
    }
    return [{"what": what, "value": value} for what, value in lines.items()]
