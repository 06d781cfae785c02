from __future__ import annotations

from pathlib import Path

from mwactl.backbone import all_specs


def test_list_names_every_backbone(mwactl_cli):
    result = mwactl_cli("backbones", "list")
    assert result.code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [spec.name for spec in all_specs()]
    assert result.stderr == "next: mwactl backbones show NAME\n"


def test_list_as_json_and_as_names(mwactl_cli):
    document = mwactl_cli("backbones", "list", "--json").json
    assert document["schema"] == 1
    row = next(row for row in document["backbones"] if row["name"] == "clip-vit-b-32")
    assert set(row) == {"name", "family", "model", "default_weights", "licence", "summary"}
    assert (row["family"], row["licence"]) == ("clip", "MIT")
    assert mwactl_cli("backbones", "list", "-q").stdout.split() == [row["name"] for row in document["backbones"]]


def test_show_says_where_modules_attach(mwactl_cli, tiny_clip: Path):
    name = f"clip:local-dir:{tiny_clip}"
    document = mwactl_cli("backbones", "show", name, "--json").json
    assert document["schema"] == 1
    assert document["parameters"] == 1658369
    assert document["image_size"] == [32, 32]
    assert document["embedding_width"] == 16
    assert document["towers"] == {
        "image": {"blocks": 2, "width": 32, "norm_eps": 1e-5},
        "text": {"blocks": 2, "width": 32, "norm_eps": 1e-5},
    }
    human = mwactl_cli("backbones", "show", name)
    assert human.stdout.splitlines()[1:3] == ["  image: 2 blocks of width 32", "  text: 2 blocks of width 32"]
    assert human.stderr == f"next: mwactl inject --backbone {name} --dry-run\n"
    assert mwactl_cli("backbones", "show", name, "-q").stdout == name + "\n"


def test_what_has_no_transformer_blocks_is_said_to_have_none(mwactl_cli):
    result = mwactl_cli("backbones", "show", "clip:RN50")
    assert (result.code, result.stdout) == (4, "")
    assert "the image tower has no transformer block" in result.stderr


def test_an_unknown_backbone_exits_3_with_close_names(mwactl_cli):
    result = mwactl_cli("backbones", "show", "clip-vit-b-33")
    assert (result.code, result.stdout) == (3, "")
    assert "clip-vit-b-32" in result.stderr
    assert "fix: mwactl backbones list" in result.stderr
