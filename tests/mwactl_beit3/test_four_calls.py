"""The README's calls, word for word and in order, with a tiny BEiT-3 in the place of the large one."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from PIL import Image

from mwactl_beit3 import names
from mwactl_beit3.model import Beit3Retrieval

from ..test_readme import commands_under
from .conftest import TINY

OFFICIAL_FILE = "beit3_large_itc_patch16_224.pth"
#: Captions of one picture each; COCO's split is laid out over two folders, `restval` belongs to training.
SPLITS = {
    "coco": {"train": ("train2014", 12), "restval": ("val2014", 4), "val": ("val2014", 4), "test": ("val2014", 4)},
    "flickr30k": {"train": ("", 4), "val": ("", 4), "test": ("", 8)},
}
FOLDERS = {"coco": "coco", "flickr30k": "flickr30k-images"}


@pytest.fixture
def published(
    tmp_path: Path, tiny_spm: bytes, random_model: Callable[..., Beit3Retrieval], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """`beit3-large` is tiny, and its official files are published on this machine."""
    folder = tmp_path / "published"
    folder.mkdir()
    document = {
        "model": {name: tensor.half() for name, tensor in random_model().state_dict().items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-5, "params": [0]}]},
        "epoch": 3,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="beit3_large_patch16_224_retrieval", lr=5e-5),
    }
    torch.save(document, folder / OFFICIAL_FILE)
    (folder / "beit3.spm").write_bytes(tiny_spm)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"
        spec = next(spec for spec in names.SHORT_NAMES if spec.name == "beit3-large")
        files = tuple(replace(file, url=place + file.filename) for file in spec.files)
        tokenizer = replace(names.TOKENIZER, url=place + "beit3.spm", sha256=None)
        monkeypatch.setattr(names, "SHORT_NAMES", (replace(spec, files=files, tokenizer=tokenizer),))
        monkeypatch.setitem(names.SIZES, "beit3-large", TINY)
        yield
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def folder_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mwactl_cli) -> Path:
    """COCO and Flickr30k as they are unpacked, both in the catalogue; a `coco.yaml` for a small batch."""
    for number, (data, splits) in enumerate(SPLITS.items()):
        images = []
        for split, (folder, count) in splits.items():
            for _ in range(count):
                shade = len(images) * 8 + number
                place = tmp_path / FOLDERS[data] / folder
                place.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (60, 40), (shade, 255 - shade, 40 * number)).save(place / f"{shade:03}.png")
                sentences = [{"raw": f"a dog {shade} in the snow {data}"}]
                images.append(
                    {"filename": f"{shade:03}.png", "filepath": folder, "split": split, "sentences": sentences}
                )
        file = tmp_path / f"dataset_{data}.json"
        file.write_text(json.dumps({"images": images}))
        added = mwactl_cli(
            "data", "add", data, "--format", "karpathy", "--annotations", file, "--images", tmp_path / FOLDERS[data]
        )
        assert added.code == 0, added.stderr
    packaged = (Path(__file__).parents[2] / "templates" / "coco.yaml").read_text()
    lines = [line for line in packaged.splitlines() if not line.startswith(("  epochs:", "  batch_size:"))]
    (tmp_path / "coco.yaml").write_text("\n".join([*lines, "  epochs: 2", "  batch_size: 8", ""]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_calls(mwactl_cli, published: None, folder_of_a_user: Path):
    commands = commands_under("Backbones and their weights")[:6]
    assert commands[3:] == [
        ["inject", "--backbone", "beit3-large"],
        ["train", "coco.yaml"],
        ["eval", "--zero-shot", "flickr30k"],
    ]
    answers = {}
    for words in commands:
        result = mwactl_cli(*words)
        assert result.code == 0, (words, result.stderr)
        answers[words[0], "--dry-run" in words] = result.stdout
    assert "published beit3-large-mwa@1" in answers["inject", False]
    assert "coco-mwa@2" in answers["train", False]
    assert "coco-mwa@2 on flickr30k test: 8 pictures × 8 captions" in answers["eval", False]
    assert "zero-shot: checked" in answers["eval", False]

    manifest = mwactl_cli("registry", "show", "coco-mwa@2", "--json").json["manifest"]
    assert manifest["base"]["weights"]["source"] == "itc"
    counted = mwactl_cli("inject", "--backbone", "beit3-large", "--dry-run", "--json").json
    assert manifest["tensors"]["parameters"] == counted["trainable_parameters"]


def test_without_the_official_files_the_two_commands_that_help_are_named(mwactl_cli, empty_home: Path):
    result = mwactl_cli("inject", "--backbone", "beit3-large")
    assert result.code == 3
    assert "mwactl backbones pull beit3-large" in result.stderr
    assert "--weights FILE" in result.stderr
    assert not empty_home.exists()


def test_a_download_on_the_way_says_what_it_fetches(mwactl_cli, published: None, empty_home: Path):
    result = mwactl_cli("inject", "--backbone", "beit3-large", "--download")
    assert result.code == 0, result.stderr
    fetched = [line.rpartition("/")[2] for line in result.stderr.splitlines() if line.startswith("fetching ")]
    assert fetched == [OFFICIAL_FILE, "beit3.spm"]
    (empty_home / "weights" / "beit3.spm").unlink()
    again = mwactl_cli("inject", "--backbone", "beit3-large", "--name", "again")
    assert "fix: --download, or mwactl backbones pull beit3-large --weights tokenizer" in again.stderr
    assert mwactl_cli("backbones", "pull", "beit3-large", "--weights", "tokenizer").code == 0
    assert mwactl_cli("inject", "--backbone", "beit3-large", "--name", "again").code == 0


def test_heads_that_nothing_has_trained_are_not_evaluated_in_silence(
    mwactl_cli, tiny_beit3: Path, random_model: Callable[..., Beit3Retrieval], folder_of_a_user: Path
):
    state = {name: value for name, value in random_model().state_dict().items() if "head" not in name}
    torch.save(state, folder_of_a_user / "headless.pth")
    words = ["--backbone", f"beit3:local-dir:{tiny_beit3}", "--weights", folder_of_a_user / "headless.pth"]
    bare = mwactl_cli("eval", *words, "--data", "flickr30k")
    assert bare.code == 0
    assert "the weights lack model.language_head.weight, model.vision_head.weight" in bare.stderr
    injected = mwactl_cli("inject", *words, "--name", "headless")
    assert "trained and saved with the adapter" in injected.stdout
    evaluated = mwactl_cli("eval", "headless", "--data", "flickr30k")
    assert (evaluated.code, "headless@1 is untrained, and the weights lack" in evaluated.stderr) == (0, True)


def test_injects_next_command_keeps_what_was_asked_for(mwactl_cli, tiny_beit3: Path, tiny_data: str):
    name, file = f"beit3:local-dir:{tiny_beit3}", tiny_beit3 / "model.safetensors"
    result = mwactl_cli("inject", "--backbone", name, "--weights", file, "--name", "mine", "method.mwa.alpha=0.5")
    hint = result.stderr.split("next: ")[1].split("   (")[0].strip()
    words = shlex.split(hint)
    assert words[:3] == ["mwactl", "train", "RECIPE"]
    assert set(words[3:]) == {
        "name=mine", f"backbone.name={name}", "method.mwa.alpha=0.5", f"backbone.weights={file}",
    }  # fmt: skip
    trained = mwactl_cli("train", "captions", *words[3:], f"data.name={tiny_data}", "train.epochs=1", "data.workers=0")
    assert trained.code == 0, trained.stderr
    assert "mine@2" in trained.stdout  # a child of the injected one
