"""The quickstart: the whole life of an adapter on what the package carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mwactl.registry import Registry
from mwactl.workflow.quickstart import quickstart

_SHORT = ("train.epochs=2",)


@pytest.mark.usefixtures("no_network")
def test_two_epochs_improve_recall_on_the_unseen_drawings_and_leave_everything_behind(tmp_path: Path) -> None:
    registry = Registry.default()
    done = quickstart(registry, overrides=_SHORT, sheet=tmp_path / "sheet.png")
    assert (done.before["images"], done.before["texts"]) == (250, 561)
    assert done.after["rsum"] > done.before["rsum"] > 100
    assert done.entry.reference == "quickstart@2"
    assert done.entry.manifest["parents"] == [registry.resolve("quickstart@1").digest]
    assert done.entry.manifest["tensors"]["parameters"] < 0.03 * done.entry.manifest["base"]["parameters"]
    (evaluation,) = registry.attachments(done.entry, "evaluation")
    assert evaluation["document"]["rsum"] == done.after["rsum"]
    with Image.open(done.sheet) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 800


def test_a_second_quickstart_gives_the_same_numbers_and_no_new_version(tmp_path: Path) -> None:
    registry = Registry.default()
    first = quickstart(registry, overrides=_SHORT, sheet=tmp_path / "one.png")
    second = quickstart(registry, overrides=_SHORT, sheet=tmp_path / "two.png")
    assert second.before == first.before
    assert second.after == first.after
    assert second.entry.digest == first.entry.digest
    assert second.entry.version == first.entry.version
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
