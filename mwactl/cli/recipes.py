"""`mwactl recipes`: find a recipe, read it, make it one's own, check it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_recipe
from mwactl.cli.options import Debug, Json, Overrides, Quiet
from mwactl.cli.output import Column, out

if TYPE_CHECKING:
    from mwactl.config import LoadedRecipe

app = typer.Typer(help="Recipes: everything that decides what an adapter becomes.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A recipe that comes with mwactl (mwactl recipes list).", autocompletion=complete_recipe
    ),
]
SomeRecipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe's file, or the name of a packaged one.", autocompletion=complete_recipe
    ),
]


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


@app.command(
    epilog="Example: mwactl recipes show my-coco.yaml train.lr=1e-4 --resolved  Next: mwactl recipes copy coco"
)
def show(
    recipe: SomeRecipe,
    overrides: Overrides = None,
    resolved: Annotated[
        bool,
        typer.Option(
            "--resolved", help="Every option, and where its value comes from: the default, a file, an override."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print a recipe: as it was written, or (--resolved, or with overrides) as it will be used."""
    from mwactl.config import description_of, find_recipe, read_recipe

    text = find_recipe(recipe)
    if resolved or overrides:
        print_resolved(read_recipe(text, overrides or ()))
        return
    name = text.source.rpartition(" ")[2] if text.packaged else text.source
    document = {
        "schema": 1, "name": name, "packaged": text.packaged, "description": description_of(text.text),
        "text": text.text,
    }  # fmt: skip
    out.answer(document, human=lambda: out.text(text.text.rstrip("\n")), identifier=name)
    out.hint(f"mwactl recipes copy {name}" if text.packaged else f"mwactl recipes check {shlex.quote(name)}")


@app.command(epilog="Example: mwactl recipes copy coco my-coco.yaml  Next: mwactl recipes check my-coco.yaml")
def copy(
    name: Name,
    to: Annotated[
        Path | None, typer.Argument(metavar="TO", help="A file or a folder. Default: NAME.yaml, here.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="And a JSON schema beside it, for an editor that checks what you type.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe that comes with mwactl, to change it."""
    from mwactl.config import packaged_recipe
    from mwactl.config.schema import MODELINE, SCHEMA_FILE, recipe_schema_json
    from mwactl.files import atomic_write

    recipe = packaged_recipe(name)
    target = recipe.copy_to(to or Path(), replace=force, second_line=MODELINE if schema else None)
    written = [target]
    if schema:
        written.append(target.with_name(SCHEMA_FILE))
        atomic_write(written[-1], recipe_schema_json().encode())
    document = {"schema": 1, "name": recipe.name, "path": str(target)}
    out.answer(document, human=lambda: out.text("\n".join(f"wrote {file}" for file in written)), identifier=str(target))
    out.hint(f"mwactl recipes check {shlex.quote(str(target))}")


@app.command(epilog="Example: mwactl recipes check coco.yaml train.epochs=5  Next: mwactl train coco.yaml")
def check(
    recipe: SomeRecipe,
    overrides: Overrides = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="As `mwactl recipes show --resolved`.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a recipe: every mistake at once, by line. Nothing is trained, no data is read."""
    from mwactl.config import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    announce(loaded)
    if print_config:
        print_resolved(loaded)
        return

    def human() -> None:
        out.text(f"ok: {loaded.source}")
        out.table(_plan(loaded), [Column("what", "", keep=True), Column("value", "", keep=True)])

    out.answer(_document(loaded), human=human, identifier=f"sha256:{loaded.digest}")
    out.hint(shlex.join(["mwactl", "train", recipe, *loaded.overrides]))


@app.command(epilog="Example: mwactl recipes schema > recipe.json  Next: mwactl recipes copy coco --schema")
def schema(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Print the JSON schema of a recipe's file, for an editor or a program that writes recipes."""
    from mwactl.config.schema import SCHEMA_FILE, recipe_schema, recipe_schema_json

    text = recipe_schema_json()
    document = {"schema": 1, "json_schema": recipe_schema()}
    out.answer(document, human=lambda: out.text(text.rstrip("\n")), identifier=SCHEMA_FILE)


def announce(loaded: LoadedRecipe) -> None:
    """Say that a recipe came with the package, where the user may think it is a file."""
    if loaded.packaged:
        name = loaded.source.rpartition(" ")[2]
        out.info(f"using the {loaded.source}; to change it: mwactl recipes copy {name}")


def print_resolved(loaded: LoadedRecipe) -> None:
    """Answer with the whole recipe, and where each value comes from."""
    yaml = loaded.as_yaml(origins=True).rstrip("\n")
    out.answer(_document(loaded), human=lambda: out.text(yaml), identifier=f"sha256:{loaded.digest}")


def _document(loaded: LoadedRecipe) -> dict[str, Any]:
    """A recipe as JSON: what it is, and where that comes from."""
    return {
        "schema": 1,
        "source": loaded.source,
        "packaged": loaded.packaged,
        "extends": list(loaded.extends),
        "overrides": list(loaded.overrides),
        "digest": f"sha256:{loaded.digest}",
        "recipe": loaded.as_dict(),
        "origins": loaded.all_origins(),
    }


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
        "extends": ", ".join(loaded.extends),
        "backbone": f"{recipe.backbone.name}, weights: {recipe.backbone.weights or 'its own'}",
        "method": method,
        "data": f"{data.name}: trained on {data.train_split}, {validation}",
        "training": f"{train.epochs} epochs, batches of {train.batch_size:,}, learning rate {train.lr:g}",
        "digest": f"sha256:{loaded.digest}",
    }
    return [{"what": what, "value": value} for what, value in lines.items() if value]
