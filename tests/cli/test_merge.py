from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def adapter(trained_adapter: str) -> str:
    return trained_adapter


@pytest.fixture
def other(made_once, mwactl_cli, adapter, tiny_recipe: Path) -> str:
    def make() -> str:
        return mwactl_cli("train", tiny_recipe, "train.epochs=1", "train.seed=2", "name=other", "-q").stdout.strip()

    return made_once("other", make)


def test_it_says_what_became_of_the_adapter_and_what_to_do_next(mwactl_cli, adapter):
    result = mwactl_cli("merge", adapter)
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{adapter} in clip:local-dir:tiny-clip")
    assert "% more than the backbone" in lines[0]
    assert lines[1].startswith("kept  the Alignment Enhancers of 4 places (image/0 to text/1) stay layers")
    assert (
        lines[2].startswith("the same embeddings to ") and "32 pictures and 32 captions (packaged drawings)" in lines[2]
    )
    assert lines[3].startswith("without the adapter's modules they would differ by ")
    assert lines[4].startswith("published tiny-mwa-merged@1")
    assert "next: mwactl export tiny-mwa-merged@1 --onnx" in result.stderr


def test_json_has_the_promised_keys(mwactl_cli, adapter, tiny_data):
    result = mwactl_cli("merge", adapter, "--name", "whole", "--data", "tiny", "--json")
    document, registry = result.json, Registry.default()
    entry = registry.resolve("whole")
    assert set(document) == {
        "schema", "merged", "digest", "size_bytes", "adapter", "backbone", "parameters", "added_share", "kept",
        "equality",
    }  # fmt: skip
    assert (document["schema"], document["merged"], document["digest"]) == (1, "whole@1", entry.digest)
    assert document["adapter"] == {"reference": adapter, "digest": registry.resolve(adapter).digest}
    assert document["added_share"] == document["parameters"] / document["backbone"]["parameters"] - 1 > 0
    equality = document["equality"]
    assert set(equality) == {"pictures", "captions", "data", "max_abs", "tolerance", "moved_by_adapter"}
    assert (equality["pictures"], equality["data"]) == (40, {"name": "tiny", "split": "test"})
    assert equality["max_abs"] <= equality["tolerance"] == 1e-5


def test_quiet_prints_the_reference_alone(mwactl_cli, adapter):
    assert mwactl_cli("merge", adapter, "-q").stdout == "tiny-mwa-merged@1\n"
    assert mwactl_cli("merge", adapter, "-q").stdout == "tiny-mwa-merged@1\n"


def test_a_merged_version_is_listed_shown_evaluated_verified_and_packed(mwactl_cli, adapter, tiny_data, tmp_path):
    mwactl_cli("merge", adapter, "-q")
    assert "tiny-mwa-merged" in mwactl_cli("registry", "list").stdout
    shown = mwactl_cli("registry", "show", "tiny-mwa-merged")
    assert "tiny-mwa-merged@1  merged" in shown.stdout
    assert mwactl_cli("registry", "verify").code == 0
    assert mwactl_cli("eval", "tiny-mwa-merged", "--data", "tiny", "-q").code == 0
    refused = mwactl_cli("eval", "tiny-mwa-merged", "--zero-shot", "tiny")
    assert refused.code == 5 and "is not zero-shot on tiny" in refused.stderr
    packed = mwactl_cli("registry", "pack", "tiny-mwa-merged", "-o", tmp_path / "it.tar")
    assert packed.code == 0, packed.stderr
    assert mwactl_cli("registry", "diff", adapter, "tiny-mwa-merged").code == 0


def test_its_card_says_what_it_is_and_names_the_training_data_of_its_adapter(mwactl_cli, adapter, tiny_data):
    mwactl_cli("merge", adapter, "-q")
    mwactl_cli("eval", "tiny-mwa-merged", "--data", "tiny", "--split", "val", "-q")
    card = mwactl_cli("card", "tiny-mwa-merged").stdout
    assert "in its weights: one model for image-text retrieval" in card
    assert "not trained" not in card
    assert "| tiny | train | 24 | 48 |" in card
    assert "tiny val†" in card or "†" in card  # the split chose the epoch of the adapter
    assert "- merged" in card and "- adapter" not in card
    assert "parameters in all" in card


def test_an_average_and_its_parents_are_shown_side_by_side(mwactl_cli, adapter, other, tiny_data):
    result = mwactl_cli("merge", adapter, other, "--weights", "0.5,0.5", "--data", "tiny")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"0.5 × {adapter} + 0.5 × {other}"
    assert [line.split("\t")[0] for line in lines[1:4]] == [adapter, other, "tiny-mwa-average@1"]
    assert lines[4].startswith("published tiny-mwa-average@1")
    document = mwactl_cli("merge", adapter, other, "--weights", "0.5,0.5", "--json").json
    assert set(document) == {"schema", "adapter", "digest", "parents", "scale", "backbone", "evaluations"}
    assert [parent["weight"] for parent in document["parents"]] == [0.5, 0.5]
    family = mwactl_cli("registry", "show", "tiny-mwa-average").stdout
    assert "combined" in family
    card = mwactl_cli("card", "tiny-mwa-average").stdout
    assert "It is the sum of 2 adapters with the weights 0.5 and 0.5." in card


def test_weights_that_do_not_sum_to_one_are_mentioned(mwactl_cli, adapter, other):
    result = mwactl_cli("merge", adapter, other, "--weights", "0.5,0.6")
    assert result.code == 0
    assert "warning: the weights sum to 1.1, not to 1" in result.stderr
    assert "warning" not in mwactl_cli("merge", adapter, other, "--weights", "0.5,0.5").stderr


def test_a_scaled_adapter_is_an_adapter_with_a_name_of_its_own(mwactl_cli, adapter):
    result = mwactl_cli("merge", adapter, "--scale", "0.7", "--json")
    assert (result.json["adapter"], result.json["scale"]) == ("tiny-mwa-scaled@1", 0.7)
    assert Registry.default().resolve("tiny-mwa-scaled").manifest["kind"] == "adapter"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["A", "B"], 2, "fix: mwactl merge A B --weights 0.5,0.5"),
        (["A", "B", "--weights", "0.5"], 2, "1 for 2 adapters"),
        (["A", "B", "--weights", "0.5,much"], 2, "not numbers between commas"),
        (["A", "B", "--weights", "0.5,nan"], 2, "one finite number for each adapter"),
        (["A", "--weights", "0.5"], 2, "fix: mwactl merge A --scale 0.5"),
        (["A", "--scale", "inf"], 2, "not a number that can scale anything"),
        (["nobody"], 3, "nobody"),
        (["A", "--data", "nothing"], 3, "nothing"),
        (["A", "--name", "No Name"], 2, "No Name"),
    ],
)
def test_mistakes_are_answered_with_the_next_command(mwactl_cli, adapter, other, arguments, code, said):
    named = [{"A": adapter, "B": other}.get(each, each) for each in arguments]
    expected = said.replace(" A", f" {adapter}").replace(" B ", f" {other} ")
    result = mwactl_cli("merge", *named)
    assert (result.code, result.stdout) == (code, "")
    assert expected in result.stderr


def test_merging_twice_is_refused(mwactl_cli, adapter):
    mwactl_cli("merge", adapter, "-q")
    for arguments in (["tiny-mwa-merged"], ["tiny-mwa-merged", "--scale", "0.5"]):
        result = mwactl_cli("merge", *arguments)
        assert result.code == 4
        assert "tiny-mwa-merged@1 is no adapter" in result.stderr
