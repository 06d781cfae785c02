from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mwactl.errors import NotFoundError, VerificationError
from mwactl.search import build_index, compact, delete_ids, open_index, repair_parts


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock"}


@pytest.fixture
def ids():
    """ids(folder): what can be found in a collection."""

    def found(folder: Path) -> list[str]:
        index = open_index(folder)
        return [item.id for item, alive in zip(index.items(), index.alive, strict=True) if alive]

    return found


def spoil(folder: Path) -> None:
    """Damage every part, and take them out."""
    for path in folder.glob("part-*.vectors.npy"):
        path.write_bytes(b"x")
    assert repair_parts(folder)


def test_few_vectors_need_no_index_and_every_file_is_verified(colours: Path):
    done = build_index(colours)
    assert (done.kind, done.rows, done.built, done.generation) == ("exact", 8, False, None)
    path = colours / "part-00002.vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert len(open_index(colours)) == 8  # a search does not read all of it first
    with pytest.raises(VerificationError, match="digest") as error:
        build_index(colours)
    assert error.value.where == str(path)


@pytest.mark.parametrize(("above", "kind"), [(8, "exact"), (7, "approximate")])
def test_the_number_of_rows_decides(colours: Path, above: int, kind: str):
    assert build_index(colours, above=above, threads=1).kind == kind


def test_an_approximate_index_that_is_there_stays_one(colours: Path, run, pictures: Path, paint):
    build_index(colours, kind="approximate", threads=1)
    assert (build_index(colours).kind, build_index(colours).built) == ("approximate", False)
    paint(pictures / "new.png", "red")
    run(pictures)
    done = build_index(colours, threads=1)  # as the search's note says
    assert (done.kind, done.built, done.generation) == ("approximate", True, 2)


def test_an_index_that_is_current_is_not_made_again(colours: Path):
    first = build_index(colours, kind="approximate", threads=1)
    again = build_index(colours, kind="approximate", threads=1)
    assert (first.built, first.generation) == (True, 1)
    assert (again.built, again.generation) == (False, 1)


def test_a_new_generation_replaces_the_old_file(colours: Path, run, pictures: Path, paint):
    build_index(colours, kind="approximate", threads=1)
    paint(pictures / "new.png", "red")
    run(pictures)
    assert "index.usearch.1" in files(colours)  # it still serves, beside an exact scan of what is new
    done = build_index(colours, kind="approximate", threads=1)
    assert (done.built, done.generation, done.rows) == (True, 2, 9)
    assert {name for name in files(colours) if name.startswith("index")} == {"index.usearch.2"}


def test_a_damaged_index_is_made_again(colours: Path):
    build_index(colours, kind="approximate", threads=1)
    path = colours / "index.usearch.1"
    path.write_bytes(bytes(path.stat().st_size))
    assert build_index(colours, kind="approximate", threads=1).generation == 2


def test_exact_removes_the_index(colours: Path):
    build_index(colours, kind="approximate", threads=1)
    assert build_index(colours, kind="exact").kind == "exact"
    assert not [name for name in files(colours) if name.startswith("index")]
    assert open_index(colours).manifest.graph is None
    assert build_index(colours, kind="approximate", threads=1).generation == 2  # a name is never used twice


def test_a_collection_that_is_not_there_is_not_made(tmp_path: Path):
    for change in (build_index, compact, repair_parts, lambda folder: delete_ids(folder, ["a"])):
        with pytest.raises(NotFoundError):
            change(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_an_unknown_id_deletes_nothing(colours: Path):
    with pytest.raises(NotFoundError, match="mauve"):
        delete_ids(colours, ["red.png", "mauve.png"])
    assert len(open_index(colours)) == 8


def test_deleting_twice_is_deleting_once(colours: Path):
    assert delete_ids(colours, ["red.png", "blue.png"]) == 2
    assert delete_ids(colours, ["red.png"]) == 0
    assert len(open_index(colours)) == 6


def test_a_damaged_list_of_deletions_is_told(colours: Path):
    delete_ids(colours, ["red.png"])
    (colours / "deleted.json").write_text("{}")
    with pytest.raises(VerificationError, match="list of deleted rows"):
        open_index(colours)


def test_compaction_leaves_out_what_cannot_be_found_and_keeps_the_rest_to_the_bit(
    colours: Path, run, pictures: Path, paint, encoder, names
):
    paint(pictures / "red.png", (250, 0, 0), (30, 30))
    run(pictures)
    delete_ids(colours, ["blue.png", "green.png"])
    build_index(colours, kind="approximate", threads=1)
    before = open_index(colours)
    rows = np.flatnonzero(before.alive)
    kept = [item.id for item, alive in zip(before.items(), before.alive, strict=True) if alive]
    vectors = before.vectors(rows)
    found = names(before, before.search(encoder.encode_texts(["red"]), 6))
    assert compact(colours, rows_per_part=4) == 3
    after = open_index(colours)
    assert [part.rows for part in after.manifest.parts] == [4, 2]
    assert after.alive.all()
    assert np.array_equal(after.vectors(np.arange(6)), vectors)
    assert [item.id for item in after.items()] == kept
    assert names(after, after.search(encoder.encode_texts(["red"]), 6)) == found
    assert files(colours) == {
        "manifest.json", "deleted.json",
        *(f"part-0000{i}.{kind}" for i in (4, 5) for kind in ("vectors.npy", "rows.jsonl")),
    }  # fmt: skip
    assert build_index(colours).rows == 6
    again = {path.name: path.stat().st_mtime_ns for path in colours.glob("part-*")}
    assert compact(colours, rows_per_part=4) == 0
    assert {path.name: path.stat().st_mtime_ns for path in colours.glob("part-*")} == again


def test_a_deleted_row_of_a_part_that_is_gone_never_means_another(colours: Path, run, pictures: Path):
    """Numbers of parts are not used again."""
    delete_ids(colours, ["red.png"])
    path = colours / "part-00001.vectors.npy"
    path.write_bytes(b"x")
    assert repair_parts(colours) == ["part-00001"]
    assert run(pictures).embedded == 2
    index = open_index(colours)
    assert [part.name for part in index.manifest.parts] == ["part-00000", "part-00002", "part-00003"]
    assert index.alive.all()


def test_what_was_deleted_stays_so_through_a_repair_until_it_changes(colours: Path, run, pictures: Path, paint, ids):
    delete_ids(colours, ["red.png"])
    spoil(colours)
    run(pictures)
    assert (len(ids(colours)), "red.png" in ids(colours)) == (7, False)
    spoil(colours)  # a second time: by now no part knows it
    run(pictures)
    assert (len(ids(colours)), "red.png" in ids(colours)) == (7, False)
    paint(pictures / "red.png", "red", (20, 20))
    run(pictures)
    assert "red.png" in ids(colours)
    spoil(colours)  # what it is now was never deleted
    run(pictures)
    assert "red.png" in ids(colours)


def test_a_changed_picture_that_was_deleted_does_not_come_back_as_it_was_before(
    colours: Path, run, pictures: Path, paint, ids
):
    paint(pictures / "red.png", "red", (20, 20))
    run(pictures)
    assert delete_ids(colours, ["red.png"]) == 1
    (colours / "part-00003.rows.jsonl").write_bytes(b"")  # the part that replaces its first row
    assert repair_parts(colours) == ["part-00003"]
    assert "red.png" not in ids(colours)
    run(pictures)
    assert "red.png" not in ids(colours)


def test_a_compaction_forgets_what_was_deleted(colours: Path, run, pictures: Path, ids):
    delete_ids(colours, ["red.png"])
    compact(colours)
    run(pictures)
    assert "red.png" in ids(colours)


def test_repair_takes_damaged_parts_out_and_embedding_makes_them_anew(colours: Path, run, pictures: Path, encoder):
    build_index(colours, kind="approximate", threads=1)
    assert repair_parts(colours) == []
    (colours / "part-00000.rows.jsonl").write_bytes(b"")
    (colours / "index.usearch.1").unlink()
    assert repair_parts(colours) == ["part-00000", "index.usearch.1"]
    assert len(open_index(colours)) == 5
    assert open_index(colours).manifest.graph is None
    done = run(pictures)
    assert (done.embedded, done.unchanged) == (3, 5)
    assert len(open_index(colours)) == 8


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(colours: Path):
    left = ["part-00009.vectors.npy", "part-00009.rows.jsonl", "index.usearch.7", ".manifest.json.x1.part",
            ".part-00009.rows.jsonl.abc.part", ".index.usearch.7.new.part", ".failed.jsonl.q.part"]  # fmt: skip
    kept = ["notes.txt", "part-00000.vectors.npy.bak", ".mine.part", "part-one.rows.jsonl"]
    for name in left + kept:
        (colours / name).write_bytes(b"x")
    before = files(colours)
    build_index(colours)
    assert before - files(colours) == set(left)
