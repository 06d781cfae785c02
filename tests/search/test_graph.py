from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mwactl.errors import ResourceError, VerificationError
from mwactl.search import build_index, open_index
from mwactl.search.exact import NO_ROW
from mwactl.search.graph import nearest, open_graph


@pytest.fixture
def vectors():
    rows = np.random.default_rng(0).standard_normal((600, 24)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def folder(collection, vectors) -> Path:
    folder = collection(vectors, part_rows=250).folder
    build_index(folder, kind="approximate", threads=1)
    return folder


def graph_of(folder: Path):
    graph = open_index(folder).manifest.graph
    assert graph is not None
    return graph


def test_keys_are_row_numbers_over_all_parts(folder: Path, vectors):
    index = open_graph(folder, graph_of(folder))
    assert len(index) == 600
    assert np.array_equal(nearest(index, vectors, 1)[:, 0], np.arange(600))
    assert np.array_equal(nearest(index, vectors[:1], 1), [[0]])


def test_fewer_rows_than_asked_for_leave_no_made_up_ones(folder: Path, vectors):
    index = open_graph(folder, graph_of(folder))
    rows = nearest(index, vectors[:3], 5_000)
    assert rows.shape == (3, 600)
    for row in rows:
        found = row[row != NO_ROW]
        assert len(found) > 550  # a graph may not reach all of them
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_file_is_told_and_never_mapped(folder: Path, keep: int, vectors):
    path = folder / graph_of(folder).name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VerificationError, match=r"bytes, the manifest says .*--approximate.*--exact") as error:
        open_index(folder).search(vectors[:1])
    assert error.value.where == str(path)


def test_a_file_that_is_gone_or_another_is_told(folder: Path, vectors):
    path = folder / graph_of(folder).name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(VerificationError):
        open_index(folder).search(vectors[:1])
    path.unlink()
    with pytest.raises(VerificationError):
        open_index(folder).search(vectors[:1])
    assert open_index(folder).search(vectors[:1], exact=True).rows[0, 0] == 0


def test_a_full_disk_is_told_before_usearch_writes(collection, vectors, monkeypatch):
    folder = collection(vectors).folder
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("mwactl.search.graph.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="disk is full"):
        build_index(folder, kind="approximate", threads=1)
    assert open_index(folder).manifest.graph is None
