from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mwactl.errors import (
    DataError,
    IncompatibleError,
    Interrupted,
    NotFoundError,
    ResourceError,
    UsageError,
    VerificationError,
)
from mwactl.search import delete_ids, open_index
from mwactl.search.manifest import read_manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def ids(folder: Path) -> list[str]:
    index = open_index(folder)
    return [item.id for item, alive in zip(index.items(), index.alive, strict=True) if alive]


def test_parts_hold_unit_rows_and_what_they_are(colours: Path, encoder, pictures: Path):
    manifest = read_manifest(colours)
    assert [part.rows for part in manifest.parts] == [3, 3, 2]
    assert (manifest.what, manifest.width, manifest.dtype) == ("images", 16, "float16")
    assert manifest.model.reference == "fake@1"
    assert (manifest.model.identity, manifest.model.preprocess) == (encoder.identity, encoder.preprocess_digest)
    assert manifest.sources == [str(pictures)]
    first = np.load(colours / "part-00000.vectors.npy", allow_pickle=False)
    assert (first.shape, first.dtype) == ((3, 16), np.float16)
    assert np.linalg.norm(first.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)
    rows = [json.loads(line) for line in (colours / "part-00000.rows.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["black.png", "blue.png", "green.png"]
    assert rows[0]["path"] == str(pictures / rows[0]["id"])
    assert not (colours / "failed.jsonl").exists()


def test_a_batch_never_reaches_over_the_end_of_a_part(colours: Path, encoder):
    assert encoder.batches == [2, 1, 2, 1, 2]


def test_pictures_are_found_by_their_colour(colours: Path, encoder, names):
    index = open_index(colours)
    for word in ("red", "blue", "yellow"):
        assert Path(names(index, index.search(encoder.encode_texts([f"something {word}"]), 1))[0]).stem == word


def test_float32_keeps_what_the_model_says_to_the_bit(run, pictures: Path, tmp_path: Path, encoder):
    run(pictures, dtype="float32", rows_per_part=100, batch_size=100)
    stored = np.load(tmp_path / "emb" / "part-00000.vectors.npy")
    assert stored.dtype == np.float32
    white = encoder.encode_texts(["white"])[0]
    assert min(np.abs(stored - white).max(axis=1)) < 1e-6


def test_running_it_again_does_nothing(run, pictures: Path, colours: Path, encoder):
    before, seen = contents(colours), encoder.pictures
    again = run(pictures)
    assert (again.embedded, again.unchanged, again.changed) == (0, 8, 0)
    assert encoder.pictures == seen
    assert contents(colours) == before


def test_new_pictures_come_in_a_new_part(run, pictures: Path, colours: Path, paint):
    before = contents(colours)
    paint(pictures / "a-new.png", (250, 10, 10))
    done = run(pictures)
    assert (done.embedded, done.unchanged) == (1, 8)
    after = contents(colours)
    assert {name for name in after if after[name] != before.get(name)} == {
        "manifest.json", "part-00003.vectors.npy", "part-00003.rows.jsonl",
    }  # fmt: skip
    assert "a-new.png" in ids(colours)


def test_a_changed_picture_is_embedded_anew_and_found_as_it_is_now(run, pictures, colours, paint, encoder, names):
    os.utime(paint(pictures / "red.png", "blue"), ns=(5, 5))
    done = run(pictures)
    assert (done.embedded, done.changed, done.unchanged) == (1, 1, 7)
    index = open_index(colours)
    assert len(index) == 8
    assert sorted(ids(colours)) == sorted(set(ids(colours)))
    assert set(names(index, index.search(encoder.encode_texts(["blue"]), 2))) == {"red.png", "blue.png"}
    assert run(pictures).unchanged == 8


def test_a_picture_that_changed_and_cannot_be_read_any_more_keeps_its_old_row(run, pictures, colours):
    (pictures / "red.png").write_bytes(b"damaged")
    done = run(pictures)
    assert (done.embedded, done.changed, [failure.id for failure in done.failures]) == (0, 0, ["red.png"])
    assert len(ids(colours)) == 8


def test_damaged_pictures_are_listed_and_passed_over(run, pictures: Path, tmp_path: Path):
    (pictures / "aa.jpg").write_bytes(b"")
    (pictures / "zz.png").write_bytes((pictures / "red.png").read_bytes()[:40])
    done = run(pictures)
    assert done.embedded == 8
    listed = [json.loads(line) for line in (tmp_path / "emb" / "failed.jsonl").read_text("utf-8").splitlines()]
    assert [(row["id"], row["place"]) for row in listed] == [
        (name, str(pictures / name)) for name in ("aa.jpg", "zz.png")
    ]
    assert "empty" in listed[0]["reason"]


def test_a_repaired_picture_leaves_the_list(run, pictures: Path, tmp_path: Path, paint):
    other = tmp_path / "other"
    for name in (pictures / "aa.png", other / "bb.png"):
        paint(name, "red").write_bytes(b"damaged")
    paint(other / "cc.png", "red")
    run(pictures)
    run(other)
    failed = tmp_path / "emb" / "failed.jsonl"
    assert [json.loads(line)["id"] for line in failed.read_text("utf-8").splitlines()] == ["aa.png", "bb.png"]
    paint(pictures / "aa.png", "red")
    run(pictures)
    assert [json.loads(line)["id"] for line in failed.read_text("utf-8").splitlines()] == ["bb.png"]


def test_what_an_interrupted_run_did_not_reach_stays_on_the_list(run, pictures, tmp_path: Path, encoder, monkeypatch):
    for name in ("aa.png", "zz.png"):
        (pictures / name).write_bytes(b"damaged")
    run(pictures)
    (pictures / "aa.png").write_bytes((pictures / "red.png").read_bytes())

    def interrupted(images, batch_size=32):
        raise Interrupted

    monkeypatch.setattr(encoder, "encode_images", interrupted)
    with pytest.raises(Interrupted):
        run(pictures, batch_size=1)
    failed = tmp_path / "emb" / "failed.jsonl"
    assert [json.loads(line)["id"] for line in failed.read_text("utf-8").splitlines()] == ["aa.png", "zz.png"]
    monkeypatch.undo()
    run(pictures)
    assert [json.loads(line)["id"] for line in failed.read_text("utf-8").splitlines()] == ["zz.png"]


def test_if_no_picture_can_be_read_it_failed(run, tmp_path: Path, paint):
    for name in ("a.png", "b.png"):
        paint(tmp_path / "bad" / name, "red").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 2 pictures"):
        run(tmp_path / "bad")
    assert len((tmp_path / "emb" / "failed.jsonl").read_text("utf-8").splitlines()) == 2


def test_two_pictures_of_one_id_are_refused_with_both_places(run, pictures: Path, tmp_path: Path, paint):
    paint(tmp_path / "more" / "red.png", "red")
    with pytest.raises(DataError) as error:
        run(pictures, tmp_path / "more")
    assert str(pictures / "red.png") in str(error.value)
    assert str(tmp_path / "more" / "red.png") in str(error.value)
    assert not list((tmp_path / "emb").glob("part-*"))


def test_an_id_of_an_earlier_source_is_refused_unless_that_moved(run, pictures: Path, colours: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    paths = [path.relative_to(pictures) for path in pictures.rglob("*.png")]
    for path in paths:
        (moved / path).parent.mkdir(parents=True, exist_ok=True)
        (moved / path).write_bytes((pictures / path).read_bytes())
    with pytest.raises(DataError, match="embedded before"):
        run(moved)
    for path in paths:
        (pictures / path).unlink()
    done = run(moved)
    assert (done.embedded, done.changed) == (8, 8)
    assert {str(Path(item.path).parent) for item in map(open_index(colours).item, range(8, 16))} <= {
        str(moved), str(moved / "deep" / "er"),
    }  # fmt: skip


def test_what_was_deleted_does_not_come_back_until_it_changes(run, pictures: Path, colours: Path, paint):
    assert delete_ids(colours, ["red.png"]) == 1
    assert run(pictures).unchanged == 8
    assert "red.png" not in ids(colours)
    os.utime(paint(pictures / "red.png", "red"), ns=(7, 7))
    assert run(pictures).changed == 1
    assert "red.png" in ids(colours)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"identity": "9" * 64}, "is another model"),
        ({"preprocess_digest": "9" * 64}, "is another preprocessing"),
        ({"width": 8}, "is another width"),
    ],
)
def test_another_model_may_not_add_to_it(run, pictures, colours, other_encoder, difference, words):
    before = contents(colours)
    with pytest.raises(IncompatibleError, match=words):
        run(pictures, by=other_encoder(**difference))
    assert contents(colours) == before


def test_pictures_and_captions_do_not_mix_nor_do_precisions(run, pictures, colours, tmp_path: Path):
    (tmp_path / "c.txt").write_text("red\n")
    with pytest.raises(IncompatibleError, match="holds images, not texts"):
        run(tmp_path / "c.txt", what="texts")
    with pytest.raises(IncompatibleError, match="holds float16, not float32"):
        run(pictures, dtype="float32")


def test_captions_are_embedded_by_line(run, tmp_path: Path, encoder, names):
    file = tmp_path / "c.txt"
    file.write_text("red\nblue\n\nwhite\ngreen\n", "utf-8")
    assert run(file, what="texts").embedded == 4
    index = open_index(tmp_path / "emb")
    assert names(index, index.search(encoder.encode_texts(["blue"]), 1)) == ["c.txt:2"]
    assert index.item(1).text == "blue"
    file.write_text("red\nyellow\n\nwhite\ngreen\n", "utf-8")
    done = run(file, what="texts")
    assert (done.embedded, done.changed, done.unchanged) == (1, 1, 3)


def test_rows_that_are_not_of_length_one_are_refused(run, pictures: Path, encoder, monkeypatch, tmp_path: Path):
    for nonsense in (2.0, np.nan):
        monkeypatch.setattr(encoder, "encode_images", lambda images, _=0, by=nonsense: np.full((len(images), 16), by))
        with pytest.raises(VerificationError, match="not unit rows"):
            run(pictures)
    monkeypatch.setattr(encoder, "encode_images", lambda images, _=0: np.eye(1, 16))
    with pytest.raises(VerificationError, match=r"shape \(1, 16\) for \(2, 16\)"):
        run(pictures)
    assert not list((tmp_path / "emb").glob("part-*"))


def test_a_folder_with_other_things_in_it_is_refused(run, pictures: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="holds other things"):
        run(pictures, to=pictures)
    assert not (pictures / "manifest.json").exists()


def test_a_run_that_is_refused_leaves_nothing(run, pictures: Path, tmp_path: Path, paint):
    bundle, empty = tmp_path / "bundle", tmp_path / "empty"
    bundle.mkdir()
    empty.mkdir()
    (bundle / "manifest.json").write_text('{"kind": "mwactl-bundle", "schema": 1}')
    with pytest.raises(IncompatibleError, match="something else"):
        run(pictures, to=bundle)
    assert [path.name for path in bundle.iterdir()] == ["manifest.json"]
    with pytest.raises(NotFoundError):
        run(tmp_path / "absent")
    paint(tmp_path / "more" / "red.png", "red")
    for folder in (tmp_path / "emb", empty):
        with pytest.raises(DataError, match="two things"):  # which is noticed after the lock was taken
            run(pictures, tmp_path / "more", to=folder)
    assert not (tmp_path / "emb").exists()
    assert list(empty.iterdir()) == []
    assert run(pictures, to=empty).embedded == 8


def test_a_place_that_cannot_be_one_is_told(run, pictures: Path, tmp_path: Path):
    file = tmp_path / "captions.csv"
    file.write_text("caption\nred\n")
    for place in (file, file / "x", Path("/proc/no-such-place"), tmp_path / ("a" * 300)):
        with pytest.raises(UsageError, match="cannot be written to"):
            run(pictures, to=place)
    assert file.read_text() == "caption\nred\n"


def test_a_source_whose_path_is_not_utf_8_is_told(run, tmp_path: Path):
    folder = tmp_path / "b\udcff"
    folder.mkdir()
    (folder / "c.txt").write_text("red\n")
    with pytest.raises(DataError, match="not UTF-8"):
        run(folder / "c.txt", what="texts")


def test_an_interrupt_keeps_the_finished_parts_and_says_so(run, pictures: Path, tmp_path: Path, encoder, monkeypatch):
    encode = encoder.encode_images

    def interrupted(images, batch_size=32):
        if encoder.pictures == 5:
            raise Interrupted
        return encode(images, batch_size)

    monkeypatch.setattr(encoder, "encode_images", interrupted)
    with pytest.raises(Interrupted, match="3 rows are finished"):
        run(pictures)
    monkeypatch.undo()
    assert (run(pictures).embedded, len(ids(tmp_path / "emb"))) == (5, 8)


def test_a_second_writer_is_told_to_wait(run, pictures: Path, colours: Path):
    program = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(colours / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match="another process is writing"):
            run(pictures)
        with pytest.raises(ResourceError):
            delete_ids(colours, ["red.png"])
        assert len(open_index(colours)) == 8  # reading needs no lock
        holder.kill()
    assert run(pictures).unchanged == 8


def test_a_damaged_part_stops_it_before_anything_is_done(run, pictures: Path, colours: Path):
    path = colours / "part-00001.vectors.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationError, match=r"mwactl index .* --repair") as error:
        run(pictures)
    assert error.value.where == str(path)
