from __future__ import annotations

import json

import pytest

from mwactl.errors import ExitCode

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
    ],
)
def test_mistakes_are_told_before_anything_is_trained(mwactl_cli, tiny_recipe, words, says):
    result = mwactl_cli("bench", "methods", tiny_recipe, *QUICK, *words)
    assert result.code == ExitCode.USAGE
    assert says in result.stderr
