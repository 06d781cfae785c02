from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mwactl.backbone import BackboneSpec, all_specs, find_spec, store
from mwactl.backbone.contract import Backbone
from mwactl.backbone.spec import OfficialFile
from mwactl.errors import Interrupted
from mwactl.home import weights_path
from mwactl.progress import Reporter


class Towers:
    """A family of one model with published files."""

    family = "towers"

    def __init__(self, url: str, folder: Path) -> None:
        files = (
            OfficialFile("itc", "towers_itc.pth", f"{url}/itc", summary="the start"),
            OfficialFile("coco", "towers_coco.pth", f"{url}/coco", summary="fine-tuned"),
        )
        tokenizer = OfficialFile("tokenizer", "towers.spm", f"{url}/spm", summary="pieces")
        self.spec = BackboneSpec("towers-small", "towers", "small", "itc", files=files, tokenizer=tokenizer)
        self.folder = folder

    def pull(self, spec: BackboneSpec, source: str | None, reporter: Reporter) -> Sequence[Path]:
        return store.pull(spec, source, reporter)

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        plugin, tiny = find_spec(f"clip:local-dir:{self.folder}")
        return plugin.build_without_weights(tiny)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def towers(tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Towers]:
    """The backbone `towers-small`, whose files `itc` and `spm` a server on this machine has."""
    published = tmp_path / "published"
    published.mkdir()
    (published / "itc").write_bytes(b"weights")
    (published / "spm").write_bytes(b"pieces")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(published))) as server:
        plugin = Towers(f"http://127.0.0.1:{server.server_port}", tiny_clip)
        monkeypatch.setattr("mwactl.backbone.find_spec", lambda _: (plugin, plugin.spec))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield plugin
        server.shutdown()
        thread.join()


def test_list_names_every_backbone(mwactl_cli):
    result = mwactl_cli("backbones", "list")
    assert result.code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [spec.name for spec in all_specs()]
    assert result.stderr == "next: mwactl backbones show NAME\n"


def test_list_as_json_and_as_names(mwactl_cli):
    document = mwactl_cli("backbones", "list", "--json").json
    assert document["schema"] == 1
    row = next(row for row in document["backbones"] if row["name"] == "clip-vit-b-32")
    assert set(row) == {"name", "family", "model", "default_weights", "licence", "summary"}
    assert (row["family"], row["licence"]) == ("clip", "MIT")
    assert mwactl_cli("backbones", "list", "-q").stdout.split() == [row["name"] for row in document["backbones"]]


def test_show_says_where_modules_attach(mwactl_cli, tiny_clip: Path):
    name = f"clip:local-dir:{tiny_clip}"
    document = mwactl_cli("backbones", "show", name, "--json").json
    assert document["schema"] == 1
    assert document["parameters"] == 1658369
    assert document["image_size"] == [32, 32]
    assert document["embedding_width"] == 16
    assert document["towers"] == {
        "image": {"blocks": 2, "width": 32, "norm_eps": 1e-5},
        "text": {"blocks": 2, "width": 32, "norm_eps": 1e-5},
    }
    human = mwactl_cli("backbones", "show", name)
    assert human.stdout.splitlines()[1:3] == ["  image: 2 blocks of width 32", "  text: 2 blocks of width 32"]
    assert "licence" not in human.stdout  # nobody knows
    assert human.stderr == f"next: mwactl inject --backbone {name} --dry-run\n"
    assert mwactl_cli("backbones", "show", name, "-q").stdout == name + "\n"


def test_what_has_no_transformer_blocks_is_said_to_have_none(mwactl_cli):
    result = mwactl_cli("backbones", "show", "clip:RN50")
    assert (result.code, result.stdout) == (4, "")
    assert "the image tower has no transformer block" in result.stderr


def test_an_unknown_backbone_exits_3_with_close_names(mwactl_cli):
    result = mwactl_cli("backbones", "show", "clip-vit-b-33")
    assert (result.code, result.stdout) == (3, "")
    assert "clip-vit-b-32" in result.stderr
    assert "fix: mwactl backbones list" in result.stderr


def test_list_is_quick(tmp_path: Path):
    code = (
        "import sys; from mwactl.cli.app import app; app(['backbones', 'list'], standalone_mode=False);"
        "assert not {'torch', 'open_clip', 'filelock'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_show_says_which_published_files_are_here(mwactl_cli, towers: Towers):
    weights_path().mkdir(parents=True)
    (weights_path() / "towers_coco.pth").write_bytes(b"put there by hand")
    document = mwactl_cli("backbones", "show", "towers-small", "--json").json
    assert document["files"] == [
        {"tag": "itc", "filename": "towers_itc.pth", "here": False, "summary": "the start"},
        {"tag": "coco", "filename": "towers_coco.pth", "here": True, "summary": "fine-tuned"},
        {"tag": "tokenizer", "filename": "towers.spm", "here": False, "summary": "pieces"},
    ]
    assert "tokenizer" not in document
    assert mwactl_cli("backbones", "show", "towers-small").stdout.splitlines()[-3:] == [
        "    itc: towers_itc.pth (not here)  the start",
        "    coco: towers_coco.pth (here)  fine-tuned",
        "    tokenizer: towers.spm (not here)  pieces",
    ]


def test_pull_fetches_weights_and_tokenizer_and_says_where_they_are(mwactl_cli, towers: Towers):
    result = mwactl_cli("backbones", "pull", "towers-small")
    paths = [weights_path() / "towers_itc.pth", weights_path() / "towers.spm"]
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines() == [str(path) for path in paths]
    assert [path.read_bytes() for path in paths] == [b"weights", b"pieces"]
    assert result.stderr.splitlines() == [
        f"fetching {towers.spec.files[0].url}",
        f"fetching {towers.spec.tokenizer.url}",
        "next: mwactl inject --backbone towers-small",
    ]
    again = mwactl_cli("backbones", "pull", "towers-small", "-q")
    assert (again.stdout, again.stderr) == (result.stdout, "")


def test_pull_of_a_tag_as_json(mwactl_cli, towers: Towers, tmp_path: Path):
    (tmp_path / "published" / "coco").write_bytes(b"others")
    document = mwactl_cli("backbones", "pull", "towers-small", "--weights", "coco", "--json").json
    paths = [str(weights_path() / "towers_coco.pth"), str(weights_path() / "towers.spm")]
    assert document == {"schema": 1, "name": "towers-small", "paths": paths}
    hint = mwactl_cli("backbones", "pull", "towers-small", "--weights", "coco").stderr
    assert hint == "next: mwactl inject --backbone towers-small --weights coco\n"


def test_pull_of_the_tokenizer_alone(mwactl_cli, towers: Towers):
    result = mwactl_cli("backbones", "pull", "towers-small", "--weights", "tokenizer")
    assert (result.code, result.stdout) == (0, f"{weights_path() / 'towers.spm'}\n")
    assert result.stderr.splitlines()[-1] == "next: mwactl inject --backbone towers-small"


def test_pull_of_what_is_not_published_exits_3(mwactl_cli, towers: Towers):
    result = mwactl_cli("backbones", "pull", "towers-small", "--weights", "imagenet")
    assert (result.code, result.stdout) == (3, "")
    assert "itc, coco" in result.stderr
    assert "fix: mwactl backbones pull towers-small --weights itc" in result.stderr
    gone = mwactl_cli("backbones", "pull", "towers-small", "--weights", "coco")
    assert (gone.code, gone.stdout) == (3, "")
    assert "the server says 404" in gone.stderr
    assert f"put it at {weights_path() / 'towers_coco.pth'}" in gone.stderr


def test_pull_of_other_bytes_than_before_exits_5(mwactl_cli, towers: Towers, tmp_path: Path):
    mwactl_cli("backbones", "pull", "towers-small")
    (weights_path() / "towers_itc.pth").write_bytes(b"Weights")
    result = mwactl_cli("backbones", "pull", "towers-small")
    assert (result.code, result.stdout) == (5, "")
    assert f"fix: rm {weights_path() / 'towers_itc.pth'} && mwactl backbones pull towers-small" in result.stderr


def test_an_interrupted_pull_says_how_to_go_on(mwactl_cli, towers: Towers, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise Interrupted("interrupted; nothing was half-written")

    monkeypatch.setattr(Towers, "pull", interrupted)
    result = mwactl_cli("backbones", "pull", "towers-small", "--weights", "coco")
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr == (
        "interrupted; what has come is kept\n  go on: mwactl backbones pull towers-small --weights coco\n"
    )


def test_new_writes_a_plugin_and_says_how_to_go_on(mwactl_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = mwactl_cli("backbones", "new", "two-towers", "--into", "my plugins")
    folder = Path("my plugins", "two-towers")
    assert result.code == 0, result.stderr
    assert f"wrote {folder / 'two_towers' / 'backbone.py'}" in result.stdout.splitlines()
    assert all(Path(line.removeprefix("wrote ")).is_file() for line in result.stdout.splitlines())
    assert result.stderr == (
        f"next: pip install -e '{folder}' && pytest '{folder}' && "
        "mwactl inject --backbone two-towers --weights random\n"
    )
    again = mwactl_cli("backbones", "new", "two-towers", "--into", "my plugins")
    assert (again.code, again.stdout) == (2, "")
    assert again.stderr.startswith(f"error: the folder is already there; nothing was changed  ({folder})")


def test_new_as_json_and_quiet(mwactl_cli, tmp_path: Path):
    document = mwactl_cli("backbones", "new", "two-towers", "--into", tmp_path, "--json").json
    folder = tmp_path / "two-towers"
    assert document | {"files": []} == {"schema": 1, "name": "two-towers", "path": str(folder), "files": []}
    assert sorted(document["files"]) == sorted(str(path) for path in folder.rglob("*") if path.is_file())
    assert mwactl_cli("backbones", "new", "my-towers", "--into", tmp_path, "-q").stdout == f"{tmp_path / 'my-towers'}\n"


def test_new_imports_no_torch(tmp_path: Path):
    program = (
        "import sys\nfrom mwactl.cli import main\n"
        f"sys.argv = ['mwactl', 'backbones', 'new', 'two-towers', '--into', {str(tmp_path)!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two-towers").is_dir()


@pytest.mark.parametrize("verb", ["list", "show", "pull", "new"])
def test_every_verb_has_an_example_and_the_next_command(mwactl_cli, verb: str):
    lines = " ".join(mwactl_cli("backbones", verb, "--help").stdout.split())
    assert f"Example: mwactl backbones {verb}" in lines
    assert "Next: mwactl " in lines
