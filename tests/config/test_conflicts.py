from __future__ import annotations

import pytest

from mwactl.config import Recipe
from mwactl.config.options import written


@pytest.mark.parametrize(
    ("more", "line", "what"),
    [
        (
            "method:\n  mwa:\n    knowledge_extractor: 0\n    alignment_enhancer: 0\n",
            9,
            "neither a Knowledge Extractor",
        ),
        ("method:\n  mwa:\n    modalities: []\n", 8, "`modalities` is empty"),
        ("method:\n  mwa:\n    modalities: [text, text]\n", 8, "names a tower twice"),
        ("method:\n  mwa:\n    modalities: [image]\n    share_enhancer: towers\n", 9, "does not go with one tower"),
        ("method:\n  mwa:\n    alpha: 0\n", 8, "`alpha` is 0"),
        ("method:\n  mwa:\n    beta: 0.0\n", 8, "`beta` is 0"),
        ("method:\n  mwa:\n    preset: authors-code\n    bias: no\n", 9, "`bias` cannot be changed"),
        ("train:\n  batch_size: 1\n", 7, "`train.batch_size` must be at least 2"),
        ("train:\n  min_lr: 0.01\n", 7, "`train.min_lr` (0.01) is above `train.lr` (0.001)"),
        ("train:\n  lr: 1e-4\n  min_lr: 1e-3\n", 8, "is above `train.lr` (0.0001)"),
        ("train:\n  shard_backbone: true\n  micro_batch_size: auto\n", 8, "`train.micro_batch_size: auto` does not go"),
        ("method:\n  name: full\ntrain:\n  shard_backbone: true\n", 9, "`train.shard_backbone` has nothing to shard"),
    ],
)
def test_conflict_is_found_on_the_line_that_makes_it(problems_of, minimal, more, line, what):
    (problem,) = problems_of(minimal + more)
    assert what in problem.what
    assert problem.where == f"r.yaml line {line}"
    assert problem.why and problem.fix


def test_a_batch_with_no_two_whole_pictures_is_a_conflict(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}  captions_per_image: 5\ntrain:\n  batch_size: 9\n")
    assert problem.what == "a batch of 9 pairs has no two pictures with 5 captions"
    assert problem.where == "r.yaml line 6"
    assert "train.batch_size: 320" in problem.fix


def test_two_whole_pictures_are_enough_and_a_batch_need_not_come_out_even(parsed):
    assert parsed("train: {batch_size: 10}\n", ["data.captions_per_image=5"]).data.captions_per_image == 5
    assert parsed("train: {batch_size: 256}\n", ["data.captions_per_image=5"]).train.batch_size == 256


@pytest.mark.parametrize(("written", "value"), [("auto", "auto"), ("64", 64), ("null", None), ("1000", 1000)])
def test_a_micro_batch_is_a_number_auto_or_none(parsed, written, value):
    assert parsed(overrides=[f"train.micro_batch_size={written}"]).train.micro_batch_size == value


@pytest.mark.parametrize("written", ["0", "-1", "all", "2.5"])
def test_a_micro_batch_is_nothing_else(problems_of, minimal, written):
    (problem,) = problems_of(minimal, [f"train.micro_batch_size={written}"])
    assert problem.what.startswith("`train.micro_batch_size` must be a whole number (above 0) or `auto` or `null`")


def test_validating_on_the_training_split_is_a_conflict_whichever_of_the_two_was_written(problems_of, minimal):
    for line in ("train_split: val", "val_split: train"):
        (problem,) = problems_of(f"{minimal}  {line}\n")
        assert "validates on the split it trains on" in problem.what
        assert problem.where == "r.yaml line 6"


@pytest.mark.parametrize(
    "change",
    ["alignment_enhancer: 5", "beta: learned", "beta: 0.5", "bias: no", "activation: gelu", "share_enhancer: no"],
)
def test_authors_code_refuses_what_the_public_code_cannot_do(problems_of, minimal, change):
    (problem,) = problems_of(f"{minimal}method: {{mwa: {{preset: authors-code, {change}}}}}\n")
    assert f"`{change.partition(':')[0]}` cannot be changed" in problem.what


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("knowledge_extractor", 5),
        ("knowledge_extractor", 0),
        ("alignment_enhancer", 0),
        ("alpha", 0.6),
        ("alpha", "learned"),
        ("layer_norm", True),
        ("dropout", 0.0),
    ],
)
def test_authors_code_takes_what_the_public_code_has_an_option_for(parsed, option, value):
    mwa = parsed(overrides=["method.mwa.preset=authors-code", f"method.mwa.{option}={written(value)}"]).method.mwa
    assert getattr(mwa, option) == value


def test_authors_code_reports_each_changed_option(problems_of, minimal):
    overrides = [f"method.mwa.{change}" for change in ("preset=authors-code", "activation=gelu", "share_enhancer=no")]
    problems = problems_of(minimal, overrides)
    assert {problem.where for problem in problems} == {f'override "{override}"' for override in overrides[1:]}


def test_authors_code_says_how_to_leave_the_enhancer_out(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}method: {{mwa: {{preset: authors-code, alignment_enhancer: 64}}}}\n")
    assert problem.fix.startswith("write 0 to leave it out")


def test_authors_code_keeps_layers_and_modalities_open(parsed):
    mwa = parsed("method: {mwa: {preset: authors-code, layers: last 2, modalities: [image]}}\n").method.mwa
    assert (mwa.preset, mwa.layers, mwa.modalities) == ("authors-code", "last 2", ("image",))


@pytest.mark.parametrize("method", ["head", "full"])
def test_options_of_mwa_do_not_stop_the_baselines(parsed, method):
    recipe: Recipe = parsed(f"method:\n  name: {method}\n  mwa: {{knowledge_extractor: 0, alignment_enhancer: 0}}\n")
    assert recipe.method.name == method


@pytest.mark.parametrize("module", ["knowledge_extractor", "alignment_enhancer"])
def test_one_of_the_two_modules_may_be_left_out(parsed, module):
    assert getattr(parsed(overrides=[f"method.mwa.{module}=0"]).method.mwa, module) == 0


def test_boundaries_are_no_conflict(parsed):
    train = parsed("train: {batch_size: 2, lr: 1e-3, min_lr: 1e-3}\n").train
    assert (train.batch_size, train.min_lr) == (2, train.lr)


def test_conflicts_are_found_beside_other_mistakes(problems_of, minimal):
    problems = problems_of(f"{minimal}train:\n  batch_size: 1\n  epochs: many\nname2: x\n")
    assert [problem.where for problem in problems] == ["r.yaml line 7", "r.yaml line 8", "r.yaml line 9"]


def test_wrong_value_is_not_also_a_conflict(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train:\n  lr: x\n  min_lr: 0.1\n")
    assert problem.what.startswith("`train.lr` must be")
