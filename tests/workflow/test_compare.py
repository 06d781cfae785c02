"""Comparisons from stored ranks, and from models where ranks are missing."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mwactl.data import Catalogue
from mwactl.errors import IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.evaluate.floor import Floor
from mwactl.evaluate.queries import QueryRanks
from mwactl.registry import Entry, Registry
from mwactl.workflow import contestants
from mwactl.workflow.compare import compare
from mwactl.workflow.contestants import RankOptions
from mwactl.workflow.facts import data_facts
from mwactl.workflow.splits import checked_split
from mwactl.workflow.stored_ranks import RANKS, keep_ranks

STORED = RankOptions("tiny", stored=True)


def ranks_of(found: int, *, n: int = 8, each: int = 2) -> QueryRanks:
    """Of n pictures, `found` at rank 1, both ways; the others at 7."""
    image_to_text = np.where(np.arange(n) < found, 1, 7)
    return QueryRanks(image_to_text, np.repeat(image_to_text, each), np.arange(n * each), np.repeat(np.arange(n), each))


@pytest.fixture
def facts(tiny_data, listener) -> dict[str, object]:
    """What an evaluation on the tiny test split says of it."""
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    data = data_facts(split)
    return {"data": data, "images": 8, "texts": 16, "protocol": "full", "precision": "fp32", "versions": {}}


@pytest.fixture
def version(registry: Registry, facts) -> Callable[..., Entry]:
    """version(name, found): a version of the registry with ranks; `facts` may say something else of them."""

    def publish(name: str, found: int | None, **other: object) -> Entry:
        entry = registry.publish(name, kind="adapter", files={}, facts={"of": name}, parents=[], verb="train")
        if found is not None:
            ranks = ranks_of(found, n=int(str(other.get("images", 8))))
            keep_ranks(registry, entry, facts | other, ranks)
        return entry

    return publish


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "_evaluate", None)


# -- from stored ranks ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_models")
def test_stored_ranks_are_enough(registry, version, listener):
    version("a", 2), version("b", 6), version("c", 2)
    document = compare(registry, ["a", "b", "c"], STORED, listener)
    assert document["baseline"]["reference"] == "a@1"
    better, same = document["contestants"]
    found = better["metrics"]["i2t.R@1"]
    assert (found["baseline"], found["contestant"], found["difference"]) == (25.0, 75.0, 50.0)
    assert (better["mcnemar"]["i2t.R@1"], better["mcnemar"]["t2i.R@1"]["only_contestant"]) == (
        {"only_baseline": 0, "only_contestant": 4, "p": 0.125},
        8,
    )
    assert {each["p"] for each in same["metrics"].values()} == {1.0}
    assert (document["images"], document["texts"], document["protocol"], document["by"]) == (8, 16, "full", None)
    assert all(side["stored"] for side in (document["baseline"], better, same))
    assert any("pictures: 8; intervals of fewer than 30" in said for said in listener.said)


@pytest.mark.usefixtures("no_models")
def test_ranks_of_the_split_as_it_is_now_are_used_without_asking_for_stored_ones(registry, version, listener):
    version("a", 2), version("b", 6)
    document = compare(registry, ["a", "b"], RankOptions("tiny"), listener)
    assert document["contestants"][0]["metrics"]["i2t.R@1"]["difference"] == 50.0


@pytest.mark.parametrize("other", [{"digest": "ab" * 32}, {"protocol": "coco-1k"}])
def test_what_has_ranks_of_other_pictures_or_another_protocol_is_evaluated(
    other, registry, version, facts, listener, monkeypatch
):
    version("a", 2)
    version("b", 6, **(other if "protocol" in other else {"data": facts["data"] | other}))
    monkeypatch.setattr(contestants, "_evaluate", lambda *_: SimpleNamespace(document=facts, ranks=ranks_of(4)))
    [b] = compare(registry, ["a", "b"], RankOptions("tiny"), listener)["contestants"]
    assert (b["stored"], b["metrics"]["i2t.R@1"]["difference"]) == (False, 25.0)
    assert "b@1 has no stored ranks on tiny test: evaluating it" in listener.said


def test_ranks_of_another_precision_than_is_asked_for_are_not_used(registry, version, facts, listener, monkeypatch):
    version("a", 2, precision="bf16"), version("b", 6)
    asked = RankOptions("tiny", precision="bf16")
    evaluated = SimpleNamespace(document=facts | {"precision": "bf16"}, ranks=ranks_of(4))
    monkeypatch.setattr(contestants, "_evaluate", lambda *_: evaluated)
    document = compare(registry, ["a", "b"], asked, listener)
    sides = [document["baseline"], *document["contestants"]]
    assert [(each["stored"], each["precision"]) for each in sides] == [(True, "bf16"), (False, "bf16")]
    assert "b@1 has no stored ranks on tiny test in bf16: evaluating it" in listener.said
    with pytest.raises(NotFoundError, match="b@1 has no stored ranks on tiny test, protocol full, bf16"):
        compare(registry, ["a", "b"], replace(asked, stored=True), listener)


@pytest.mark.usefixtures("no_models")
def test_stored_ranks_of_the_same_pictures_fit_under_any_name(registry, version, facts, listener):
    version("a", 2), version("b", 6, data=facts["data"] | {"name": "as-it-was-called"})
    [b] = compare(registry, ["a", "b"], STORED, listener, by="length")["contestants"]
    assert b["metrics"]["i2t.R@1"]["difference"] == 50.0
    with pytest.raises(NotFoundError, match="there are: as-it-was-called test full fp32"):
        compare(registry, ["a", "b"], STORED, listener)  # nobody has read the pictures


def test_a_bare_backbone_without_weights_has_a_way_in_that_works(registry, version, listener):
    version("a", 2)
    with pytest.raises(NotFoundError) as caught:
        compare(registry, ["a", "clip-vit-b-32"], RankOptions("tiny"), listener)
    assert str(caught.value.fix).endswith("mwactl inject --backbone clip-vit-b-32 --weights FILE")


def test_with_stored_ranks_alone_neither_torch_nor_the_pictures_are_needed(registry, version, empty_home):
    version("a", 2), version("b", 6)
    (empty_home / "data.json").unlink()
    program = """
import sys
from mwactl.cli import main
sys.argv = ["mwactl", "compare", "a", "b", "--data", "tiny", "--stored", "-q"]
try:
    main()
finally:
    assert not {"torch", "open_clip"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "+200.0\n"), done.stderr


@pytest.mark.usefixtures("no_models")
def test_the_newest_ranks_of_the_right_data_and_protocol_count(registry, version, facts, listener):
    version("a", 2)
    entry = version("b", 3)
    keep_ranks(registry, entry, facts, ranks_of(6))
    keep_ranks(registry, entry, facts | {"protocol": "coco-1k"}, ranks_of(0))
    keep_ranks(registry, entry, facts | {"data": {**facts["data"], "split": "val", "digest": "0"}}, ranks_of(1))
    found = compare(registry, ["a", "b"], STORED, listener)
    assert found["contestants"][0]["metrics"]["i2t.R@1"]["difference"] == 50.0


@pytest.mark.usefixtures("no_models")
def test_what_is_not_stored_is_said_with_what_there_is(registry, version, facts, listener):
    version("a", 2), version("b", 2, protocol="coco-1k"), version("c", None)
    with pytest.raises(NotFoundError, match="b@1 has no stored ranks on tiny test, protocol full") as caught:
        compare(registry, ["a", "b"], STORED, listener)
    assert caught.value.why == "there are: tiny test coco-1k fp32"
    with pytest.raises(NotFoundError, match="c@1 has no stored ranks"):
        compare(registry, ["a", "c"], STORED, listener)


@pytest.mark.usefixtures("no_models")
def test_ranks_of_other_pictures_are_not_compared(registry, version, facts, listener):
    version("a", 2), version("b", 6, data={**facts["data"], "digest": "ab" * 32})
    with pytest.raises(IncompatibleError, match="not all of the same tiny test") as caught:
        compare(registry, ["a", "b"], STORED, listener)
    assert f"a@1 {facts['data']['digest'][:12]}, b@1 abababababab" in str(caught.value.why)


@pytest.mark.usefixtures("no_models")
def test_older_ranks_on_the_same_pictures_are_found_behind_newer_ones_on_others(registry, version, facts, listener):
    entry = version("a", 2)
    keep_ranks(registry, entry, facts | {"data": {**facts["data"], "digest": "ab" * 32}}, ranks_of(8))
    version("b", 6)
    found = compare(registry, ["a", "b"], STORED, listener)
    assert found["contestants"][0]["metrics"]["i2t.R@1"]["difference"] == 50.0


@pytest.mark.usefixtures("no_models")
def test_ranks_whose_captions_belong_to_other_pictures_are_not_compared(registry, version, facts, listener):
    version("a", 2)
    lying = ranks_of(2)
    moved = QueryRanks(lying.image_to_text, lying.text_to_image, lying.texts, lying.pictures[::-1])
    keep_ranks(registry, version("b", None), facts, moved)
    with pytest.raises(IncompatibleError, match="the ranks of b@1 and a@1 are not of the same queries"):
        compare(registry, ["a", "b"], STORED, listener)


@pytest.mark.usefixtures("no_models")
def test_ranks_that_cannot_be_read_are_told_and_not_used(registry, version, facts, listener):
    version("a", 2)
    entry = version("b", 6)
    registry.attach(entry, RANKS, facts | {"ranks": {"folds": 1}})
    registry.attach(entry, RANKS, facts | {"images": 9, "ranks": ranks_of(8).as_dict()})
    found = compare(registry, ["a", "b"], STORED, listener)
    assert found["contestants"][0]["metrics"]["i2t.R@1"]["difference"] == 50.0
    assert sum("ranks kept with b@1 cannot be read" in said for said in listener.said) == 2


@pytest.mark.usefixtures("no_models")
def test_different_precisions_are_told(registry, version, listener):
    version("a", 2), version("b", 6, precision="bf16")
    compare(registry, ["a", "b"], STORED, listener)
    assert "warning: the towers computed in different precisions: a@1 fp32, b@1 bf16" in listener.said


@pytest.mark.usefixtures("no_models")
def test_floors_are_judged_for_each_contestant(registry, version, listener):
    version("a", 4), version("b", 3), version("c", 4)
    floors = [Floor("i2t.R@1", -10.0), Floor("rsum", -50.0)]
    found = compare(registry, ["a", "b", "c"], STORED, listener, floors=floors)
    assert [[floor["holds"] for floor in each["floors"]] for each in found["contestants"]] == [
        [False, True],
        [True] * 2,
    ]


# -- slices -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_models")
def test_slices_need_the_captions_that_the_ranks_are_of(registry, version, facts, listener):
    version("a", 2), version("b", 6)
    options = RankOptions("tiny", stored=True)
    [found] = compare(registry, ["a", "b"], options, listener, by="length")["contestants"]
    assert [each["name"] for each in found["slices"]] == ["short", "medium"]  # of 5 words, and of 8
    assert [each["texts"] for each in found["slices"]] == [8, 8]
    assert found["slices"][0]["metrics"]["t2i.R@1"]["difference"] == 50.0
    version("c", 2, data={**facts["data"], "digest": "ab" * 32})
    with pytest.raises(IncompatibleError, match="not all of the same") as caught:
        compare(registry, ["c", "c"], options, listener, by="length")
    assert "here" in str(caught.value.why)


@pytest.mark.usefixtures("no_models")
def test_tags_of_the_annotations_are_slices(registry, version, tiny_pictures: Path, tmp_path: Path, listener):
    table = tmp_path / "tagged.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split", "tag"])
        for number in range(8):
            for caption in ("one", "two"):
                rows.writerow([f"test-{number:02}.png", caption, "test", "warm" if number < 4 else "cold"])
    Catalogue.default().add("tagged", format="csv", annotations=table, images=tiny_pictures / "images")
    data = data_facts(checked_split("tagged", "test", on_error="stop", reporter=listener))
    version("a", 2, data=data), version("b", 6, data=data)
    [found] = compare(registry, ["a", "b"], RankOptions("tagged"), listener, by="tag")["contestants"]
    changes = {each["name"]: each["metrics"]["i2t.R@1"]["difference"] for each in found["slices"]}
    assert changes == {"cold": 50.0, "warm": 50.0}
    with pytest.raises(UsageError, match="no tags"):
        compare(registry, ["a", "b"], RankOptions("tiny"), listener, by="tag")


# -- with models ------------------------------------------------------------------------------------------------------


def test_what_has_no_ranks_is_evaluated_once_and_kept(train, tiny_data, tiny_clip, registry, listener, monkeypatch):
    train("train.epochs=1")
    backbone = f"clip:local-dir:{tiny_clip}"
    options = RankOptions(tiny_data, device="cpu", batch_size=8)
    first = compare(registry, [backbone, "tiny-mwa@1", "tiny-mwa@2"], options, listener)
    evaluated = [said for said in listener.said if said.endswith("evaluating it")]
    assert len(evaluated) == 3
    assert first["baseline"] == {
        "reference": backbone, "kind": "backbone", "digest": None, "stored": False, "precision": "fp32",
    }  # fmt: skip
    untrained, trained = first["contestants"]
    assert {each["difference"] for each in untrained["metrics"].values()} == {0.0}
    for side, reference in ((untrained, "tiny-mwa@1"), (trained, "tiny-mwa@2")):
        [evaluation] = registry.attachments(registry.resolve(reference), "evaluation")
        assert side["metrics"]["rsum"]["contestant"] == pytest.approx(evaluation["document"]["rsum"])
    monkeypatch.setattr(contestants, "_evaluate", None)
    again = compare(registry, ["tiny-mwa@1", "tiny-mwa@2"], options, listener)
    assert again["contestants"][0]["metrics"] == trained["metrics"] | {
        name: {**values, "p_holm": values["p"]} for name, values in trained["metrics"].items()
    }
    with pytest.raises(NotFoundError, match="no stored ranks"):
        compare(registry, [backbone, "tiny-mwa@2"], RankOptions(tiny_data, stored=True), listener)


def test_a_zero_shot_comparison_is_refused_where_one_has_seen_the_data(train, tiny_data, tiny_clip, registry, listener):
    train("train.epochs=1")
    options = RankOptions(tiny_data, zero_shot=True)
    with pytest.raises(VerificationError, match="tiny-mwa@2 is not zero-shot on tiny"):
        compare(registry, ["tiny-mwa@1", "tiny-mwa@2"], options, listener)
    with pytest.raises(UsageError, match="cannot be checked for the backbone"):
        compare(registry, [f"clip:local-dir:{tiny_clip}", "tiny-mwa@2"], options, listener)


def test_a_name_of_two_things_is_refused(registry, version, listener):
    version("clip-vit-b-32", 2), version("b", 6)
    with pytest.raises(UsageError, match="'clip-vit-b-32' is a backbone and a name in the registry") as caught:
        compare(registry, ["clip-vit-b-32", "b"], STORED, listener)
    assert "clip-vit-b-32@1" in str(caught.value.fix)
    assert compare(registry, ["clip-vit-b-32@1", "b"], STORED, listener)["baseline"]["kind"] == "adapter"


def test_names_of_nothing_are_not_found(registry, version, tmp_path: Path, listener):
    version("a", 2)
    with pytest.raises(NotFoundError, match="absent"):
        compare(registry, ["a", "absent"], STORED, listener)
    with pytest.raises(NotFoundError, match="nowhere"):
        compare(registry, ["a", f"clip:local-dir:{tmp_path / 'nowhere'}"], STORED, listener)
    with pytest.raises(UsageError, match="two contestants"):
        compare(registry, ["a"], STORED, listener)
