from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.config import load_recipe, packaged_recipe, parse_recipe
from mwactl.config.extends import LONGEST_CHAIN
from mwactl.errors import MwactlError, RecipeError, UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; recipes are written into it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def problems_of(name: str, *overrides: str) -> list[MwactlError]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    return caught.value.problems


def test_a_recipe_changes_single_options_of_the_one_it_extends_and_lists_are_replaced_whole(minimal):
    write("base.yaml", f"{minimal}method: {{mwa: {{alpha: 0.5, modalities: [image, text]}}}}\ntrain: {{lr: 1e-4}}\n")
    write(
        "mine.yaml", "extends: base.yaml\nname: other\nmethod:\n  mwa:\n    modalities: [text]\ntrain:\n  epochs: 3\n"
    )
    recipe = load_recipe("mine.yaml", ["train.warmup=0.2"]).recipe
    assert (recipe.name, recipe.backbone.name, recipe.data.name) == ("other", "clip-vit-b-32", "pictures")
    assert (recipe.method.mwa.alpha, recipe.method.mwa.modalities) == (0.5, ("text",))
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.warmup) == (1e-4, 3, 0.2)


def test_null_takes_back_what_the_other_recipe_says(minimal):
    write("base.yaml", f"{minimal}  val_split: dev\ntrain: {{clip_norm: 2}}\n")
    recipe = parse_recipe("extends: base.yaml\ndata: {val_split: null}\ntrain: {clip_norm: null}\n").recipe
    assert (recipe.data.val_split, recipe.train.clip_norm) == (None, None)


def test_the_identity_is_that_of_the_recipe_that_comes_out(minimal):
    write("base.yaml", f"{minimal}train: {{epochs: 3}}\n")
    write("mine.yaml", "extends: base.yaml\ntrain: {lr: 1e-4}\n")
    extended, whole = load_recipe("mine.yaml"), parse_recipe(f"{minimal}train: {{epochs: 3, lr: 1e-4}}\n")
    assert extended.digest == whole.digest
    assert "extends" not in extended.as_dict()
    again = parse_recipe(extended.as_yaml())
    assert (again.digest, again.extends) == (extended.digest, ())


def test_every_value_says_in_which_file_it_stands(minimal):
    write("base/base.yaml", f"# the first\n{minimal}")
    write("base/middle.yaml", "extends: base.yaml\ntrain:\n  epochs: 3\n")
    write("mine.yaml", "extends: base/middle.yaml\ndata:\n  workers: 0\n")
    loaded = load_recipe("mine.yaml", ["train.lr=1e-4"])
    assert loaded.extends == ("base/middle.yaml", "base/base.yaml")
    origins = loaded.all_origins()
    assert origins["data.name"] == "base/base.yaml line 6"
    assert origins["train.epochs"] == "base/middle.yaml line 3"
    assert origins["data.workers"] == "mine.yaml line 3"
    assert origins["train.lr"] == 'override "train.lr=1e-4"'
    assert origins["train.seed"] == "default"
    assert "  epochs: 3                             # base/middle.yaml line 3\n" in loaded.as_yaml(origins=True)


def test_a_path_starts_at_the_file_that_names_it_not_where_the_command_runs(minimal):
    write("recipes/base.yaml", minimal)
    write("base.yaml", "name: wrong\n")
    write("recipes/mine.yaml", "extends: base.yaml\n")
    assert load_recipe("recipes/mine.yaml").recipe.name == "mine"


def test_an_absolute_path_and_a_packaged_name_can_be_extended(minimal, here):
    write("base.yaml", minimal)
    write("far/mine.yaml", f"extends: {here / 'base.yaml'}\n")
    assert load_recipe("far/mine.yaml").extends == (str(here / "base.yaml"),)
    for name in ("coco", "coco.yaml"):
        loaded = load_recipe(write("mine.yaml", f"extends: {name}\nname: mine\n"))
        assert (loaded.extends, loaded.packaged) == (("packaged recipe coco",), False)
        line = packaged_recipe("coco").text.splitlines().index("  batch_size: 512         # the paper's; every pair of "
                                                               "a batch is a negative of the others") + 1  # fmt: skip
        assert loaded.all_origins()["train.batch_size"] == f"packaged recipe coco line {line}"


def test_every_mistake_names_the_file_in_which_it_stands_and_the_users_own_file_comes_first():
    write("base.yaml", "backbone:\n  name: clip-vit-b-32\ntrain:\n  epochs: many\n  bach_size: 4\n")
    write("mine.yaml", "extends: base.yaml\nname: Wrong Name\ndata:\n  captions: most\n")
    places = ["mine.yaml line 2", "mine.yaml line 3", "mine.yaml line 4", "base.yaml line 4", "base.yaml line 5",
              'override "train.lr=x"']  # fmt: skip
    assert [problem.where for problem in problems_of("mine.yaml", "train.lr=x")] == places


def test_what_repairs_a_mistake_of_the_other_recipe_is_no_mistake(minimal):
    write("base.yaml", f"{minimal}train: {{epochs: many}}\n")
    assert load_recipe(write("mine.yaml", "extends: base.yaml\ntrain: {epochs: 2}\n")).recipe.train.epochs == 2


def test_a_conflict_between_two_recipes_is_the_one_that_lies_on_top(minimal):
    write("base.yaml", f"{minimal}train: {{min_lr: 1e-4}}\n")
    write("mine.yaml", "extends: base.yaml\ntrain:\n  lr: 1e-5\n")
    (problem,) = problems_of("mine.yaml")
    assert ("is above `train.lr`" in problem.what, problem.where) == (True, "mine.yaml line 3")


def test_a_recipe_that_is_not_there_is_a_mistake_of_its_line_and_no_option_is_called_missing():
    write("bases.yaml", "name: a\n")
    write("mine.yaml", "# mine\nextends: base.yaml\ntrain:\n  lr: fast\n")
    missing, wrong = problems_of("mine.yaml")
    assert (missing.where, missing.what) == ("mine.yaml line 2", "`extends`: there is no recipe `base.yaml`")
    assert "did you mean bases.yaml" in missing.why
    assert wrong.where == "mine.yaml line 4"


@pytest.mark.parametrize(("written", "why"), [("[a, b]", "one other"), ("", "empty"), ("{a: b}", "one other")])
def test_exactly_one_recipe_is_extended(minimal, written, why):
    (problem,) = problems_of(write("mine.yaml", f"extends: {written}\n{minimal}"))
    assert (problem.what, problem.where) == ("`extends` must name one recipe", "mine.yaml line 1")
    assert why in problem.why


def test_a_circle_is_refused_with_all_that_are_in_it(minimal):
    write("a.yaml", "extends: sub/b.yaml\n")
    write("sub/b.yaml", f"extends: ../a.yaml\n{minimal}")
    (problem,) = problems_of("a.yaml")
    assert (problem.what, problem.where) == ("a recipe extends itself", "sub/b.yaml line 1")
    assert problem.why == "a.yaml → sub/b.yaml → sub/../a.yaml"


def test_a_copy_that_extends_the_packaged_recipe_of_its_own_name_is_told_how(minimal):
    (problem,) = problems_of(write("coco.yaml", f"extends: coco.yaml\n{minimal}"))
    assert problem.fix == "`extends: coco` is the recipe of the package"
    assert load_recipe(write("coco.yaml", "extends: coco\n")).extends == ("packaged recipe coco",)


@pytest.mark.parametrize(("length", "fine"), [(LONGEST_CHAIN, True), (LONGEST_CHAIN + 1, False)])
def test_a_chain_has_an_end(minimal, length, fine):
    write("0.yaml", minimal)
    for number in range(1, length):
        write(f"{number}.yaml", f"extends: {number - 1}.yaml\n")
    if fine:
        assert len(load_recipe(f"{length - 1}.yaml").extends) == length - 1
    else:
        (problem,) = problems_of(f"{length - 1}.yaml")
        assert (problem.what, problem.where) == ("too long a chain of recipes", "1.yaml line 1")


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("", "a recipe must be `option: value` lines", "base.yaml"),
        ("- a\n", "a recipe must be `option: value` lines", "base.yaml"),
        ("name: a\nb: [\n", "this is not a recipe's YAML", "base.yaml line 3"),
    ],
)
def test_a_file_that_is_no_recipe_cannot_be_extended(text, what, place):
    write("base.yaml", text)
    problems = problems_of(write("mine.yaml", "extends: base.yaml\ntrian: 1\n"))
    assert [(problem.where, problem.what) for problem in problems] == [
        ("mine.yaml line 2", "there is no option `trian`"),
        (place, what),
    ]


def test_a_key_given_twice_in_the_other_file_is_named_there(minimal):
    write("base.yaml", f"{minimal}name: again\n")
    (problem,) = problems_of(write("mine.yaml", "extends: base.yaml\n"))
    assert (problem.where, problem.why) == ("base.yaml line 6", "first in base.yaml line 1")


def test_a_file_that_may_not_be_read_is_named(minimal, monkeypatch):
    write("base.yaml", minimal)
    write("mine.yaml", "extends: base.yaml\n")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "base.yaml":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError) as caught:
        load_recipe("mine.yaml")
    assert caught.value.where == "base.yaml"


def test_a_misspelt_extends_gets_the_right_spelling_and_is_no_override(minimal):
    write("base.yaml", minimal)
    (problem,) = problems_of(write("mine.yaml", f"extend: base.yaml\n{minimal}"))
    assert "did you mean `extends`?" in problem.why
    (problem,) = problems_of(write("mine.yaml", minimal), "extends=coco")
    assert problem.what == "only a file can say what it extends"


@pytest.mark.parametrize("name", ["a" * 300, "/" + "a" * 5000])
def test_an_impossible_path_is_an_error_and_no_bug(minimal, name):
    write("mine.yaml", f"extends: {name}\n{minimal}")
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe("mine.yaml")
