from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mwactl.errors import DataError
from mwactl.search.sources import read_sources


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    def write(*members: tuple[str, bytes], name: str = "00000.tar", format: int = tarfile.PAX_FORMAT) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w", format=format) as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


def test_members_of_one_key_are_one_sample(shard):
    facts = {"licence": "cc0", "year": 2020}
    path = shard(
        ("a/0.png", png("red")), ("a/0.txt", b" a red square\n"), ("a/0.json", json.dumps(facts).encode()),
        ("a/1.png", png("blue")), ("a/1.cls", b"7"), ("a/2.txt", b"a caption alone"),
    )  # fmt: skip
    items = list(read_sources([path], "images"))
    assert [item.id for item in items] == ["a/0", "a/1"]
    assert items[0].fields == {"caption": "a red square", **facts}
    assert items[0].read() == png("red")
    assert items[1].read() == png("blue")
    assert items[1].place == f"{path}:a/1.png"
    captions = list(read_sources([path], "texts"))
    assert [(item.id, item.text) for item in captions] == [("a/0", "a red square"), ("a/2", "a caption alone")]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_have_their_bytes_where_they_are(shard, format):
    name = f"{'d' * 90}/{'e' * 90}.png" if format == tarfile.USTAR_FORMAT else f"{'d' * 300}.png"
    [item] = read_sources([shard((name, png("green")), format=format)], "images")
    assert item.member == name
    assert item.read() == png("green")


def test_links_and_hidden_members_are_no_samples(shard, tmp_path: Path):
    path = shard(("a.png", png("red")), ("._a.png", b"of a Mac"))
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert [item.id for item in read_sources([path], "images")] == ["a"]


def test_a_shard_that_changed_has_another_stamp(shard):
    [before] = read_sources([shard(("a.png", png("red")))], "images")
    [after] = read_sources([shard(("a.png", png("red")), ("b.txt", b"x" * 20_000))], "images")
    assert not before.is_as(after)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b"x"), ("a.jpg", b"y")], "two pictures of one sample"),
        ([("a.png", b"x"), ("a.json", b"{")], "a.json is not JSON"),
        ([("a.png", b"x"), ("a.json", b"[1]")], "a.json is not a JSON object"),
        ([("a.png", b"x"), ("a.txt", b"\xff")], "a.txt is not UTF-8"),
        ([("a.png", b"x"), ("a.txt", b"x" * (2**24 + 1))], "at most 16 MiB"),
    ],
)
def test_a_sample_that_cannot_be_understood_is_told_with_the_shard(shard, members, words):
    path = shard(*members)
    with pytest.raises(DataError, match=words) as error:
        list(read_sources([path], "images"))
    assert error.value.where == str(path)


@pytest.mark.parametrize("keep", [300, 512, 700])
def test_a_shard_that_was_cut_off_is_told(shard, keep: int):
    path = shard(("a.png", png("red")), ("b.png", bytes(5_000)))
    content = path.read_bytes()
    path.write_bytes(content[:keep] if keep == 300 else content[: 1024 + keep])
    with pytest.raises(DataError, match="the shard cannot be read"):
        list(read_sources([path], "images"))


def test_what_is_no_tar_file_is_told(tmp_path: Path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"not a tar file" * 100)
    with pytest.raises(DataError, match="the shard cannot be read"):
        list(read_sources([path], "images"))
