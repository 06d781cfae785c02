from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry
from mwactl.registry.tree import FamilyTree, Member, family_tree

Publish = Callable[..., Entry]
BASE = {"backbone": "tiny", "fingerprint": "sha256:" + "f" * 64}
TRAINED = {
    "recipe_digest": "a" * 64, "seed": 7, "steps": 30, "best_epoch": 2, "recipe": {"parents": ["0" * 64]},
}  # fmt: skip


@pytest.fixture
def grow(registry: Registry) -> Callable[..., Entry]:
    """grow(name, *parents, kind=…, **facts): an entry with a backbone, made from others."""

    def grow_one(name: str, *parents: Entry | str, kind: str = "adapter", **facts: Any) -> Entry:
        digests = [parent if isinstance(parent, str) else parent.digest for parent in parents]
        method = {"base": BASE, "method": {"name": "mwa"}}
        return registry.publish(
            name, kind=kind, files={"f": name.encode()}, facts=method | facts, parents=digests, verb="x"
        )

    return grow_one


def drawing(tree: FamilyTree) -> list[str]:
    def line(member: Member) -> str:
        name = ",".join(member.references) or member.facts.get("backbone") or (member.digest or "")[:4]
        marks = "*" * member.shown + "^" * member.again + ("" if member.state == "here" else f"!{member.state}")
        return "  " * member.depth + f"{name} {member.made}{marks}"

    return [line(member) for member in tree.members]


def test_a_tree_leads_from_the_backbone_through_the_ancestors_to_what_was_made(
    registry: Registry, grow: Publish
) -> None:
    injected = grow("coco")
    trained = grow("coco", injected, train=TRAINED)
    exported = grow("coco-onnx", trained, kind="onnx")
    grow("quantised", exported, kind="onnx", bits=8)
    tree = family_tree(registry, trained)
    assert drawing(tree) == [
        "tiny backbone",
        "  coco@1 injected",
        "    coco@2 trained*",
        "      coco-onnx@1 exported",
        "        quantised@1 exported",
    ]
    assert tree.unread == []


def test_the_same_tree_is_drawn_from_its_ends_but_other_branches_are_left_out(
    registry: Registry, grow: Publish
) -> None:
    injected = grow("coco")
    grow("coco", injected, train=TRAINED)
    second = grow("coco", injected, train=TRAINED | {"seed": 8})
    assert drawing(family_tree(registry, second)) == ["tiny backbone", "  coco@1 injected", "    coco@3 trained*"]
    assert [line.strip() for line in drawing(family_tree(registry, injected))] == [
        "tiny backbone", "coco@1 injected*", "coco@2 trained", "coco@3 trained",
    ]  # fmt: skip


def test_what_was_merged_is_under_both_parents_and_drawn_in_full_once(registry: Registry, grow: Publish) -> None:
    root = grow("root")
    left, right = (grow(name, root, train=TRAINED) for name in ("left", "right"))
    merged = grow("merged", left, right, kind="merged")
    grow("after", merged, kind="onnx")
    assert drawing(family_tree(registry, root)) == [
        "tiny backbone",
        "  root@1 injected*",
        "    left@1 trained",
        "      merged@1 merged",
        "        after@1 exported",
        "    right@1 trained",
        "      merged@1 merged^",
    ]
    from_the_left = family_tree(registry, left).members
    assert [member.other_parents for member in from_the_left if member.made == "merged"] == [["right@1"]]


def test_members_say_with_which_data_and_recipe_and_how_well(registry: Registry, grow: Publish) -> None:
    data = [{"name": "coco", "split": "train", "images": 5, "captions": 25, "digest": "d" * 64}]
    trained = grow("coco", train=TRAINED, data=data)
    registry.attach(trained, "evaluation", {"data": {"name": "coco", "split": "test"}, "rsum": 500.0})
    registry.attach(trained, "note", {"data": {"name": "no evaluation"}})
    backbone, member = family_tree(registry, trained).members
    assert backbone.facts["fingerprint"] == BASE["fingerprint"]
    assert member.facts == {
        "method": "mwa", "recipe_digest": "a" * 64, "seed": 7, "steps": 30, "best_epoch": 2, "data": data,
    }  # fmt: skip
    (evaluation,) = member.evaluations
    assert (evaluation["name"], evaluation["split"], evaluation["rsum"], evaluation["zero_shot"]) == (
        "coco", "test", 500.0, None,
    )  # fmt: skip


def test_evaluations_under_every_name_of_the_same_content_count(registry: Registry, grow: Publish) -> None:
    first = registry.publish("one", kind="adapter", files={}, facts={"base": BASE}, verb="x")
    second = registry.publish("two", kind="adapter", files={}, facts={"base": BASE}, verb="x")
    assert first.digest == second.digest
    registry.attach(first, "evaluation", {"data": {"name": "a"}, "rsum": 1.0})
    registry.attach(second, "evaluation", {"data": {"name": "b"}, "rsum": 2.0})
    member = family_tree(registry, first).members[-1]
    assert member.references == ["one@1", "two@1"]
    assert [evaluation["name"] for evaluation in member.evaluations] == ["a", "b"]


def test_an_imported_adapter_says_so(registry: Registry, grow: Publish) -> None:
    entry = grow("authors", imported={"file": "checkpoint-best.pth"}, train=None)
    member = family_tree(registry, entry).members[-1]
    assert (member.made, member.facts["imported"]) == ("imported", {"file": "checkpoint-best.pth"})


def test_an_ancestor_that_is_gone_or_corrupt_keeps_its_place(registry: Registry, grow: Publish) -> None:
    corrupt = grow("old")
    entry = grow("coco", corrupt, "0" * 64)
    path = registry.root / "blobs/sha256" / corrupt.digest[:2] / corrupt.digest
    path.chmod(0o644)
    path.write_bytes(b"rot")
    assert drawing(family_tree(registry, entry)) == [
        "tiny backbone",
        "  old@1 unknown!corrupt",
        "    coco@1 injected*",
        "  0000 unknown!missing",
        "    coco@1 injected*^",
    ]


def test_without_facts_there_is_no_backbone_and_no_error(registry: Registry) -> None:
    entry = registry.publish("bare", kind="adapter", files={}, facts={}, verb="x")
    assert drawing(family_tree(registry, entry)) == ["bare@1 adapter*"]


def test_versions_that_cannot_be_read_are_named_for_they_may_be_relatives(registry: Registry, grow: Publish) -> None:
    entry = grow("coco")
    for name, damage in (("rotten", b"rot"), ("gone", None)):
        child = grow(name, entry)
        path = registry.root / "blobs/sha256" / child.digest[:2] / child.digest
        path.chmod(0o644)
        path.unlink() if damage is None else path.write_bytes(damage)
    tree = family_tree(registry, entry)
    assert tree.unread == ["gone@1", "rotten@1"]
    assert drawing(tree) == ["tiny backbone", "  coco@1 injected*"]


def test_a_digest_elsewhere_in_a_manifest_makes_no_descendant(registry: Registry, grow: Publish) -> None:
    entry = grow("coco")
    grow("stranger", train={"parents": [entry.digest]}, note=entry.digest)
    assert drawing(family_tree(registry, entry)) == ["tiny backbone", "  coco@1 injected*"]


def test_a_long_line_of_descent_is_drawn_whole_and_is_json(registry: Registry, grow: Publish) -> None:
    entries = [grow("line")]
    for number in range(150):
        entries.append(grow("line", entries[-1], number=number))
    tree = family_tree(registry, entries[75])
    assert [member.depth for member in tree.members] == list(range(152))
    assert json.loads(json.dumps(tree.as_dict()))["members"][76]["shown"]


def test_an_entry_in_a_folder_has_its_place_in_the_family(registry: Registry, grow: Publish, tmp_path: Path) -> None:
    parent = grow("coco")
    facts = {"schema": 1, "kind": "adapter", "parents": [parent.digest], "files": [], "base": BASE}
    (tmp_path / "manifest.json").write_bytes(canonical_json(facts))
    tree = family_tree(registry, registry.resolve(str(tmp_path)))
    assert drawing(tree) == ["tiny backbone", "  coco@1 injected", f"    {tmp_path} adapter*"]


def test_a_long_manifest_is_read_to_its_end_and_one_without_parents_is_no_relative(
    registry: Registry, grow: Publish
) -> None:
    root = grow("root")
    grow("long", root, recipe={"note": "x" * 100_000, "parents": ["1" * 64]})
    grow("stranger", train=TRAINED | {"recipe": {"parents": [root.digest]}})
    tree = family_tree(registry, root)
    assert drawing(tree) == ["tiny backbone", "  root@1 injected*", "    long@1 injected"]
    assert tree.unread == []
