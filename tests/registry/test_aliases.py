from __future__ import annotations

from collections.abc import Callable

import pytest

from mwactl.errors import NotFoundError, UsageError, VerificationError
from mwactl.registry import Entry, Registry

Publish = Callable[..., Entry]


def test_an_alias_holds_version_and_digest(registry: Registry, publish: Publish) -> None:
    first, _ = publish(), publish(data=b"more")
    change = registry.alias("coco", "prod", 1)
    assert (registry.root / "refs/coco/aliases/prod").read_text() == f"1 {first.digest}\n"
    assert registry.aliases("coco") == {"prod": (1, first.digest)}
    assert registry.resolve("coco:prod") == first
    assert (change.old, change.new) == (None, {"alias": "prod", "version": 1, "digest": first.digest})


def test_an_alias_moves_and_the_history_says_how_to_move_it_back(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    registry.alias("coco", "prod", 1)
    change = registry.alias("COCO", "Prod", 2)
    assert registry.resolve("coco:prod") == second
    assert change.undo == "mwactl registry alias coco@1 prod"
    line = registry.history("coco")[-1]
    assert (line["verb"], line["old"]["version"], line["new"]["version"]) == ("alias", 1, 2)
    assert line["old"]["digest"] == first.digest


def test_an_alias_set_to_where_it_leads_writes_nothing_and_waits_for_nobody(
    registry: Registry, publish: Publish, snapshot: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    registry.alias("coco", "prod", 1)
    before = snapshot(registry.root)
    monkeypatch.setattr("mwactl.registry.store.writing", None)
    assert registry.alias("coco", "prod", 1).is_empty
    assert snapshot(registry.root) == before


@pytest.mark.parametrize("version", [1, None])
def test_a_dry_run_writes_nothing(
    registry: Registry, publish: Publish, snapshot: Callable[..., object], version: int | None
) -> None:
    publish(), publish(data=b"more")
    registry.alias("coco", "prod", 2)
    before = snapshot(registry.root)
    assert not registry.alias("coco", "prod", version, dry_run=True).is_empty
    assert snapshot(registry.root) == before


def test_an_alias_is_taken_away_once(registry: Registry, publish: Publish) -> None:
    publish()
    registry.alias("coco", "prod", 1)
    change = registry.alias("coco", "prod", None)
    assert (registry.aliases("coco"), change.new) == ({}, None)
    assert change.undo == "mwactl registry alias coco@1 prod"
    with pytest.raises(NotFoundError, match="no alias coco:prod"):
        registry.alias("coco", "prod", None)


@pytest.mark.parametrize("alias", ["latest", "LATEST", "../x", "a/b", "", "con", "a b"])
def test_a_word_that_cannot_be_an_alias_is_refused(registry: Registry, publish: Publish, alias: str) -> None:
    publish()
    with pytest.raises(UsageError) as error:
        registry.alias("coco", alias, 1)
    assert error.value.fix
    assert not (registry.root / "refs/coco/aliases").exists()


def test_an_alias_needs_a_version_that_is_there(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(NotFoundError, match="coco@2"):
        registry.alias("coco", "prod", 2)
    with pytest.raises(NotFoundError, match="none@1"):
        registry.alias("none", "prod", 1)
    assert not (registry.root / "refs/none").exists()


@pytest.mark.parametrize("content", [b"", b"1\n", b"x", b"1 " + b"0" * 64, b"01 " + b"0" * 64 + b"\n", b"\xff" * 67])
def test_a_damaged_alias_is_an_error_a_problem_in_lists_and_can_be_set_anew(
    registry: Registry, publish: Publish, content: bytes
) -> None:
    entry = publish()
    registry.alias("coco", "prod", 1)
    registry.alias("coco", "best", 1)
    path = registry.root / "refs/coco/aliases/prod"
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"alias coco:prod is corrupt.*aliases/prod"):
        registry.resolve("coco:prod")
    assert list(registry.aliases("coco")) == ["best"]
    assert ["coco:prod is corrupt" in problem for problem in registry.labels("coco").problems] == [True]
    change = registry.alias("coco", "prod", 1)
    assert change.old == {"alias": "prod", "damaged": True}
    assert change.undo == "mwactl registry alias coco prod --delete"
    assert registry.resolve("coco:prod") == entry


def test_a_damaged_alias_can_be_taken_away(registry: Registry, publish: Publish) -> None:
    publish()
    registry.alias("coco", "prod", 1)
    path = registry.root / "refs/coco/aliases/prod"
    path.chmod(0o644)
    path.write_bytes(b"rot")
    assert registry.alias("coco", "prod", None).undo is None, "nobody knows where it led"
    assert registry.labels("coco").problems == []


def test_an_alias_and_a_version_that_contradict_each_other_are_an_error(registry: Registry, publish: Publish) -> None:
    publish(), publish(data=b"more")
    registry.alias("coco", "prod", 1)
    pointer = registry.root / "refs/coco/versions/1"
    pointer.chmod(0o644)
    pointer.write_bytes((registry.root / "refs/coco/versions/2").read_bytes())
    with pytest.raises(VerificationError, match="contradict"):
        registry.resolve("coco:prod")


def test_files_that_are_no_aliases_are_ignored(registry: Registry, publish: Publish) -> None:
    publish()
    registry.alias("coco", "prod", 1)
    for name in (".prod.swp", "Prod", "prod~"):
        (registry.root / "refs/coco/aliases" / name).write_text("x")
    assert list(registry.aliases("coco")) == ["prod"]
    assert registry.labels("coco").problems == []


def test_an_alias_whose_version_was_removed_behind_its_back_says_so(registry: Registry, publish: Publish) -> None:
    publish(), publish(data=b"more")
    registry.alias("coco", "prod", 1)
    registry._folder("coco").versions.remove(1)  # what two writers can do where there are no locks
    with pytest.raises(NotFoundError, match="coco:prod leads to was removed"):
        registry.resolve("coco:prod")
    assert len(registry.labels("coco").problems) == 1
