from __future__ import annotations

import pytest


def test_number_without_a_dot_is_a_number(parsed):
    """YAML 1.1 reads `1e-3` as a string."""
    train = parsed("train: {lr: 1e-3, weight_decay: 5E-2, min_lr: 1.e-6}\n").train
    assert (train.lr, train.weight_decay, train.min_lr) == (0.001, 0.05, 1e-6)


@pytest.mark.parametrize(
    "text", ["no", "on", "yes", "Off", "007", "1_000", "0x1F", "12:30:45", "1e3", "2020-01-01", "1.0"]
)
def test_text_option_keeps_what_was_typed(parsed, text):
    assert parsed(f"  train_split: {text}\n").data.train_split == text
    assert parsed(f"  train_split: '{text}'\n").data.train_split == text


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("on", True), ("true", True), ("no", False), ("Off", False)]
)
def test_switch_takes_every_spelling_of_yaml(parsed, text, value):
    assert parsed(f"method: {{mwa: {{bias: {text}}}}}\n").method.mwa.bias is value


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_null_is_none_where_an_option_may_be_unset(parsed, null):
    recipe = parsed(f"  val_split: {null}\ntrain:\n  clip_norm: {null}\n")
    assert recipe.data.val_split is None
    assert recipe.train.clip_norm is None


def test_quoted_null_is_text(parsed):
    assert parsed("  val_split: 'null'\n").data.val_split == "null"


def test_leading_zeros_do_not_make_a_number_octal(parsed):
    assert parsed("train: {seed: 010}\n").train.seed == 10


def test_duplicate_key_names_both_lines(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train:\n  lr: 1\n  epochs: 2\n  lr: 2\n")
    assert (problem.what, problem.where) == ("`lr` is given twice", "r.yaml line 9")
    assert problem.why == "first in r.yaml line 7"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("name: a\nbackbone:\n  name: b: c\n", 3, "mapping values are not allowed here"),
        ("name: a\nbackbone: [x\n", 3, "expected ',' or ']'"),
        ("name: a\n---\nname: b\n", 2, "but found another document"),
        ("name: %b\n", 1, "cannot start any token"),
    ],
)
def test_syntax_error_is_reported_with_its_line(problems_of, text, line, why):
    (problem,) = problems_of(text)
    assert problem.where == f"r.yaml line {line}"
    assert why in problem.why


def test_tab_is_named_as_the_cause(problems_of):
    (problem,) = problems_of("name: a\nbackbone:\n\tname: b\n")
    assert (problem.where, problem.fix) == ("r.yaml line 3", "indent with blanks; YAML allows no tabs")


def test_alias_is_refused_where_it_is_used(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train: &t\n  lr: 1\nmethod: *t\n")
    assert problem.where == "r.yaml line 8"
    assert "no aliases" in problem.why


def test_tag_is_refused_and_nothing_is_constructed(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train: !!python/object/apply:os.getcwd []\n")
    assert problem.where == "r.yaml line 6"
    assert "no tags" in problem.why


def test_forbidden_character_is_reported_with_its_line(problems_of):
    (problem,) = problems_of("name: a\nbackbone: {name: 'b\x07'}\n")
    assert (problem.where, problem.what) == ("r.yaml line 2", "the character U+0007 is not allowed in YAML")


def test_nesting_without_end_is_refused(problems_of):
    (problem,) = problems_of("name: " + "[" * 5000)
    assert problem.what == "this is nested too deep to be read"


@pytest.mark.parametrize(("text", "why"), [("", "empty"), ("#\n", "empty"), ("- a\n", "a list"), ("a", "single value")])
def test_recipe_that_is_no_mapping_is_refused(problems_of, text, why):
    (problem,) = problems_of(text)
    assert problem.what == "a recipe must be `option: value` lines"
    assert why in problem.why


def test_option_named_by_a_list_is_refused(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}? [a, b]\n: 1\n")
    assert (problem.where, problem.what) == ("r.yaml line 6", "an option's name must be a word")
