from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mwactl.errors import UsageError, VerificationError
from mwactl.search import ChangedError, build_index, compact, delete_ids, open_index
from mwactl.search.graph import EXPANSION_SEARCH


def unit(n: int, e: int = 24, seed: int = 0):
    """[n, e] unit rows around n / 50 centres: as embeddings are, and not all as far from each other."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 50), e))
    rows = centres[rng.integers(len(centres), size=n)] + 0.7 * rng.standard_normal((n, e))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def indexed(collection):
    """A collection of 2,000 rows with an approximate index."""
    folder = collection(unit(2_000)).folder
    build_index(folder, kind="approximate", threads=1)
    return open_index(folder)


def by_sorting(index, queries, k, allowed=None):
    """The rows that a sort of all scores gives."""
    n = len(index.alive)
    scores = queries @ index.vectors(np.arange(n)).T
    scores[:, ~(index.alive if allowed is None else allowed)] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_exact_search_finds_what_sorting_finds(collection, dtype):
    index = collection(unit(1_234), part_rows=100, dtype=dtype)
    queries = unit(20, seed=1)
    hits = index.search(queries, 10)
    assert hits.method == "exact"
    assert np.array_equal(hits.rows, by_sorting(index, queries, 10))
    scores = np.einsum("qe,qke->qk", queries, index.vectors(hits.rows.ravel()).reshape(20, 10, -1))
    assert hits.scores == pytest.approx(scores, abs=1e-6)


def test_fewer_rows_than_asked_for_leave_places_empty(collection):
    index = collection(unit(3))
    hits = index.search(unit(2, seed=1), 5)
    assert hits.rows.shape == (2, 3)  # no more places than there are rows
    assert sorted(hits.rows[0]) == [0, 1, 2]
    hits = index.search(unit(2, seed=1), 3, where=["n>0"])
    assert (hits.rows[:, 2:] == -1).all()
    assert np.isneginf(hits.scores[:, 2:]).all()
    assert [item.id for item, _ in index.found(hits, 1)] == [str(row) for row in hits.rows[1, :2]]
    assert [score for _, score in index.found(hits, 1)] == hits.scores[1, :2].tolist()


def test_any_number_may_be_asked_for(collection, indexed):
    for index in (collection(unit(3), folder=indexed.folder.parent / "three"), indexed):
        hits = index.search(unit(1), 10**12)
        assert sorted(hits.rows[0]) == list(range(len(index)))


@pytest.mark.parametrize("value", [2, 1e4, np.inf])
@pytest.mark.parametrize("approximate", [False, True])
def test_a_score_that_no_unit_vector_has_is_told_as_damage(collection, approximate: bool, value: float):
    vectors = unit(400)
    index = collection(vectors, part_rows=100, dtype="float32")
    query = vectors[[250]]
    if approximate:
        build_index(index.folder, kind="approximate", threads=1)
    path = index.folder / "part-00002.vectors.npy"
    content = path.read_bytes()
    spoilt = vectors[200:300].copy()
    spoilt[50, 3] = value / query[0, 3]
    path.write_bytes(content[: -spoilt.nbytes] + spoilt.tobytes())
    index = open_index(index.folder)
    with pytest.raises(VerificationError, match=r"row 250: a score of .*--repair") as error:
        index.search(query, 5)
    assert error.value.where == str(path)
    long = 100 * vectors[[30]]  # a long query is no damage
    assert index.search(long, 1, where=["n<100"]).rows[0, 0] == 30


def test_a_compaction_between_opening_and_searching_is_no_damage(indexed):
    delete_ids(indexed.folder, ["3"])
    early, late = open_index(indexed.folder), open_index(indexed.folder)
    assert compact(indexed.folder) == 1
    for use in (lambda: early.search(unit(1)), lambda: early.search(unit(1), where=["n>3"]), lambda: late.item(700)):
        with pytest.raises(ChangedError, match="search again"):
            use()
    assert open_index(indexed.folder).search(unit(1)).rows.shape == (1, 10)


def test_a_compaction_between_the_manifest_and_its_parts_is_no_damage(collection, monkeypatch):
    folder = collection(unit(50), part_rows=5).folder
    delete_ids(folder, ["7"])
    from mwactl.search import index as module

    read, before = module.read_manifest, []

    def overtaken(folder: Path):
        manifest = read(folder)
        if not before:
            before.append(manifest)
            monkeypatch.setattr(module, "read_manifest", read)
            compact(folder)
        return manifest

    monkeypatch.setattr(module, "read_manifest", overtaken)
    index = open_index(folder)
    assert before
    assert (len(index), len(index.manifest.parts)) == (49, 1)


def test_a_collection_without_rows_finds_nothing(collection):
    index = collection(unit(1)[:0])
    assert len(index) == 0
    assert (index.search(unit(1), 4).rows == -1).all()


@pytest.mark.parametrize("queries", [unit(1)[0], unit(2, e=5), unit(2)[None]])
def test_queries_of_another_shape_are_refused(collection, queries):
    with pytest.raises(UsageError, match=r"\[q, 24\]"):
        collection(unit(3)).search(queries)


def test_items_are_read_one_by_one_from_where_they_are(collection):
    index = collection(unit(1_000), part_rows=300)
    for row in (0, 299, 300, 999):
        assert (index.item(row).id, index.item(row).fields) == (str(row), {"n": row})
    for row in (-1, 1_000):
        with pytest.raises(IndexError):
            index.item(row)


def test_more_parts_than_stay_mapped_are_searched_too(collection, monkeypatch):
    monkeypatch.setattr("mwactl.search.index._MOST_MAPPED", 2)
    index = collection(unit(50), part_rows=5)
    assert np.array_equal(index.search(unit(50), 1).rows[:, 0], np.arange(50))
    assert len(index._maps) == 2


def test_approximate_search_finds_nearly_all_and_ranks_by_the_stored_vectors(indexed, monkeypatch):
    monkeypatch.setattr("mwactl.search.index._RANKED_AT_A_TIME", 7)
    queries = unit(200, seed=2)
    hits, exact = indexed.search(queries, 10), indexed.search(queries, 10, exact=True)
    assert (hits.method, exact.method) == ("approximate", "exact")
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(hits.rows, exact.rows, strict=True)]) / 10
    assert recall > 0.99
    same = hits.rows == exact.rows
    assert hits.scores[same] == pytest.approx(exact.scores[same], abs=1e-6)  # bfloat16 would be off by 1e-3
    for number in (0, 7, 199):  # the queries were ranked in groups
        one = indexed.search(queries[number, None], 10)
        assert np.array_equal(one.rows[0], hits.rows[number])


def test_the_graph_is_searched_with_the_expansion_that_the_recall_was_measured_with(indexed):
    indexed.search(unit(1))
    assert indexed._graph.expansion_search == EXPANSION_SEARCH


@pytest.mark.parametrize("approximate", [False, True])
def test_a_filter_is_applied_before_the_best_are_chosen(collection, approximate):
    folder = collection(unit(2_000)).folder
    if approximate:
        build_index(folder, kind="approximate", threads=1)
    index = open_index(folder)
    queries = unit(30, seed=3)
    hits = index.search(queries, 10, where=["n>499", "n<1500", "n!=700"])
    allowed = np.zeros(2_000, bool)
    allowed[500:1500] = True
    allowed[700] = False
    expected = by_sorting(index, queries, 10, allowed)
    assert hits.method == ("approximate" if approximate else "exact")
    assert allowed[hits.rows].all()
    assert np.mean(hits.rows == expected) > (0.97 if approximate else 0.9999)


def test_a_filter_that_leaves_few_is_searched_exactly_and_says_so(indexed):
    hits = indexed.search(unit(4, seed=4), 10, where=["n<20"])
    assert hits.method == "exact"
    assert "few rows may be found (20)" in hits.notes[0]
    assert set(hits.rows.ravel()) <= set(range(20))


def test_a_filter_far_from_the_query_falls_back_to_exact_search_and_says_so(collection):
    """Half of the rows may be found, but none of them is near the query."""
    vectors = unit(10_000, e=8)
    vectors[:, 0] = np.where(np.arange(10_000) % 16, 3.0, -3.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = collection(vectors, part_rows=10_000).folder
    build_index(folder, kind="approximate", threads=1)
    index = open_index(folder)
    index.alive[np.arange(10_000) % 16 != 0] = False
    hits = index.search(np.eye(1, 8, dtype=np.float32), 10)
    assert (hits.rows % 16 == 0).all()
    assert np.array_equal(hits.rows, by_sorting(index, np.eye(1, 8, dtype=np.float32), 10))
    assert hits.method == "exact"
    assert "the index found too few" in hits.notes[0]


def test_a_filter_that_nothing_fulfils_finds_nothing(indexed):
    assert (indexed.search(unit(1), 3, where=["n>5000"]).rows == -1).all()


def test_a_field_that_no_row_has_is_told_with_those_there_are(indexed):
    with pytest.raises(UsageError, match=r"no row has a field 'year'.*the fields are: id, n"):
        indexed.search(unit(1), where=["year>3"])


def test_the_id_can_be_asked_for(indexed):
    assert indexed.search(unit(1), 2, where=["id=77"]).rows.tolist() == [[77, -1]]


@pytest.mark.parametrize("approximate", [False, True])
def test_deleted_rows_are_not_found(collection, approximate):
    vectors = unit(2_000)
    folder = collection(vectors).folder
    if approximate:
        build_index(folder, kind="approximate", threads=1)
    gone = ["3", "700", "1999"]
    assert delete_ids(folder, gone) == 3
    index = open_index(folder)
    assert len(index) == 1_997
    hits = index.search(vectors[[3, 700, 1999, 5]], 10)
    assert not {3, 700, 1999} & set(hits.rows.ravel())
    assert hits.rows[3, 0] == 5
    assert (hits.rows >= 0).all()


def test_rows_newer_than_the_index_are_found_and_it_says_so(run, pictures, colours: Path, paint, encoder, names):
    build_index(colours, kind="approximate", threads=1)
    paint(pictures / "new.png", (255, 0, 4))
    run(pictures)
    index = open_index(colours)
    assert index.unindexed() == 1
    hits = index.search(encoder.encode_texts(["red"]), 2)
    assert set(names(index, hits)) == {"red.png", "new.png"}
    assert hits.rows.shape == (1, 2)


def test_new_rows_and_indexed_rows_are_ranked_together(collection, indexed):
    new = unit(300, seed=9)
    extended = collection(np.vstack([unit(2_000), new]), folder=indexed.folder)  # the same first parts
    manifest = json.loads((indexed.folder / "manifest.json").read_text())
    manifest["graph"] = {
        "name": indexed.manifest.graph.name, "generation": 1, "parts": indexed.manifest.graph.parts,
        "file": {"sha256": indexed.manifest.graph.file.sha256, "size": indexed.manifest.graph.file.size},
    }  # fmt: skip
    (indexed.folder / "manifest.json").write_text(json.dumps(manifest))
    index = open_index(indexed.folder)
    assert index.unindexed() == 300
    queries = np.vstack([new[:20], unit(20, seed=5)])
    hits = index.search(queries, 10)
    assert hits.method == "approximate"
    assert "300 vectors are newer than the index" in hits.notes[0]
    assert np.array_equal(hits.rows[:20, 0], np.arange(2_000, 2_020))
    assert np.mean(hits.rows == by_sorting(extended, queries, 10)) > 0.97


def test_an_index_of_other_parts_is_not_used_and_it_says_so(indexed):
    path = indexed.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["parts"][0]
    path.write_text(json.dumps(manifest))
    index = open_index(indexed.folder)
    assert index.unindexed() is None
    hits = index.search(unit(2), 3)
    assert hits.method == "exact"
    assert "not of these parts any more" in hits.notes[0]


@pytest.mark.parametrize("suffix", ["vectors.npy", "rows.jsonl"])
def test_a_part_that_is_truncated_or_gone_is_told_with_file_and_command(colours: Path, suffix: str):
    path = colours / f"part-00001.{suffix}"
    content = path.read_bytes()
    for damage in (lambda: path.write_bytes(content[:-3]), lambda: path.write_bytes(b""), path.unlink):
        damage()
        with pytest.raises(VerificationError, match=r"fix: mwactl index .* --repair") as error:
            open_index(colours)
        assert error.value.where == str(path)


def test_vectors_of_the_right_length_and_another_shape_are_told(colours: Path):
    path = colours / "part-00000.vectors.npy"
    rows = np.load(path)
    with path.open("wb") as file:
        np.lib.format.write_array(file, rows.reshape(6, 8), version=(1, 0))
    assert path.stat().st_size == open_index(colours).manifest.parts[0].vectors.size
    with pytest.raises(VerificationError, match=r"\(6, 8\)"):
        open_index(colours).search(np.ones((1, 16), np.float32))


def test_rows_that_cannot_be_read_are_told(colours: Path):
    path = colours / "part-00000.rows.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    index = open_index(colours)
    for read in (lambda: index.item(0), lambda: list(index.items())):
        with pytest.raises(VerificationError, match=r"part-00000\.rows\.jsonl"):
            read()
