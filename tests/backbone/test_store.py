"""Official files: found by tag, fetched when asked, the same bytes ever after."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from mwactl.backbone.local_folder import spec_of_folder
from mwactl.backbone.spec import BackboneSpec, OfficialFile
from mwactl.backbone.store import find_tokenizer, find_weights, is_here, pull
from mwactl.errors import ExitCode, NotFoundError, ResourceError, VerificationError
from mwactl.home import weights_path
from mwactl.progress import Silent

if TYPE_CHECKING:
    from .conftest import FileServer

UNREACHABLE = "http://127.0.0.1:9/none"
ITC = OfficialFile("itc", "towers_itc.pth", UNREACHABLE)
COCO = OfficialFile("coco", "towers_coco.pth", UNREACHABLE)
VOCABULARY = OfficialFile("tokenizer", "towers.spm", UNREACHABLE)
TOWERS = BackboneSpec("towers-small", "towers", "small", "itc", files=(ITC, COCO), tokenizer=VOCABULARY)


def put(name: str, content: bytes = b"weights") -> Path:
    path = weights_path() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def published_at(server: FileServer, spec: BackboneSpec = TOWERS, *, weights: str | None = None) -> BackboneSpec:
    """The spec with all its files on the server; `weights`: the digest that is published of them."""
    assert spec.tokenizer is not None
    files = tuple(replace(file, url=server.url, sha256=weights) for file in spec.files)
    return replace(spec, files=files, tokenizer=replace(spec.tokenizer, url=server.url))


# -- finding weights ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_a_file_is_taken_as_it_is_and_a_tag_from_the_folder_of_official_files(tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    itc, coco = put(ITC.filename), put(COCO.filename, b"others")
    assert find_weights(TOWERS, str(own), download=False) == (own, "file")
    assert find_weights(TOWERS, "coco", download=False) == (coco, "coco")
    assert find_weights(TOWERS, None, download=True) == (itc, "itc")


def test_a_file_named_like_the_default_tag_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "itc").write_bytes(b"something in the current folder")
    monkeypatch.chdir(tmp_path)
    itc = put(ITC.filename)
    assert find_weights(TOWERS, None, download=False, reporter=Silent()) == (itc, "itc")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("source", "command"),
    [(None, "mwactl backbones pull towers-small,"), ("itc", "mwactl backbones pull towers-small,"),
     ("coco", "mwactl backbones pull towers-small --weights coco,")],
)  # fmt: skip
def test_weights_that_are_not_here_say_both_ways_to_get_them(source: str | None, command: str) -> None:
    with pytest.raises(NotFoundError, match=f"`{source or 'itc'}` of towers-small is not on this machine") as raised:
        find_weights(TOWERS, source, download=False)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert raised.value.fix == f"{command} or --weights FILE"
    assert UNREACHABLE in (raised.value.why or "")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("source", ["imagenet", "tokenizer", "missing.pth"])
def test_what_is_neither_a_file_nor_a_tag_is_not_found(source: str, download: bool) -> None:
    with pytest.raises(NotFoundError, match=f"no weights named `{source}` for towers-small") as raised:
        find_weights(TOWERS, source, download=download)
    assert "itc, coco" in (raised.value.why or "")


@pytest.mark.parametrize("files", [(), (ITC,)])
def test_a_backbone_without_default_weights_asks_for_some(files: tuple[OfficialFile, ...]) -> None:
    with pytest.raises(NotFoundError, match="towers-small needs weights") as raised:
        find_weights(replace(TOWERS, default_weights=None, files=files), None, download=False)
    assert ("--weights itc" in (raised.value.fix or "")) == bool(files)
    assert "--weights FILE" in (raised.value.fix or "")


# -- the same bytes ever after -----------------------------------------------------------------------------------


def test_a_file_put_there_by_hand_is_recorded_on_its_first_use_and_checked_ever_after() -> None:
    path = put(ITC.filename)
    find_weights(TOWERS, None, download=False)
    record = path.with_name("towers_itc.pth.sha256")
    assert record.read_text() == f"{sha256(b'weights')}  towers_itc.pth\n"
    find_weights(TOWERS, None, download=False)
    path.write_bytes(b"Weights")
    with pytest.raises(VerificationError, match="not the file it should be") as raised:
        find_weights(TOWERS, None, download=True)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(path)
    assert sha256(b"weights") in (raised.value.why or "")
    assert "towers_itc.pth.sha256" in (raised.value.why or "")
    assert raised.value.fix == f"rm {path} && mwactl backbones pull towers-small"
    record.unlink()
    find_weights(TOWERS, None, download=False)
    assert record.read_text().startswith(sha256(b"Weights"))


def test_a_published_digest_counts_more_than_a_recorded_one() -> None:
    path = put(COCO.filename)
    find_weights(TOWERS, "coco", download=False)
    known = replace(TOWERS, files=(ITC, replace(COCO, sha256=sha256(b"published"))))
    with pytest.raises(VerificationError, match="not the file it should be") as raised:
        find_weights(known, "coco", download=False)
    assert f"the published one has {sha256(b'published')}" in (raised.value.why or "")
    assert (raised.value.fix or "").endswith("mwactl backbones pull towers-small --weights coco")
    path.write_bytes(b"published")
    assert find_weights(known, "coco", download=False) == (path, "coco")
    assert path.with_name("towers_coco.pth.sha256").read_text().startswith(sha256(b"published"))


# -- the tokenizer -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_the_tokenizer_beside_the_weights_comes_first_and_nothing_is_written_there(tmp_path: Path) -> None:
    kept = put(VOCABULARY.filename, b"kept")
    weights = tmp_path / "folder" / "model.pth"
    weights.parent.mkdir()
    assert find_tokenizer(TOWERS, beside=weights, download=False) == kept
    own = weights.with_name(VOCABULARY.filename)
    own.write_bytes(b"own")
    assert find_tokenizer(TOWERS, beside=weights, download=False) == own
    assert find_tokenizer(TOWERS, beside=None, download=True) == kept
    assert list(weights.parent.iterdir()) == [own]


@pytest.mark.parametrize("where", ["beside", "official"])
def test_another_tokenizer_than_the_published_one_is_refused(tmp_path: Path, where: str) -> None:
    known = replace(TOWERS, tokenizer=replace(VOCABULARY, sha256=sha256(b"published")))
    path = tmp_path / VOCABULARY.filename if where == "beside" else put(VOCABULARY.filename)
    path.write_bytes(b"another")
    beside = tmp_path / "model.pth" if where == "beside" else weights_path() / "towers_itc.pth"
    with pytest.raises(VerificationError, match="not the file it should be") as raised:
        find_tokenizer(known, beside=beside, download=False)
    assert raised.value.where == str(path)
    path.write_bytes(b"published")
    assert find_tokenizer(known, beside=beside, download=False) == path


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_that_is_not_here_says_both_ways_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="`tokenizer` of towers-small is not on this machine") as raised:
        find_tokenizer(TOWERS, beside=tmp_path / "model.pth", download=False)
    assert raised.value.fix == "--download, or mwactl backbones pull towers-small --weights tokenizer"


@pytest.fixture
def own(tmp_path: Path) -> BackboneSpec:
    """A backbone in a folder of the user's own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    spec = spec_of_folder(f"towers:local-dir:{tmp_path / 'own'}", "towers", replace(VOCABULARY, sha256=sha256(b"")))
    assert spec is not None
    return spec


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [True, False])
def test_the_tokenizer_of_a_folder_is_put_into_it_and_not_fetched(
    tmp_path: Path, own: BackboneSpec, download: bool
) -> None:
    assert own.tokenizer is not None
    assert not is_here(own, own.tokenizer)
    file = tmp_path / "own" / VOCABULARY.filename
    with pytest.raises(NotFoundError, match="not on this machine") as raised:
        find_tokenizer(own, beside=None, download=download)
    assert (raised.value.where, raised.value.fix) == (str(file), f"put towers.spm into {file.parent}")
    file.write_bytes(b"the folder's own")
    assert is_here(own, own.tokenizer)
    for beside in (None, tmp_path / "elsewhere" / "weights.pth"):
        assert find_tokenizer(own, beside=beside, download=download) == file


def test_a_folder_has_weights_of_its_own_and_may_be_given_others(tmp_path: Path, own: BackboneSpec) -> None:
    with pytest.raises(NotFoundError, match="no weights in this folder"):
        find_weights(own, None, download=True)
    for path in (tmp_path / "own" / "model.pth", tmp_path / "other.pth"):
        path.write_bytes(b"weights")
    assert find_weights(own, None, download=False) == (tmp_path / "own" / "model.pth", "file")
    assert find_weights(own, str(tmp_path / "other.pth"), download=False) == (tmp_path / "other.pth", "file")
    with pytest.raises(NotFoundError, match="no weights named `itc`") as raised:
        find_weights(own, "itc", download=False)
    assert raised.value.fix == "--weights FILE, or --weights random (in a recipe: backbone.weights)"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("source", [None, "tokenizer", "itc"])
def test_of_a_folder_nothing_can_be_pulled(own: BackboneSpec, source: str | None) -> None:
    with pytest.raises(NotFoundError, match="nothing is published of towers:local-dir:") as raised:
        pull(own, source, Silent())
    assert raised.value.fix == "mwactl backbones list"


def test_asking_for_a_tokenizer_that_is_not_a_file_is_the_plugins_mistake() -> None:
    with pytest.raises(ValueError, match="names no tokenizer"):
        find_tokenizer(replace(TOWERS, tokenizer=None), beside=None, download=False)


# -- fetching ----------------------------------------------------------------------------------------------------


def test_pull_brings_the_weights_and_the_tokenizer_once(server: FileServer) -> None:
    spec = published_at(server)
    assert not is_here(spec, spec.files[0])
    paths = pull(spec, None, Silent())
    assert paths == [weights_path() / ITC.filename, weights_path() / VOCABULARY.filename]
    assert [path.read_bytes() for path in paths] == [server.content] * 2
    assert is_here(spec, spec.files[0])
    assert not is_here(spec, spec.files[1])
    seen = {path.name for path in weights_path().iterdir() if not path.name.startswith(".")}
    assert seen == {"towers_itc.pth", "towers_itc.pth.sha256", "towers.spm", "towers.spm.sha256"}
    check = subprocess.run("sha256sum -c *.sha256", shell=True, cwd=weights_path(), capture_output=True, check=False)
    assert (check.returncode, check.stdout) == (0, b"towers.spm: OK\ntowers_itc.pth: OK\n")
    assert pull(spec, "itc", Silent()) == paths
    assert len(server.asked) == 2


def test_the_tokenizer_can_be_pulled_alone(server: FileServer) -> None:
    spec = published_at(server)
    assert pull(spec, "tokenizer", Silent()) == [weights_path() / VOCABULARY.filename]
    assert len(server.asked) == 1
    assert find_tokenizer(spec, beside=None, download=False) == weights_path() / VOCABULARY.filename
    pull(spec, "itc", Silent())
    assert len(server.asked) == 2


def test_a_missing_tag_is_pulled_only_if_downloads_are_allowed(server: FileServer) -> None:
    spec = published_at(server)
    for find in (lambda **k: find_weights(spec, "coco", **k), lambda **k: find_tokenizer(spec, beside=None, **k)):
        with pytest.raises(NotFoundError):
            find(download=False)
    assert server.asked == []
    assert find_weights(spec, "coco", download=True, reporter=Silent()) == (weights_path() / COCO.filename, "coco")
    assert find_tokenizer(spec, beside=None, download=True) == weights_path() / VOCABULARY.filename
    assert len(server.asked) == 2


@pytest.mark.usefixtures("no_network")
def test_pulling_what_has_no_tag_fetches_nothing(tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    for source in ("imagenet", str(own)):
        with pytest.raises(NotFoundError, match="no weights named") as raised:
            pull(TOWERS, source, Silent())
        assert raised.value.fix == "mwactl backbones pull towers-small --weights itc"


def test_a_download_with_other_bytes_than_published_never_gets_the_name(server: FileServer) -> None:
    spec = published_at(server, weights=sha256(b"published"))
    with pytest.raises(VerificationError, match="not the file it should be") as raised:
        pull(spec, None, Silent())
    assert f"the published one has {sha256(b'published')}" in (raised.value.why or "")
    assert [path.name for path in weights_path().iterdir()] == [".towers_itc.pth.lock"]
    server.content = b"published"
    pull(spec, None, Silent())


def test_a_second_download_must_bring_what_the_first_one_brought(server: FileServer) -> None:
    spec = published_at(server)
    (path, _) = pull(spec, None, Silent())
    path.unlink()
    first, server.content, server.etag = server.content, b"another release", '"second"'
    with pytest.raises(VerificationError, match="not the file it should be") as raised:
        pull(spec, None, Silent())
    assert "towers_itc.pth.sha256" in (raised.value.why or "")
    assert not path.exists()
    server.content = first
    assert pull(spec, None, Silent())[0].read_bytes() == first


def test_two_processes_do_not_fetch_the_same_file_at_once(server: FileServer) -> None:
    spec = published_at(server)
    weights_path().mkdir(parents=True)
    with FileLock(weights_path() / ".towers_itc.pth.lock"), pytest.raises(ResourceError, match="another process"):
        pull(spec, None, Silent())
    assert server.asked == []
    pull(spec, None, Silent())


def test_a_place_that_cannot_be_written_to_is_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ResourceError, match="cannot be written to") as raised:
        pull(published_at(server), None, Silent())
    assert raised.value.where == str(weights_path())


def test_looking_for_official_files_imports_no_torch() -> None:
    code = "import sys, mwactl.backbone.store; print({'torch', 'safetensors', 'filelock'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
