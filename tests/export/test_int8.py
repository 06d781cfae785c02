"""int8 within bounds: measured on the bundle itself, sparing blocks only where it must."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import mwactl.quickstart
from mwactl.data import CaptionedImages
from mwactl.errors import VerificationError
from mwactl.evaluate.encode import encode_split
from mwactl.export.candidates import Candidates, Material
from mwactl.export.exclusions import Block
from mwactl.export.gate import Bound
from mwactl.export.int8 import quantise_within
from mwactl.export.parity import TOLERANCES
from mwactl.export.verdict import judge
from mwactl.progress import Silent

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A hundred drawings with a caption each."""
    folder = tmp_path_factory.mktemp("drawings")
    with zipfile.ZipFile(str(files(mwactl.quickstart) / "noto.zip")) as archive:
        images = json.loads(archive.read("captions.json"))["images"][:100]
        for image in images:
            (folder / image["filename"]).write_bytes(archive.read(f"images/{image['filename']}"))
    paths = tuple(Path(folder / image["filename"]) for image in images)
    captions = tuple(image["sentences"][-1]["raw"] for image in images)
    return Material(
        CaptionedImages("drawings", "test", paths, captions, np.stack([np.arange(100)] * 2, 1)), recall=True
    )


@pytest.fixture
def candidates(tiny, content, material, tmp_path) -> Candidates:
    backbone = tiny.backbone
    reference = encode_split(
        tiny.adapted, material.dataset, transform=backbone.image_transform(), tokenize=backbone.tokenize, workers=0
    )
    (tmp_path / "work").mkdir()
    return Candidates(tmp_path / "work", content, material, reference, threads=1, reporter=Silent())


def test_in_full_precision_the_bundle_is_torch(tiny, candidates, tmp_path):
    found = judge(tiny.graphs, "fp32", [Bound("rsum", 0.0), Bound("top10", 99.0)], candidates, tmp_path, Silent())
    assert found.parity.within(TOLERANCES["fp32"])
    assert found.graphs == tiny.graphs
    assert found.int8 is None
    assert list((tmp_path / "work").iterdir()) == []


def test_graphs_that_are_not_the_model_are_refused(tiny, candidates, tmp_path):
    """int8 graphs that pass for fp32."""
    int8 = quantise_within(tiny.graphs, [Bound("top10", 0.0)], candidates, tmp_path / "int8", Silent())
    with pytest.raises(VerificationError, match="fp32 model is too far from torch; nothing was written"):
        judge(int8.graphs, "fp32", [], candidates, tmp_path, Silent())


def test_without_need_nothing_is_spared(tiny, candidates, tmp_path):
    listener = Listener()
    found = quantise_within(tiny.graphs, [Bound("top10", 0.0)], candidates, tmp_path / "int8", listener)
    assert found.spared == ()
    assert len(listener.said) == 1
    assert {tower: quantised.maps for tower, quantised in found.towers.items()} == {"image": 12, "text": 12}
    assert found.parity.image.max_abs > 1e-4


def test_where_all_is_too_much_the_worst_blocks_are_spared(tiny, candidates, tmp_path):
    everything = quantise_within(tiny.graphs, [Bound("top10", 0.0)], candidates, tmp_path / "all", Silent())
    wanted = Bound("top10", np.nextafter(everything.parity.top10, 101) + 1e-6)
    listener = Listener()
    found = quantise_within(tiny.graphs, [wanted], candidates, tmp_path / "int8", listener)
    assert 0 < len(found.spared) < 4
    assert wanted.holds(found.parity)
    assert sum(quantised.maps for quantised in found.towers.values()) == 24 - 6 * len(found.spared)
    assert listener.said[0].startswith("int8 with 0 of 4 blocks spared: top-10 agreement")
    damage = {block: candidates.damage({**tiny.graphs}, block.tower) for block in found.spared}
    assert all(value < 1e-6 for value in damage.values())  # fp32 does none: the measure starts at zero
    assert found.as_dict()["spared"][0].keys() == {"tower", "name"}


def test_what_cannot_be_had_is_refused_with_the_figures_of_the_best_attempt(tiny, candidates, tmp_path):
    bounds, listener = [Bound("top10", 100.0), Bound("i2t.R@1", 0.0)], Listener()
    with pytest.raises(VerificationError, match=r"costs more.*even with 3 of 4 blocks spared") as error:
        quantise_within(tiny.graphs, bounds, candidates, tmp_path, listener)
    best = next(said for said in listener.said if said.startswith("int8 with 3 of 4"))
    figure = re.search(r"top-10 agreement [\d.]+ %", best)[0]
    assert figure in str(error.value)
    assert figure not in listener.said[0]  # of all blocks in int8


def test_an_identity_names_what_was_spared(tiny, candidates, tmp_path):
    everything = quantise_within(tiny.graphs, [Bound("top10", 0.0)], candidates, tmp_path / "int8", Silent())
    blocks = [Block(tower, f"blocks.{index}") for tower in ("image", "text") for index in range(2)]
    mixtures = [(), *((block,) for block in blocks), tuple(blocks[:2])]
    marks = [replace(everything, spared=spared).mark for spared in mixtures]
    assert marks[0] == "int8"
    assert len(set(marks)) == len(mixtures)
    assert all(re.fullmatch("int8:[0-9a-f]{12}", mark) for mark in marks[1:])
    assert replace(everything, spared=tuple(blocks[1::-1])).mark == marks[-1]  # in whichever order they were found


def test_a_gate_holds_for_full_precision_too(tiny, candidates, tmp_path, monkeypatch):
    monkeypatch.setattr(Bound, "holds", lambda bound, parity: False)
    with pytest.raises(VerificationError, match="more than the gate allows"):
        judge(tiny.graphs, "fp32", [Bound("rsum", 0.0)], candidates, tmp_path, Silent())
