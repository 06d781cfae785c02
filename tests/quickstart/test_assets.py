"""The shipped drawings: complete, the same emoji in both styles, unpacked safely and once."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mwactl.errors import UsageError, VerificationError
from mwactl.quickstart import assets
from mwactl.quickstart.assets import unpack, unpack_archive

ANNOTATION_SHA256 = {
    "noto": "30f0586cccc11a7187d417514f8053448367857c4193f2dc65ebe4625c454d50",
    "twemoji": "39865eb7ee069a4df614a2945275b487e176658b69d093115b89fdff49f0e596",
}
SPLIT_SIZES = {"train": 676, "val": 100, "test": 250}


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    file.seek(0)
    return file


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("set_name", ["noto", "twemoji"])
def test_set_holds_the_documented_captions_and_every_picture(set_name: Any, tmp_path: Path) -> None:
    annotations, images = unpack(set_name, tmp_path)

    assert hashlib.sha256(annotations.read_bytes()).hexdigest() == ANNOTATION_SHA256[set_name]
    listed = json.loads(annotations.read_bytes())["images"]
    splits = [image["split"] for image in listed]
    assert {split: splits.count(split) for split in SPLIT_SIZES} == SPLIT_SIZES
    assert {path.name for path in images.iterdir()} == {image["filename"] for image in listed}
    for path in images.iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (64, 64))


def test_both_sets_draw_the_same_emoji_with_the_same_captions_and_split(tmp_path: Path) -> None:
    def described(set_name: Any) -> list[tuple[str, str, list[str]]]:
        images = json.loads(unpack(set_name, tmp_path)[0].read_bytes())["images"]
        return [(image["filename"], image["split"], [s["raw"] for s in image["sentences"]]) for image in images]

    assert described("noto") == described("twemoji")


def test_test_split_has_the_250_pictures_and_561_captions_the_docs_name(tmp_path: Path) -> None:
    images = json.loads(unpack("noto", tmp_path)[0].read_bytes())["images"]
    assert sum(len(image["sentences"]) for image in images if image["split"] == "test") == 561


def test_archives_are_reproducible_sorted_and_without_times() -> None:
    for set_name in ("noto", "twemoji"):
        with zipfile.ZipFile(Path(assets.__file__).with_name(f"{set_name}.zip")) as archive:
            members = archive.infolist()
        assert [member.filename for member in members] == sorted(member.filename for member in members)
        assert {(member.date_time, member.compress_type) for member in members} == {((1980, 1, 1, 0, 0, 0), 0)}


def test_unpacking_again_writes_nothing(tmp_path: Path) -> None:
    annotations, images = unpack("noto", tmp_path)
    paths = [annotations, images, *images.iterdir()]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    assert unpack("noto", tmp_path) == (annotations, images)

    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths} == before


@pytest.mark.parametrize(
    ("damage", "why"), [(Path.unlink, "missing"), (lambda path: path.write_bytes(b"other"), "changed")]
)
def test_changed_folder_is_refused_and_left_alone(damage: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    _, images = unpack("noto", tmp_path)
    picture = min(images.iterdir())
    damage(picture)
    found = listing(tmp_path)

    with pytest.raises(VerificationError, match=why) as error:
        unpack("noto", tmp_path)

    assert error.value.where == str(picture)
    assert listing(tmp_path) == found


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt", "dir/"])
def test_member_outside_the_folder_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner" / "set"

    with pytest.raises(VerificationError, match="not a plain file inside"):
        unpack_archive(zip_of(("good.txt", b"good"), (name, b"evil")), folder)

    assert listing(tmp_path) == {}


def test_symbolic_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16

    with pytest.raises(VerificationError, match="not a plain file inside"):
        unpack_archive(zip_of((link, b"/etc/passwd")), tmp_path / "set")


def test_damaged_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    good = zip_of(("a.txt", b"first"), ("b.txt", b"second")).getvalue()
    assert good.count(b"second") == 1

    with pytest.raises(VerificationError, match="damaged"):
        unpack_archive(io.BytesIO(good.replace(b"second", b"sEcond")), tmp_path / "set")
    with pytest.raises(VerificationError, match="damaged"):
        unpack_archive(io.BytesIO(b"not a zip at all"), tmp_path / "set")

    assert list(tmp_path.iterdir()) == []


def test_set_unpacked_meanwhile_by_another_process_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(("a.txt", b"first"))
    folder = tmp_path / "set"
    write_bytes = Path.write_bytes

    def write_and_lose_the_race(path: Path, data: bytes) -> int:
        folder.mkdir()
        write_bytes(folder / "a.txt", data)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_and_lose_the_race)
    unpack_archive(archive, folder)

    assert listing(tmp_path) == {"set/a.txt": b"first"}
    assert list(tmp_path.iterdir()) == [folder]


def test_unknown_set_names_the_known_ones(tmp_path: Path) -> None:
    unknown: Any = "../noto"
    with pytest.raises(UsageError, match="noto, twemoji"):
        unpack(unknown, tmp_path)
