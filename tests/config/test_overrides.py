from __future__ import annotations

import pytest

from mwactl.errors import UsageError


def test_override_replaces_what_the_file_says(parsed):
    assert parsed("train: {epochs: 3}\n", ["train.epochs=5"]).train.epochs == 5


def test_override_reaches_sections_the_file_does_not_have(parsed):
    assert parsed("", ["method.mwa.alpha=learned"]).method.mwa.alpha == "learned"


def test_last_override_of_an_option_wins(parsed):
    assert parsed("", ["train.epochs=5", "train.epochs=6"]).train.epochs == 6


def test_override_is_split_at_the_first_equals_sign(parsed):
    assert parsed("", ["backbone.weights=/w/a=b.pt"]).backbone.weights == "/w/a=b.pt"


@pytest.mark.parametrize("text", ["007", "on", "a: b", "[x", "{x}", "# x", "'x'", "*x", "None"])
def test_text_option_takes_the_raw_value(parsed, text):
    assert parsed("", [f"backbone.weights={text}"]).backbone.weights == text


@pytest.mark.parametrize("text", ["null", "~"])
def test_null_unsets(parsed, text):
    recipe = parsed("", [f"data.val_split={text}", f"train.clip_norm={text}"])
    assert (recipe.data.val_split, recipe.train.clip_norm) == (None, None)


def test_numbers_switches_and_lists_follow_the_rules_of_the_file(parsed):
    recipe = parsed(
        "", ["train.lr=1e-4", "method.mwa.bias=off", "train.betas=[0.8, 0.9]", "method.mwa.modalities=[text]"]
    )
    assert (recipe.train.lr, recipe.method.mwa.bias, recipe.train.betas) == (1e-4, False, (0.8, 0.9))
    assert recipe.method.mwa.modalities == ("text",)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.batch_size=64x", "`train.batch_size` must be a whole number (above 0)"),
        ("train.betas=[1", "this is not a recipe's YAML"),
        ("train.lr=", "`train.lr` must be a number (above 0)"),
        ("backbone.name=", "`backbone.name` must be text (not empty)"),
        ("data.train_split=null", None),
        ("train.epochs", "an override is `option=value`"),
        ("train=3", "`train` is a section"),
        ("trian.lr=3", "there is no option `trian.lr`"),
        ("name.x=3", "there is no option `name.x`"),
        ("=3", "an override is `option=value`"),
    ],
)
def test_mistake_in_an_override_is_reported_with_the_override(problems_of, parsed, minimal, override, what):
    if what is None:
        assert parsed("", [override]).data.train_split == "null"
        return
    first = problems_of(minimal, [override])[0]
    assert isinstance(first, UsageError)
    assert (first.what, first.where) == (what, f'override "{override}"')


def test_bare_option_name_gets_its_full_path(problems_of, minimal):
    (problem,) = problems_of(minimal, ["lr=1e-4"])
    assert "did you mean `train.lr`?" in problem.why
    assert "train.lr=… on the command line" in problem.fix


def test_mistakes_of_overrides_follow_those_of_the_file(problems_of, minimal):
    problems = problems_of(f"{minimal}train:\n  lr: x\n", ["train.epochs=x", "oops=1"])
    assert problems[0].where == "r.yaml line 7"
    assert {problem.where for problem in problems[1:]} == {'override "train.epochs=x"', 'override "oops=1"'}


def test_override_of_a_wrong_value_repairs_the_recipe(parsed):
    assert parsed("train: {epochs: many}\n", ["train.epochs=5"]).train.epochs == 5


def test_override_into_something_that_is_no_section_leaves_the_files_mistake(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train: 3\n", ["train.epochs=5"])
    assert problem.where == "r.yaml line 6"


def test_conflict_made_by_an_override_is_reported_there(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train:\n  lr: 1e-3\n", ["train.min_lr=1"])
    assert problem.where == 'override "train.min_lr=1"'
