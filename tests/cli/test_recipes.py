from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.config import load_recipe, packaged_recipe, parse_recipe

BAD = """\
name: mine
backbone:
  name: clip-vit-b-32
data:
  name: pictures
  captions: most
train:
  bach_size: 64
  lr: fast
  lr: 1e-3
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are written here."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def test_list_names_every_recipe_with_its_first_comment_line(mwactl_cli):
    result = mwactl_cli("recipes", "list")
    assert result.code == 0
    rows = dict(line.split("\t") for line in result.stdout.splitlines())
    assert list(rows) == ["captions", "clip-tiny-emoji", "coco", "flickr30k", "flickr8k", "quickstart"]
    assert rows["coco"] == packaged_recipe("coco").text.splitlines()[0].removeprefix("# ")


def test_list_as_json_and_quiet(mwactl_cli):
    document = mwactl_cli("recipes", "list", "--json").json
    assert document["schema"] == 1
    assert [row["name"] for row in document["recipes"]] == mwactl_cli("recipes", "list", "-q").stdout.split()


def test_show_prints_the_file_as_it_is(mwactl_cli):
    result = mwactl_cli("recipes", "show", "coco")
    assert (result.code, result.stdout) == (0, packaged_recipe("coco").text)
    assert mwactl_cli("recipes", "show", "coco.yaml", "--json").json["text"] == result.stdout


@pytest.mark.parametrize("command", ["show", "copy"])
def test_unknown_name_is_not_found(mwactl_cli, command):
    result = mwactl_cli("recipes", command, "cocoo")
    assert (result.code, result.stdout) == (3, "")
    assert "did you mean coco?" in result.stderr


def test_copy_writes_here_and_says_where(mwactl_cli):
    result = mwactl_cli("recipes", "copy", "coco", "-q")
    assert (result.code, result.stdout) == (0, "coco.yaml\n")
    assert Path("coco.yaml").read_text(encoding="utf-8") == packaged_recipe("coco").text
    assert mwactl_cli("recipes", "copy", "coco", "b.yaml", "--json").json == {
        "schema": 1,
        "name": "coco",
        "path": "b.yaml",
    }


def test_copy_overwrites_only_with_force(mwactl_cli):
    Path("coco.yaml").write_text("precious", encoding="utf-8")
    refused = mwactl_cli("recipes", "copy", "coco")
    assert refused.code == 2
    assert "already there" in refused.stderr and "--force" in refused.stderr
    assert Path("coco.yaml").read_text(encoding="utf-8") == "precious"
    assert mwactl_cli("recipes", "copy", "coco", "--force").code == 0
    assert Path("coco.yaml").read_text(encoding="utf-8") == packaged_recipe("coco").text


def test_check_reports_every_mistake_with_its_line_and_exits_2(mwactl_cli):
    Path("bad.yaml").write_text(BAD, encoding="utf-8")
    result = mwactl_cli("recipes", "check", "bad.yaml", "trian.epochs=1")
    assert (result.code, result.stdout) == (2, "")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    places = ["bad.yaml line 6", "bad.yaml line 8", "bad.yaml line 9", "bad.yaml line 10", 'override "trian.epochs=1"']
    assert [line.rpartition("  ")[2] for line in errors] == [f"({place})" for place in places]
    assert "did you mean `batch_size`?" in result.stderr
    assert result.stderr.splitlines()[-1] == "5 problems in the recipe; nothing was started"


def test_check_with_json_keeps_stdout_empty_on_mistakes(mwactl_cli):
    Path("bad.yaml").write_text(BAD, encoding="utf-8")
    result = mwactl_cli("recipes", "check", "bad.yaml", "--json")
    assert (result.code, result.stdout) == (2, "")


def test_check_of_a_good_recipe_says_ok_and_the_plan(mwactl_cli):
    mwactl_cli("recipes", "copy", "coco", "mine.yaml")
    result = mwactl_cli("recipes", "check", "mine.yaml", "train.epochs=5", "method.mwa.layers=last 2")
    assert result.code == 0
    assert result.stdout.splitlines()[0] == "ok: mine.yaml"
    assert "training\t5 epochs, batches of 512, learning rate 0.001" in result.stdout
    assert "Knowledge Extractor 64, Alignment Enhancer 128, last 2 layers, image and text" in result.stdout
    assert "next: mwactl train mine.yaml train.epochs=5 'method.mwa.layers=last 2'" in result.stderr


def test_check_of_a_baseline_without_validation(mwactl_cli):
    stdout = mwactl_cli("recipes", "check", "coco", "method.name=head", "data.val_split=null").stdout
    assert "method\thead\n" in stdout
    assert "no validation, the last epoch is kept" in stdout


def test_check_says_when_the_recipe_is_a_packaged_one(mwactl_cli):
    assert "to change it: mwactl recipes copy coco" in mwactl_cli("recipes", "check", "coco.yaml").stderr
    mwactl_cli("recipes", "copy", "coco")
    assert "recipes copy" not in mwactl_cli("recipes", "check", "coco.yaml").stderr


def test_check_print_config_is_a_recipe_again(mwactl_cli):
    result = mwactl_cli("recipes", "check", "coco", "train.lr=2e-4", "--print-config")
    assert 'override "train.lr=2e-4"' in result.stdout
    assert parse_recipe(result.stdout).recipe == load_recipe("coco", ["train.lr=2e-4"]).recipe


def test_check_as_json_holds_the_merged_recipe(mwactl_cli):
    document = mwactl_cli("recipes", "check", "coco", "train.lr=2e-4", "--json").json
    loaded = load_recipe("coco", ["train.lr=2e-4"])
    assert document["recipe"] == loaded.as_dict()
    assert (document["schema"], document["packaged"], document["overrides"]) == (1, True, ["train.lr=2e-4"])
    assert document["digest"] == f"sha256:{loaded.digest}"
    assert mwactl_cli("recipes", "check", "coco", "train.lr=2e-4", "-q").stdout == f"sha256:{loaded.digest}\n"


def test_check_of_a_missing_file_is_not_found(mwactl_cli):
    assert mwactl_cli("recipes", "check", "no.yaml").code == 3


@pytest.mark.parametrize("command", ["list", "show", "copy", "check"])
def test_every_help_text_ends_with_an_example(mwactl_cli, command):
    assert f"Example: mwactl recipes {command}" in mwactl_cli("recipes", command, "--help").stdout
