from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mwactl.config import load_recipe, options, packaged_recipe, parse_recipe

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


def test_show_prints_a_file_of_ones_own_as_it_is(mwactl_cli):
    Path("my recipe.yaml").write_text("# Mine.\nextends: coco\n", encoding="utf-8")
    result = mwactl_cli("recipes", "show", "my recipe.yaml")
    assert (result.code, result.stdout) == (0, "# Mine.\nextends: coco\n")
    assert "next: mwactl recipes check 'my recipe.yaml'" in result.stderr
    document = mwactl_cli("recipes", "show", "my recipe.yaml", "--json").json
    assert (document["packaged"], document["description"]) == (False, "Mine.")


def test_show_resolved_prints_what_will_be_used_and_where_each_value_comes_from(mwactl_cli):
    Path("mine.yaml").write_text("extends: coco\nname: mine\ntrain:\n  epochs: 3\n", encoding="utf-8")
    result = mwactl_cli("recipes", "show", "mine.yaml", "train.lr=2e-4", "--resolved")
    lines = {line.split(":")[0].strip(): line.partition("# ")[2] for line in result.stdout.splitlines()}
    assert lines["epochs"] == "mine.yaml line 4"
    assert lines["lr"] == 'override "train.lr=2e-4"'
    assert lines["batch_size"].startswith("packaged recipe coco line ")
    assert lines["seed"] == "default"
    assert parse_recipe(result.stdout).digest == load_recipe("mine.yaml", ["train.lr=2e-4"]).digest
    assert mwactl_cli("recipes", "show", "mine.yaml", "train.lr=2e-4").stdout == result.stdout, "overrides resolve"


def test_show_resolved_as_json_gives_each_option_an_origin(mwactl_cli):
    Path("mine.yaml").write_text("extends: coco\n", encoding="utf-8")
    document = mwactl_cli("recipes", "show", "mine.yaml", "--resolved", "--json").json
    assert (document["schema"], document["extends"]) == (1, ["packaged recipe coco"])
    assert document["recipe"] == load_recipe("coco").as_dict()
    assert document["origins"].keys() == {path for path, option in options().items() if not option.is_section}
    assert document["origins"]["name"].startswith("packaged recipe coco line ")


def test_check_names_the_file_of_each_mistake(mwactl_cli):
    Path("base.yaml").write_text("extends: coco\ntrain:\n  epochs: many\n", encoding="utf-8")
    Path("mine.yaml").write_text("extends: base.yaml\nnam: x\n", encoding="utf-8")
    result = mwactl_cli("recipes", "check", "mine.yaml")
    assert result.code == 2
    assert "(mine.yaml line 2)" in result.stderr and "(base.yaml line 3)" in result.stderr
    Path("mine.yaml").write_text("extends: gone.yaml\n", encoding="utf-8")
    gone = mwactl_cli("recipes", "check", "mine.yaml")
    assert (gone.code, len(gone.stderr.splitlines())) == (2, 4)
    assert "`extends`: there is no recipe `gone.yaml`" in gone.stderr


def test_check_says_what_a_recipe_extends(mwactl_cli):
    Path("mine.yaml").write_text("extends: coco\n", encoding="utf-8")
    assert "extends\tpackaged recipe coco\n" in mwactl_cli("recipes", "check", "mine.yaml").stdout
    assert "extends" not in mwactl_cli("recipes", "check", "coco").stdout


def test_schema_is_a_json_schema(mwactl_cli):
    printed = json.loads(mwactl_cli("recipes", "schema").stdout)
    assert printed["$schema"].startswith("https://json-schema.org/")
    assert mwactl_cli("recipes", "schema", "--json").json == {"schema": 1, "json_schema": printed}


def test_copy_with_a_schema_tells_an_editor_of_it_by_a_path_that_can_be_shared(mwactl_cli):
    result = mwactl_cli("recipes", "copy", "coco", "sub/mine.yaml", "--schema")
    assert result.stdout == "wrote sub/mine.yaml\nwrote sub/mwactl-recipe.schema.json\n"
    first, second, *rest = Path("sub/mine.yaml").read_text("utf-8").splitlines(keepends=True)
    assert second == "# yaml-language-server: $schema=mwactl-recipe.schema.json\n"
    assert first + "".join(rest) == packaged_recipe("coco").text
    assert json.loads(Path("sub/mwactl-recipe.schema.json").read_text("utf-8"))["properties"]["extends"]
    assert load_recipe("sub/mine.yaml").digest == load_recipe("coco").digest


@pytest.mark.parametrize("command", ["list", "show", "copy", "check", "schema"])
def test_every_help_text_ends_with_an_example(mwactl_cli, command):
    assert f"Example: mwactl recipes {command}" in mwactl_cli("recipes", command, "--help").stdout


def test_what_the_page_on_recipes_tells_people_to_type_works(mwactl_cli):
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    example = re.findall(r"```yaml\n(extends: .*?)```", page, flags=re.DOTALL)[0]
    Path("lr.yaml").write_text(example, encoding="utf-8")
    lines = [
        line for block in re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) >= 8
    printed = ""
    for line in lines:
        words = shlex.split(line.removeprefix("$ mwactl ").partition(" > ")[0])
        result = mwactl_cli(*words)
        assert (result.code, bool(result.stdout)) == (0, True), (line, result.stderr)
        printed += result.stdout
    *_, shown = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert set(shown.splitlines()) <= set(printed.splitlines())
    Path("my-coco.yaml").write_text(packaged_recipe("coco").text.replace("batch_size", "bach_size"), encoding="utf-8")
    (error,) = re.findall(r"```\n(error: .*?)```", page, flags=re.DOTALL)
    assert error in mwactl_cli("recipes", "check", "my-coco.yaml").stderr
