from __future__ import annotations

import pytest

from mwactl.config import recipe_from_dict
from mwactl.errors import RecipeError


def places(problems):
    return [problem.where for problem in problems]


def test_four_different_mistakes_are_four_problems_each_with_its_line(problems_of):
    text = """\
name: mine
backbone:
  name: clip-vit-b-32
data:
  name: pictures
  captions: most
train:
  bach_size: 64
  lr: 1e-4
  min_lr: 1e-3
method: mwa
"""
    problems = problems_of(text)
    assert [(problem.where, problem.what) for problem in problems] == [
        ("r.yaml line 6", "`data.captions` must be `random` or `all`"),
        ("r.yaml line 8", "there is no option `train.bach_size`"),
        ("r.yaml line 10", "`train.min_lr` (0.001) is above `train.lr` (0.0001)"),
        ("r.yaml line 11", "`method` must be a section: its options on the lines below it, indented"),
    ]


def test_every_problem_says_what_where_why_and_what_to_do(problems_of):
    text = (
        "nam: x\nbackbone: {}\ndata: {name: d, workers: -1}\ntrain: {epochs: 0, lr: 1, lr: 2}\nmethod:\ntrain.lr: 3\n"
    )
    for problem in problems_of(text):
        assert problem.where and problem.why and problem.fix, str(problem)
        assert problem.exit_code == 2


def test_misspelt_option_gets_the_one_that_was_meant_with_type_and_default(problems_of, minimal):
    (problem,) = problems_of(minimal + "train:\n  bach_size: 64\n")
    assert problem.why == "did you mean `batch_size`? It is a whole number (above 0); default 256"
    assert problem.fix == "write `batch_size`, or remove it"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr: 1e-3", "train.lr"),
        ("epoch: 3", "train.epochs"),
        ("knowledge_extractor: 8", "method.mwa.knowledge_extractor"),
    ],
)
def test_option_in_the_wrong_section_gets_the_right_one(problems_of, minimal, written, meant):
    (problem,) = problems_of(f"{minimal}{written}\n")
    section, _, name = meant.rpartition(".")
    assert f"did you mean `{meant}`?" in problem.why
    assert f"`{name}: …` under `{section.rpartition('.')[2]}:`" in problem.fix


def test_unknown_option_like_no_other_gets_the_list_of_its_section(problems_of, minimal):
    (problem,) = problems_of(minimal + "zzz: 1\n")
    assert problem.why == "a recipe has: name, backbone, data, method, train"


def test_misspelt_required_option_is_one_problem(problems_of):
    (problem,) = problems_of("nmae: mine\nbackbone: {name: b}\ndata: {name: d}\n")
    assert (problem.what, problem.where) == ("there is no option `nmae`", "r.yaml line 1")


def test_dotted_key_in_a_file_is_told_how_files_nest(problems_of, minimal):
    (problem,) = problems_of(minimal + "train.lr: 1e-3\n")
    assert problem.where == "r.yaml line 6"
    assert problem.fix == "write `lr: …` under `train:` in the file, or train.lr=… on the command line"


def test_missing_options_are_named_at_their_section(problems_of):
    problems = problems_of("# nothing\nbackbone:\n  weights: random\n")
    assert [(problem.what, problem.where) for problem in problems] == [
        ("`name` is missing", "r.yaml"),
        ("`data.name` is missing", "r.yaml"),
        ("`backbone.name` is missing", "r.yaml line 2"),
    ]


@pytest.mark.parametrize(
    ("section", "line", "must_be"),
    [
        ("train", "epochs: 0", "a whole number (above 0)"),
        ("train", "epochs: 2.5", "a whole number (above 0)"),
        ("train", "epochs: true", "a whole number (above 0)"),
        ("train", "epochs: [1]", "a whole number (above 0)"),
        ("train", "epochs:", "a whole number (above 0)"),
        ("train", "lr: .inf", "a number (above 0)"),
        ("train", "lr: inf", "a number (above 0)"),
        ("train", "lr: nan", "a number (above 0)"),
        ("train", "lr: fast", "a number (above 0)"),
        ("train", "warmup: 1", "a number (at least 0 and below 1)"),
        ("train", "betas: 0.9", "a list of 2, each a number (at least 0 and below 1)"),
        ("train", "betas: [0.9]", "a list of 2, each a number (at least 0 and below 1)"),
        ("train", "betas: [0.9, 0.9, 0.9]", "a list of 2, each a number (at least 0 and below 1)"),
        ("train", "clip_norm: 0", "a number (above 0) or `null`"),
        ("train", "device: gpu", "`auto`, `cpu`, `cuda` or `cuda:N`"),
        ("train", "seed: -1", "a whole number (at least 0 and below 4,294,967,296)"),
        ("train", "precision: f16", "`auto`, `fp32`, `bf16` or `fp16`"),
        ("data", "val_split: ''", "text (not empty) or `null`"),
        ("data", "train_split: null", "text (not empty)"),
        ("data", "crop_min_scale: 1.01", "a number (above 0 and at most 1)"),
        ("backbone", "weights: {a: b}", "text (not empty) or `null`"),
    ],
)
def test_wrong_value_is_one_problem_that_says_what_it_must_be(problems_of, section, line, must_be):
    sections = {"backbone": "  name: b\n", "data": "  name: d\n", "train": ""}
    sections[section] += f"  {line}\n"
    text = "name: n\n" + "".join(f"{name}:\n{lines}" for name, lines in sections.items() if lines)
    (problem,) = problems_of(text)
    assert problem.what == f"`{section}.{line.partition(':')[0]}` must be {must_be}"
    assert problem.where == f"r.yaml line {text[: text.index(line)].count(chr(10)) + 1}"


@pytest.mark.parametrize(
    ("line", "must_be", "why"),
    [
        ("alpha: lerned", "a number or `learned` or `null`", "it is `lerned`; did you mean `learned`?"),
        ("alpha: {float: 1}", "a number or `learned` or `null`", "it is a section with options of its own"),
        ("beta: inf", "a number or `learned`", "it is `inf`"),
        ("layers: frist 3", "`all` or `first N` or `last N`", "it is `frist 3`"),
        ("layers: first 0", "`all` or `first N` or `last N`", "it is `first 0`"),
        ("modalities: [image, txt]", "a list, each `image` or `text`", "it has `txt`; did you mean `text`?"),
        ("layer_norm: maybe", "`true` or `false` or `null`", "it is `maybe`"),
        ("dropout: 1.0", "a number (at least 0 and below 1) or `null`", "it is `1.0`"),
    ],
)
def test_unions_and_lists_give_one_message_each(problems_of, minimal, line, must_be, why):
    (problem,) = problems_of(f"{minimal}method:\n  mwa:\n    {line}\n")
    assert problem.what == f"`method.mwa.{line.partition(':')[0]}` must be {must_be}"
    assert problem.where == "r.yaml line 8"
    assert problem.why == why


def test_wrong_item_of_a_list_is_found_on_its_own_line(problems_of, minimal):
    (problem,) = problems_of(f"{minimal}train:\n  betas:\n    - 0.9\n    - 1.5\n")
    assert (problem.where, problem.why) == ("r.yaml line 9", "it has `1.5`")


@pytest.mark.parametrize("name", ["My Adapter", "a..b", "a.", ".a", "-a", "a/b", "a" * 65, "ä"])
def test_a_name_that_the_registry_could_not_keep_is_refused(problems_of, minimal, name):
    (problem,) = problems_of(minimal.replace("mine", name))
    assert problem.what.startswith("`name` must be a name of lower-case letters")


@pytest.mark.parametrize("name", ["a", "007", "coco-mwa.v1_2", "a" * 64])
def test_a_name_that_the_registry_keeps_is_taken(parsed, name):
    assert parsed(overrides=[f"name={name}"]).name == name


def test_no_message_speaks_pydantic(problems_of):
    problems = problems_of(
        "name: 'A B'\nbackbone: 3\ndata: {name: [1], oops: 2}\nmethod: {mwa: {alpha: x, layers: y}}\n"
    )
    text = " ".join(map(str, problems)).lower()
    assert len(problems) == 6
    for word in ("pydantic", "input should", "extra", "literal", "keyword", "pattern", "instance", "none", "str"):
        assert word not in text.replace("stop", "").split(), word


def test_recipe_from_dict_names_the_source(parsed):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"name": "a", "backbone": {"name": "b"}, "data": {"name": "d", "new": 1}}, "manifest of a@1")
    assert [problem.where for problem in caught.value.problems] == ["manifest of a@1"]
