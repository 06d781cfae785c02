"""Whatever lies in the files: a reader gives rows that can be used, or one of our errors. It does not crash or lie."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from mwactl.data import CaptionedImages, scan
from mwactl.data.formats import READERS
from mwactl.errors import DataError, MwactlError

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
TEXT = st.text(max_size=30) | st.sampled_from(
    ["\0", "a\0b", "\ud800", "é\u2028e", "\ufeff", '"', "\t", "a\r\nb", "…" * 9]
)
PNG = io.BytesIO()
Image.new("RGB", (3, 2), "red").save(PNG, "PNG")


def as_json(rows: list[dict[str, str]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_coco(rows: list[dict[str, str]]) -> bytes:
    images = [{"id": number, "file_name": row["image"]} for number, row in enumerate(rows)]
    return json.dumps({
        "images": images,
        "annotations": [{"image_id": number, "caption": row["caption"]} for number, row in enumerate(rows)],
    }).encode()  # fmt: skip


def as_karpathy(rows: list[dict[str, str]]) -> bytes:
    images = [{"filename": row["image"], "split": "all", "sentences": [{"raw": row["caption"]}]} for row in rows]
    return json.dumps({"images": images}).encode()


def as_csv(rows: list[dict[str, str]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["image", "caption"])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8")


def as_parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    images = [{"bytes": PNG.getvalue(), "path": row["image"]} for row in rows]
    parquet.write_table(pa.table({"image": images, "caption": [row["caption"] for row in rows]}), sink)
    return sink.getvalue().to_pybytes()


def as_tar(rows: list[dict[str, str]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, row in enumerate(rows):
            for name, data in ((f"{number}.png", PNG.getvalue()), (f"{number}.json", json.dumps(row).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


FORMATS: dict[str, tuple[str, str, Callable[[list[dict[str, str]]], bytes]]] = {
    "csv": ("csv", "d.csv", as_csv),
    "jsonl": ("jsonl", "d.jsonl", as_json),
    "coco": ("coco", "d.json", as_coco),
    "karpathy": ("karpathy", "d.json", as_karpathy),
    "parquet": ("parquet", "d.parquet", as_parquet),
    "webdataset": ("webdataset", "d.tar", as_tar),
}
ROWS = [{"image": "a.png", "caption": "a red cat"}, {"image": "b.png", "caption": "zwei Hunde, schön"}]


def read_all(format: str, path: Path) -> list[Any]:
    """The rows, each picture asked for; one that cannot be had is an `OSError`, as of any file."""
    rows = [row for rows in READERS[format](path, path.parent).values() for row in rows]
    CaptionedImages.from_rows("n", "all", rows)  # which checks them
    for row in rows:
        try:
            row.image.stat()
            row.image.read_bytes()
        except (OSError, MwactlError):
            pass
    return rows


@pytest.mark.parametrize("format", FORMATS)
@quick
@given(data=st.data())
def test_damaged_files_are_read_or_refused(format: str, tmp_path: Path, data: st.DataObject) -> None:
    reader, name, write = FORMATS[format]
    content = bytearray(write(ROWS))
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["cut", "change", "insert", "remove"]))
    more = data.draw(
        st.binary(min_size=1, max_size=6) | st.sampled_from([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800"])
    )
    if kind == "cut":
        del content[place:]
    elif kind == "change":
        content[place : place + len(more)] = more
    elif kind == "insert":
        content[place:place] = more
    else:
        del content[place : place + len(more)]
    (tmp_path / name).write_bytes(content)
    try:
        read_all(reader, tmp_path / name)
    except MwactlError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize("format", FORMATS)
@quick
@given(captions=st.lists(TEXT, min_size=1, max_size=3))
def test_captions_come_as_they_were_written_or_are_refused(format: str, tmp_path: Path, captions: list[str]) -> None:
    reader, name, write = FORMATS[format]
    rows = [{"image": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    try:
        content = write(rows)
    except (UnicodeEncodeError, csv.Error):  # what the format itself cannot hold
        assume(False)
    (tmp_path / name).write_bytes(content)
    try:
        found = [row.caption for row in read_all(reader, tmp_path / name)]
    except DataError as error:
        assert any(not caption.strip() or "\ud800" in caption or not is_unicode(caption) for caption in captions), error
    else:
        assert found == [caption.rstrip("\r") if reader == "webdataset" else caption for caption in captions]


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("format", ["csv", "jsonl", "coco", "karpathy", "parquet"])
@quick
@given(
    image=TEXT
    | st.sampled_from(["../a.png", "/etc/passwd", "a/../../b.png", "~/a.png", "C:\\a.png", ".", "http://x/y"])
)
def test_no_picture_name_leads_outside(format: str, tmp_path: Path, image: str) -> None:
    """Absolute paths aside, which a table may name; a table's picture inside it is never a path."""
    reader, name, write = FORMATS[format]
    try:
        content = write([{"image": image, "caption": "x"}])
    except (UnicodeEncodeError, csv.Error):
        assume(False)
    (tmp_path / name).write_bytes(content)
    try:
        [row] = read_all(reader, tmp_path / name)
    except DataError:
        return
    path = row.image
    if isinstance(path, Path):
        assert path.is_relative_to(tmp_path) or (Path(image).is_absolute() and format in ("csv", "jsonl"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_caption_of_a_megabyte_is_a_caption(format: str, tmp_path: Path) -> None:
    reader, name, write = FORMATS[format]
    caption = "wörter " * 150_000
    (tmp_path / name).write_bytes(write([{"image": "a.png", "caption": caption}]))
    assert [row.caption for row in read_all(reader, tmp_path / name)] == [caption]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    """A link is the user's own; one that leads nowhere is a picture that is missing, and told."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "a.png").write_bytes(PNG.getvalue())
    (inside / "a.png").symlink_to(outside / "a.png")
    (inside / "b.png").symlink_to(tmp_path / "nowhere.png")
    (inside / "c.png").symlink_to(inside / "c.png")
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    for name in "abc":
        (inside / f"{name}.txt").write_text("a caption")
    rows = READERS["folder"](None, inside)["all"]
    report = scan(CaptionedImages.from_rows("n", "all", rows))
    assert [problem.path.name for problem in report.problems] == ["b.png", "c.png"]


def test_a_member_that_says_it_is_huge_is_not_believed(tmp_path: Path) -> None:
    content = bytearray(as_tar(ROWS))
    content[124:136] = b"77777777777\0"  # the first member's size: 8 GiB
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "d.tar").write_bytes(content)
    with pytest.raises(DataError, match="the shard cannot be read"):
        READERS["webdataset"](tmp_path / "d.tar", tmp_path)
