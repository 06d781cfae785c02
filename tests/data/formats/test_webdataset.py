from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mwactl.data import Catalogue
from mwactl.data.formats import READERS
from mwactl.data.tar_member import TarMember
from mwactl.errors import DataError, NotFoundError

Writer = Callable[..., Path]


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Writer:
    def write(*members: tuple[str, bytes] | tarfile.TarInfo, name: str = "000.tar") -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                    continue
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
        return tmp_path / name

    return write


def read(path: Path) -> dict[str, list[Any]]:
    return READERS["webdataset"](path, path.parent)


def facts(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_caption_a_line_or_those_of_the_json(shard: Writer) -> None:
    path = shard(
        ("b.png", png("red")), ("b.txt", b"one\ntwo\r\n\n"),
        ("a.png", png("blue")), ("a.txt", b"not this"), ("a.json", facts(caption="three", tag="night")),
        ("c.png", png("green")), ("c.json", facts(caption=["four", "four"], width=5)),
        ("d.png", png("white")), ("d.txt", b"five"), ("d.json", facts(caption=None)), ("d.cls", b"7"),
    )  # fmt: skip
    rows = read(path)["all"]
    assert [(row.image.name, row.caption, row.tag) for row in rows] == [
        ("b.png", "one", ""), ("b.png", "two", ""), ("a.png", "three", "night"), ("c.png", "four", ""),
        ("c.png", "four", ""), ("d.png", "five", ""),
    ]  # fmt: skip
    assert rows[0].image.read_bytes() == png("red")
    assert rows[2].image.read_bytes() == png("blue")


def test_members_of_a_key_need_not_be_neighbours(shard: Writer) -> None:
    """`tar` itself takes a folder's files in the order of the disk."""
    path = shard(("a.txt", b"one"), ("b.txt", b"two"), ("b.png", png("red")), ("a.png", png("blue")))
    assert [(row.image.name, row.caption) for row in read(path)["all"]] == [("a.png", "one"), ("b.png", "two")]


def test_a_place_pickles_and_names_itself(shard: Writer) -> None:
    path = shard(("deep/a.png", png("red")), ("deep/a.txt", b"one"))
    [row] = read(path)["all"]
    again = pickle.loads(pickle.dumps(row.image))
    assert again == row.image
    assert again.read_bytes() == png("red")
    assert str(again) == f"{path}:deep/a.png"


def test_a_shard_is_read_once_until_it_changes(shard: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(("a.png", png("red")), ("a.txt", b"one"))
    [before] = read(path)["all"]
    with monkeypatch.context() as context:
        context.setattr(tarfile, "open", lambda *_: pytest.fail("the headers were read again"))
        assert read(path)["all"] == [before]
    shard(("a.png", png("red")), ("a.txt", b"another"))
    os.utime(path, (1, 1))  # also where the clock is coarse
    assert read(path)["all"][0].caption == "another"
    with pytest.raises(OSError, match="changed after its index was read"):
        before.image.read_bytes()


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], r"000.tar:a: picture without caption"),
        ([("a.txt", b"x")], r"000.tar:a: captions without a picture"),
        ([("a.png", b"x"), ("a.txt", b" \n\n")], r"000.tar:a: empty caption"),
        ([("a.png", b"x"), ("a.txt", b"x\n\ny")], r"000.tar:a: empty caption"),
        ([("a.png", b"x"), ("a.json", b'{"caption": 3}')], "'caption' is neither a text nor a list of texts"),
        ([("a.png", b"x"), ("a.json", b'{"caption": ["x", 3]}')], "'caption' is neither a text nor a list of texts"),
        ([("a.png", b"x"), ("a.json", b'{"caption": "x", "split": 3}')], "says which split it is of"),
        ([("a.png", b"x"), ("a.json", b'{"caption": "x", "tag": 3}')], "'tag' is not a text"),
        ([("a.png", b"x"), ("a.json", b'{"caption": "\\ud800"}')], "half a character"),
        ([("a.png", b"x"), ("a.json", b"{")], "a.json is not JSON"),
        ([("a.png", b"x"), ("a.txt", b"\xff\xfe")], "a.txt is not UTF-8"),
        ([("a.png", b"x"), ("a.jpg", b"y")], "two pictures of one sample"),
        ([("a.txt", b"x"), ("a.png", b"x"), ("a.txt", b"y")], "a.txt and a.txt are two .txts of one sample"),
        ([("a.txt", b"x"), link("a.png", tarfile.SYMTYPE, "/etc/passwd")], "captions without a picture"),
        ([("a.txt", b"x"), link("a.png", tarfile.LNKTYPE, "b.png")], "captions without a picture"),
        ([], "there is no captioned picture in it"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place(shard: Writer, members: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(shard(*members))


def test_a_members_name_is_never_a_path(shard: Writer, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png("black"))
    path = shard(
        ("../secret.png", png("red")), ("../secret.txt", b"one"),
        (f"{tmp_path}/secret.png", png("blue")), (f"{tmp_path}/secret.txt", b"two"),
    )  # fmt: skip
    rows = read(path)["all"]
    assert [row.image.read_bytes() for row in rows] == [png("red"), png("blue")]
    assert not isinstance(rows[0].image, Path)


@pytest.mark.parametrize("kept", [1, 300, 512, 700, 1024, 1500, 2048])
def test_a_shard_that_was_cut_is_no_smaller_data_set(shard: Writer, kept: int) -> None:
    path = shard(("a.png", png("red")), ("a.txt", b"one"), ("b.png", png("blue")), ("b.txt", b"two"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="the shard cannot be read"):
        read(path)


def test_a_broken_header_in_the_middle_is_not_the_end(shard: Writer) -> None:
    path = shard(("a.png", png("red")), ("a.txt", b"one"), ("b.png", png("blue")), ("b.txt", b"two"))
    data = bytearray(path.read_bytes())
    data[2048 + 148] ^= 1  # the checksum of the third header
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"no end mark at byte 2,048"):
        read(path)


def test_nothing_is_lost_behind_a_block_of_zeros(shard: Writer, tmp_path: Path) -> None:
    one = shard(("a.png", png("red")), ("a.txt", b"one"), ("b.png", png("blue")), ("b.txt", b"two"))
    two = shard(("c.png", png("red")), ("c.txt", b"three"), name="001.tar")
    joined, holed = tmp_path / "joined.tar", tmp_path / "holed.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    holed.write_bytes(one.read_bytes()[:2048] + bytes(512) + one.read_bytes()[2560:])
    for path in (joined, holed):
        with pytest.raises(DataError, match="more comes after the end mark"):
            read(path)


def test_a_compressed_shard_is_told_how_to_go_on(shard: Writer, tmp_path: Path) -> None:
    path = shard(("a.png", png("red")), ("a.txt", b"one"))
    (tmp_path / "000.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot be read in place.*decompress it once \(gunzip\)"):
        Catalogue.default().add("tiny", images=tmp_path / "000.tar.gz")


def test_splits_of_shards_and_samples(shard: Writer, tmp_path: Path) -> None:
    shard(("a.png", b"x"), ("a.txt", b"one"), ("b.png", b"x"), ("b.json", facts(caption="two", split="test")),
          name="train-0.tar")  # fmt: skip
    shard(("c.png", b"x"), ("c.txt", b"three"), name="other.tar")
    with pytest.raises(DataError, match=r"other.tar:c: neither 'split' nor the shard's name"):
        READERS["webdataset"](tmp_path, tmp_path)
    (tmp_path / "other.tar").unlink()
    splits = READERS["webdataset"](tmp_path, tmp_path)
    assert {split: [row.caption for row in rows] for split, rows in splits.items()} == {
        "train": ["one"], "test": ["two"],
    }  # fmt: skip


def test_the_same_key_in_two_shards_is_two_pictures(shard: Writer, tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        shard(("a.png", png("red")), ("a.txt", b"one"), name=name)
    rows = READERS["webdataset"](tmp_path, tmp_path)["all"]
    assert len({row.image for row in rows}) == 2


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        READERS["webdataset"](tmp_path / "{000..003}.tar", tmp_path)
    with pytest.raises(NotFoundError, match=r"no .tar file is in this folder"):
        READERS["webdataset"](tmp_path, tmp_path)


def test_a_tar_that_went_away_is_told_by_its_pictures(shard: Writer) -> None:
    path = shard(("a.png", png("red")), ("a.txt", b"one"))
    [row] = read(path)["all"]
    assert isinstance(row.image, TarMember)
    path.unlink()
    assert not row.image.is_file()
