from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mwactl.errors import VerificationError
from mwactl.registry import tar as tar_module
from mwactl.registry.tar import BLOCK_BYTES, Member, read_members, tar_chunks, tar_size

CONTENTS = {"a": b"", "blobs/b": b"x" * BLOCK_BYTES, "blobs/c": b"y" * (BLOCK_BYTES + 1), "d": b"\0z"}


def written(contents: dict[str, bytes]) -> bytes:
    return b"".join(tar_chunks((name, len(data), [data[:2], data[2:]]) for name, data in contents.items()))


def member(
    name: str = "a", kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def by_hand(path: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of whatever headers, by Python's own writer."""
    with tarfile.open(path, "w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, max_members: int = 100) -> dict[str, bytes]:
    return {name: b"".join(found.chunks()) for name, found in read_members(path, max_members=max_members).items()}


# -- writing ---------------------------------------------------------------------------------------------------


def test_pythons_own_reader_finds_what_was_written_without_times_and_owners() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(CONTENTS)), mode="r:") as tar:
        infos = tar.getmembers()
        assert {info.name: tar.extractfile(info).read() for info in infos} == CONTENTS  # type: ignore[union-attr]
    said = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode, info.type) for info in infos}
    assert said == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}
    assert [info.name for info in infos] == list(CONTENTS), "in the order given"


def test_the_size_is_known_before() -> None:
    assert tar_size(map(len, CONTENTS.values())) == len(written(CONTENTS))


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
def test_the_systems_tar_reads_it_without_complaint(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(written(CONTENTS))
    done = subprocess.run(["tar", "tf", tmp_path / "b.tar"], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (list(CONTENTS), "")


def test_a_size_that_a_header_cannot_hold_goes_into_one_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tar_module, "_MAX_USTAR_BYTES", 3)
    data = written(CONTENTS)
    assert tar_size(map(len, CONTENTS.values())) == len(data)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        assert {info.name: info.size for info in tar} == {name: len(content) for name, content in CONTENTS.items()}
    (tmp_path / "b.tar").write_bytes(data)
    assert read(tmp_path / "b.tar") == CONTENTS


@pytest.mark.parametrize("size", [8**11, 10**10, 10**12])
def test_the_length_in_a_pax_record_counts_itself(size: int) -> None:
    headers = tar_module._headers("a", size)
    with tarfile.open(fileobj=io.BytesIO(headers), mode="r:") as tar:
        info = tar.next()
    assert info is not None and (info.name, info.size) == ("a", size)


# -- reading ---------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(written(CONTENTS))
    assert read(tmp_path / "b.tar") == CONTENTS


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_tools_are_read_too(tmp_path: Path, format: int) -> None:
    folder = tmp_path / "layout"
    (folder / "blobs").mkdir(parents=True)
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    with tarfile.open(tmp_path / "b.tar", "w", format=format) as tar:
        tar.add(folder, arcname=".")  # with times in fractions of a second, which PAX keeps
    assert read(tmp_path / "b.tar") == CONTENTS


def test_a_name_is_where_the_bytes_are_not_where_they_go(tmp_path: Path) -> None:
    found = read_members(by_hand(tmp_path / "b.tar", member("a", data=b"1234")), max_members=1)
    assert found == {"a": Member(tmp_path / "b.tar", BLOCK_BYTES, 4)}


@pytest.mark.parametrize(
    "name", ["/a", "../a", "a/../b", "a/..", "..", "a//b", "a/./b", ".//a", "././a", "a\nb", "a\x1b[2J", "ü", "a/"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VerificationError, match="leads elsewhere"):
        read(by_hand(tmp_path / "b.tar", member(name, data=b"x")))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../.."])
def test_a_directory_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VerificationError, match="leads elsewhere"):
        read(by_hand(tmp_path / "b.tar", member(name, tarfile.DIRTYPE)))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "a link to '/etc/passwd'"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.CONTTYPE, "type b'7'"),
        (tarfile.GNUTYPE_SPARSE, "type b'S'"),
        (tarfile.GNUTYPE_LONGNAME, "type b'L'"),
        (tarfile.GNUTYPE_LONGLINK, "type b'K'"),
        (tarfile.XGLTYPE, "type b'g'"),
        (tarfile.SOLARIS_XHDTYPE, "type b'X'"),
        (b"V", "type b'V'"),
        (b"\xff", r"type b'\xff'"),
    ],
)
def test_whatever_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes, what: str) -> None:
    with pytest.raises(VerificationError) as error:
        read(by_hand(tmp_path / "b.tar", member("ok"), member("a", kind, "/etc/passwd")))
    assert what in str(error.value)


def test_a_directory_with_content_and_one_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="a directory with content"):
        read(by_hand(tmp_path / "b.tar", member("d", tarfile.DIRTYPE, data=b"x"), member("d/a")))
    with pytest.raises(VerificationError, match="an empty directory"):
        read(by_hand(tmp_path / "b.tar", member("d", tarfile.DIRTYPE), member("da")))


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("a", "A"), ("blobs/a", "BLOBS/A")], ids=["same", "dot", "case", "deep"]
)
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(VerificationError, match="twice"):
        read(by_hand(tmp_path / "b.tar", *map(member, names)))


def test_a_file_where_a_directory_is_counts_as_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="twice"):
        read(by_hand(tmp_path / "b.tar", member("d", tarfile.DIRTYPE), member("d/a"), member("d")))


def test_a_tar_with_too_many_members_is_refused(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "b.tar", *(member(f"m{number}") for number in range(5)))
    assert len(read(path, max_members=5)) == 5
    with pytest.raises(VerificationError, match="more than 4 members"):
        read(path, max_members=4)


def sized(info: tarfile.TarInfo, size: int, format: int) -> bytes:
    info.size = size
    return info.tobuf(format)


BY_FORMAT = {
    tarfile.USTAR_FORMAT: (2000, 8**11 - 1),
    tarfile.GNU_FORMAT: (2000, 8**11 - 1, 10**13, -1, -512),
    tarfile.PAX_FORMAT: (2000, 8**11 - 1, 10**13),
}
"""Sizes that each format can spell."""


@pytest.mark.parametrize(("format", "size"), [(format, size) for format in BY_FORMAT for size in BY_FORMAT[format]])
def test_a_size_beyond_the_file_is_refused(tmp_path: Path, format: int, size: int) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(sized(tarfile.TarInfo("a"), size, format) + bytes(3 * BLOCK_BYTES))
    with pytest.raises(VerificationError, match="a size in it is wrong"):
        read(path)


def pax(records: bytes, path: Path) -> Path:
    info, _ = member("pax", tarfile.XHDTYPE, data=records)
    content = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")
    path.write_bytes(content + written({"a": b"x"}))
    return path


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (b"18 path=../secret\n", "unknown.*'path'"),
        (b"21 linkpath=/etc/shad\n", "unknown|malformed"),
        (b"22 GNU.sparse.major=1\n", "unknown.*GNU.sparse"),
        (b"10 size=-1\n", "malformed|unknown|damaged"),
        (b"11 size=-1\n", "unknown"),
        (b"13 size=1e99\n", "unknown"),
        (b"99 size=1\n", "malformed"),
        (b"0 size=1\n", "malformed"),
        (b"9 size=1", "malformed"),
        (b"x size=1\n", "malformed"),
        (b"99999999999999999999 size=1\n", "malformed"),
        (b"\xff" * 40, "malformed"),
        (b"10 size=9\n10 size=\n", "a size in it|malformed|unknown"),
        (b"13 size=9999\n", "a size in it is wrong"),
        (b"31 size=" + b"9" * 22 + b"\n", "unknown"),
    ],
)
def test_a_pax_header_may_say_the_size_and_nothing_else_that_matters(tmp_path: Path, records: bytes, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        read(pax(records, tmp_path / "b.tar"))


def test_a_pax_header_with_times_is_passed_over_and_a_long_one_is_refused(tmp_path: Path) -> None:
    assert read(pax(b"20 mtime=12345.6789\n", tmp_path / "b.tar")) == {"a": b"x"}
    with pytest.raises(VerificationError, match="too long"):
        read(pax(b"20 mtime=12345.6789\n" * 4000, tmp_path / "b.tar"))


def test_a_size_for_a_size_is_refused(tmp_path: Path) -> None:
    info, records = member("pax", tarfile.XHDTYPE, data=b"10 size=1\n")
    header = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    (tmp_path / "b.tar").write_bytes(2 * header + written({"a": b"x"}))
    with pytest.raises(VerificationError, match="no plain file"):
        read(tmp_path / "b.tar")


@pytest.mark.parametrize("cut", [0, 1, 100, 511, 512, 513, 600, 1024, 1536, 2000, 2048, 2559])
def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    data = written({"a": b"x" * 600})
    assert len(data) > cut
    (tmp_path / "b.tar").write_bytes(data[:cut])
    with pytest.raises(VerificationError, match="cut off"):
        read(tmp_path / "b.tar")


def test_something_behind_the_end_is_refused_and_zeros_are_not(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(written({"a": b"x"}) + bytes(9999))
    assert read(path) == {"a": b"x"}
    path.write_bytes(written({"a": b"x"}) + written({"b": b"y"}))
    with pytest.raises(VerificationError, match="behind its end"):
        read(path)


@pytest.mark.parametrize("data", [b"\x1f\x8b" * 1000, b"PK" * 1000, b"{}" * 1000])
def test_what_is_no_tar_is_named_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(VerificationError, match="this is no tar"):
        read(tmp_path / "b.tar")


def test_a_header_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    data = bytearray(written(CONTENTS))
    data[BLOCK_BYTES + 1] ^= 1
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(VerificationError, match="a header in it is damaged"):
        read(tmp_path / "b.tar")


def test_a_tar_that_becomes_shorter_meanwhile_gives_fewer_bytes_and_no_end(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "b.tar", member("a", data=b"x" * 2000))
    found = read_members(path, max_members=1)["a"]
    path.write_bytes(path.read_bytes()[:1000])
    assert b"".join(found.chunks()) == b"x" * (1000 - BLOCK_BYTES)
