from __future__ import annotations

import json
import shutil

import pytest

from mwactl.errors import ExitCode
from mwactl.registry import Registry

QUICK = ["train.epochs=1", "data.workers=0"]


def test_one_command_trains_evaluates_and_compares_and_the_same_again_trains_nothing(mwactl_cli, tiny_recipe, tmp_path):
    pytest.importorskip("peft")
    names = ["head", "bitfit", "lora", "mwa-ke", "mwa-ae", "mwa", "full"]
    result = mwactl_cli(
        "bench", "methods", tiny_recipe, *QUICK, "--lr", "full=1e-3", "-o", tmp_path / "m.json", "--json"
    )
    assert result.code == 0, result.stderr
    document = result.json
    assert json.loads((tmp_path / "m.json").read_text()) == document
    rows = {row["method"]: row for row in document["methods"]}
    assert list(rows) == ["before training", *names]
    assert rows["mwa"]["against_baseline"] is None
    for name in (*names[:5], "full", "before training"):
        against = rows[name]["against_baseline"]["rsum"]
        assert against["difference"] == pytest.approx(rows[name]["metrics"]["rsum"] - rows["mwa"]["metrics"]["rsum"])
        assert 0 < against["p"] <= against["p_holm"] <= 1
    trained = {name: rows[name]["trained_parameters"] for name in names}
    assert trained["mwa-ke"] + trained["mwa-ae"] == trained["mwa"] < trained["full"]
    assert rows["full"]["lr"] == 1e-3 and rows["mwa"]["lr"] == 0.01
    assert not any(rows[name]["reused"] for name in names)
    again = mwactl_cli("bench", "methods", tiny_recipe, *QUICK, "--lr", "full=1e-3")
    assert again.code == 0
    assert "training tiny-mwa" not in again.stderr
    assert len(again.stdout.splitlines()) == 2 + len(names)
    assert "s/step" not in again.stdout  # in a pipe: values alone
    more = mwactl_cli("bench", "methods", tiny_recipe, *QUICK, "train.seed=1", "--methods", "head,mwa", "--json")
    assert [row.get("reused") for row in more.json["methods"]] == [None, False, False]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "mwa,prompt"], "no method 'prompt'"),
        (["--methods", "head,full"], "the baseline mwa is not among the methods"),
        (["--methods", "mwa"], "two methods or more"),
        (["--lr", "full"], "is not METHOD=RATE"),
        (["--split", "val"], "learns from the split 'val'"),
        (["--split", "nosuch"], "no split 'nosuch'"),
        (["--lr", "full=1e-5", "--methods", "head,mwa"], "a learning rate for full"),
        (["--lr", "full=-1"], "train.lr"),
        (["method.mwa.knowledge_extractor=0", "--methods", "head,mwa-ke", "--baseline", "head"], "neither a Knowledge"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(mwactl_cli, tiny_recipe, words, says):
    result = mwactl_cli("bench", "methods", tiny_recipe, *QUICK, *words)
    assert result.code in (ExitCode.USAGE, ExitCode.NOT_FOUND)
    assert says in result.stderr
    assert mwactl_cli("registry", "list", "-q").stdout.strip() == ""


def test_full_fine_tuning_has_a_tenth_of_the_rate_and_other_data_is_trained_on_anew(
    mwactl_cli, tiny_recipe, add_data, tiny_pictures, tmp_path
):
    command = ["bench", "methods", tiny_recipe, *QUICK, "--methods", "head,full", "--baseline", "head", "--json"]
    rates = {row["method"]: row["lr"] for row in mwactl_cli(*command).json["methods"]}
    assert rates == {"head": 0.01, "full": pytest.approx(0.001)}
    other = tmp_path / "other"
    shutil.copytree(tiny_pictures, other)
    text = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(text.replace("a square of colour", "a patch of colour"))
    add_data("tiny", other)
    assert not any(row["reused"] for row in mwactl_cli(*command).json["methods"])


def test_a_run_that_was_killed_right_after_publishing_ends_as_it_would_have(mwactl_cli, tiny_recipe, monkeypatch):
    attach = Registry.attach

    def die(self, entry, kind, document):
        if kind == "training":
            raise RuntimeError("killed")
        return attach(self, entry, kind, document)

    command = ["bench", "methods", tiny_recipe, *QUICK, "--methods", "head,mwa"]
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "attach", die)
        assert mwactl_cli(*command).code != 0
    result = mwactl_cli(*command, "--json")
    assert result.code == 0, result.stderr
    head = next(row for row in result.json["methods"] if row["method"] == "head")
    assert head["seconds"] > 0 and not head["reused"]
    versions = Registry.default().entries("tiny-mwa-head")
    assert len({entry.manifest["tensors"]["digest"] for entry in versions}) == 1


def test_an_adapter_that_changes_the_backbone_from_the_start_is_not_taken_for_it(mwactl_cli, tiny_recipe):
    options = ["method.mwa.preset=authors-code", "method.mwa.alignment_enhancer=128", "method.mwa.dropout=0.1"]
    result = mwactl_cli("bench", "methods", tiny_recipe, *QUICK, *options, "--methods", "head,mwa", "--json")
    assert result.code == 0, result.stderr
    assert [row["method"] for row in result.json["methods"]] == ["head", "mwa"]
