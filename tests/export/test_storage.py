"""Graphs as files, in one piece or two, with facts that onnxruntime reads."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mwactl.errors import ResourceError
from mwactl.export.storage import copy_with_facts, save, size_bytes, weights_file


@pytest.fixture(params=[1_800_000_000, 1000], ids=["in one file", "weights beside"])
def graph(request, tiny, tmp_path) -> Path:
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "image.onnx"
    save(onnx.load(tiny.graphs["image"]), path, largest_bytes=request.param)
    return path


def test_a_graph_with_large_weights_keeps_them_beside(tiny, tmp_path):
    model = onnx.load(tiny.graphs["image"])
    save(model, tmp_path / "small.onnx")
    save(model, tmp_path / "large.onnx", largest_bytes=1000)
    assert not weights_file(tmp_path / "small.onnx").exists()
    assert weights_file(tmp_path / "large.onnx").stat().st_size > 100_000
    assert (tmp_path / "large.onnx").stat().st_size < 100_000
    assert size_bytes(tmp_path / "large.onnx") >= size_bytes(tmp_path / "small.onnx")


def test_facts_are_read_by_whoever_opens_the_graph(graph, tiny, tmp_path, run):
    facts = {"mwactl": '{"dtype": "fp32", "name": "größer"}', "other": "1"}
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "image.onnx"
    copy_with_facts(graph, target, facts)
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == facts
    assert {entry.key: entry.value for entry in onnx.load(target).metadata_props} == facts
    onnx.checker.check_model(target)
    pixels = tiny.examples["image"][-1].given.numpy()
    np.testing.assert_array_equal(run(target, pixels), run(tiny.graphs["image"], pixels))


def test_the_original_stays_without_facts(graph, tmp_path):
    before = graph.read_bytes()
    (tmp_path / "there").mkdir()
    copy_with_facts(graph, tmp_path / "there" / "image.onnx", {"mwactl": "{}"})
    assert graph.read_bytes() == before


def test_a_full_disk_is_said(tiny, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        save(onnx.load(tiny.graphs["image"]), tmp_path / "image.onnx")
