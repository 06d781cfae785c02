from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from mwactl.registry import Entry, Registry
from mwactl.registry.change import Change

Publish = Callable[..., Entry]
D = "d" * 64


@pytest.mark.parametrize(
    ("verb", "old", "new", "undo"),
    [
        ("train", None, {"version": 1, "digest": D}, "mwactl registry rm coco@1"),
        ("unpack", {"version": 1, "digest": D}, {"version": 2, "digest": D}, "mwactl registry rm coco@2"),
        ("attach", None, {"version": 1, "digest": D, "attachment": "note", "attached": D}, None),
        ("alias", None, {"alias": "a", "version": 1, "digest": D}, "mwactl registry alias coco a --delete"),
        ("alias", {"alias": "a", "version": 1, "digest": D}, None, "mwactl registry alias coco@1 a"),
        ("remove", {"version": 1, "digest": D}, None, "mwactl registry rm --undo coco@1"),
        ("restore", None, {"version": 1, "digest": D, "restored": True}, "mwactl registry rm coco@1"),
        (
            "tag",
            {"version": 1, "digest": D, "tags": {"a": "x y", "b": "1"}},
            {"version": 1, "digest": D, "tags": {"b": "1", "c": "2"}},
            "mwactl registry tag coco@1 'a=x y' --delete c",
        ),
    ],
)
def test_every_line_of_the_history_says_how_it_is_undone(
    verb: str, old: dict[str, Any] | None, new: dict[str, Any] | None, undo: str | None
) -> None:
    assert Change.from_record("coco", {"verb": verb, "old": old, "new": new}).undo == undo


def test_what_changes_nothing_is_not_undone() -> None:
    same = {"alias": "a", "version": 1, "digest": D}
    assert (Change("coco", "alias", same, same).is_empty, Change("coco", "alias", same, same).undo) == (True, None)


def test_the_undo_of_each_change_puts_back_what_was_there(
    registry: Registry, publish: Publish, mwactl_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands are typed as they are printed."""
    monkeypatch.setenv("MWACTL_REGISTRY", str(registry.root))

    def named() -> Any:
        return [entry.reference for entry in registry.entries()], registry.aliases("coco"), registry.tags("coco")

    first, second = publish(), publish(data=b"more")
    registry.alias("coco", "prod", 1)
    registry.tag(first, {"a": "x y", "b": "1"})
    changes: list[Callable[[], Change]] = [
        lambda: registry.alias("coco", "prod", 2),
        lambda: registry.alias("coco", "best", 2),
        lambda: registry.alias("coco", "prod", None),
        lambda: registry.tag(first, {"c": "3", "b": "2"}, ["a"]),
        lambda: registry.remove(second)[0],
    ]
    for change in changes:
        before = named()
        undo = change().undo
        assert undo is not None
        assert named() != before
        assert mwactl_cli(*shlex.split(undo)[1:]).code == 0
        assert named() == before
