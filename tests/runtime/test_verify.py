"""A bundle in the toolkit: `mwactl verify`, and errors with an exit code and the next command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mwactl.errors import DataError, IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.runtime import RetrievalModel
from mwactl.search import Encoder
from mwactl.workflow.bundle import open_bundle

Change = Callable[..., Path]


def test_it_says_what_was_compared_and_how_far_apart_it_is(mwactl_cli, tiny_bundle: Path):
    result = mwactl_cli("verify", tiny_bundle)
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{tiny_bundle}: 7 files, fp32, tiny@1"
    assert lines[1].startswith("image tower on ")
    assert "token ids the same, pixels the same" in lines
    assert lines[-1].split("\t") == ["tolerated", "1.0e-05", "0.9999900"]
    assert result.stderr.startswith(f"next: mwactl embed {tiny_bundle}")


def test_json_has_the_promised_keys(mwactl_cli, tiny_bundle: Path):
    document = mwactl_cli("verify", tiny_bundle, "--device", "cpu", "--json").json
    assert set(document) == {
        "schema", "bundle", "identity", "model", "files", "dtype", "providers", "tolerance", "differences",
    }  # fmt: skip
    assert (document["schema"], document["files"]) == (1, 7)
    assert document["providers"] == {"image": ["CPUExecutionProvider"], "text": ["CPUExecutionProvider"]}
    assert 0 < document["differences"]["image"]["max_abs"] < document["tolerance"]["max_abs"]


def test_quiet_prints_the_identity(mwactl_cli, tiny_bundle: Path):
    assert mwactl_cli("verify", tiny_bundle, "-q").stdout == "0" * 64 + "\n"


def test_each_failure_has_its_exit_code_and_a_next_command(
    mwactl_cli, own_bundle: Path, change: Change, change_all: Change, tmp_path: Path
):
    absent = mwactl_cli("verify", tmp_path / "absent")
    assert absent.code == 3
    assert "fix: mwactl export" in absent.stderr
    assert mwactl_cli("verify", own_bundle, "--device", "tpu").code == 2
    assert mwactl_cli("verify", change(schema=2)).code == 4
    beyond = mwactl_cli("verify", change_all(schema=1, tolerance={"max_abs": 1e-9, "min_cosine": 0.9}))
    assert beyond.code == 5
    assert "tolerated are 1.0e-09" in beyond.stderr
    (own_bundle / "text.onnx").write_bytes(b"")
    damaged = mwactl_cli("verify", own_bundle)
    assert damaged.code == 5
    assert "text.onnx is damaged" in damaged.stderr
    assert damaged.stdout == ""


def test_it_needs_no_torch(tiny_bundle: Path):
    program = (
        "import sys\nfrom mwactl.cli import main\n"
        f"sys.argv = ['mwactl', 'verify', {str(tiny_bundle)!r}, '--device', 'cpu']\n"
        "try:\n    main()\nfinally:\n"
        "    assert not {'torch', 'torchvision', 'open_clip', 'transformers'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "token ids the same" in done.stdout


def test_a_bundle_is_an_encoder_like_any_other(tiny_bundle: Path, model: RetrievalModel):
    encoder: Encoder = open_bundle(tiny_bundle, device="cpu", threads=1)
    assert (encoder.identity, encoder.width) == (model.identity, model.width)
    assert encoder.preprocess_digest == model.preprocess_digest
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    assert np.array_equal(encoder.encode_images(pictures), model.encode_images(pictures))
    assert np.array_equal(encoder.encode_texts(["a dog"]), model.encode_texts(["a dog"]))


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ({"schema": 7}, IncompatibleError),
        ({"identity": "1"}, VerificationError),
    ],
)
def test_a_bundles_own_errors_become_the_toolkits(change: Change, edit: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        open_bundle(change(**edit), device="cpu", threads=1).encode_texts(["a"])


def test_a_bad_picture_a_bad_device_and_a_missing_package_say_what_to_do(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder = open_bundle(tiny_bundle, device="cpu", threads=1)
    with pytest.raises(DataError, match="no such file") as picture:
        encoder.encode_images([tmp_path / "a.jpg"])
    assert picture.value.where == str(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="--device cpu"):
        open_bundle(tiny_bundle, device="tpu")
    with pytest.raises(NotFoundError):
        open_bundle(tmp_path)
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UsageError, match=r"pip install -r .*requirements\.txt"):
        open_bundle(tiny_bundle)


def test_the_manifest_is_not_believed_against_its_graphs(mwactl_cli, change: Change, own_bundle: Path):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    assert manifest["embedding_width"] == 16
    result = mwactl_cli("verify", change(embedding_width=8))
    assert result.code == 5
    assert "they differ in embedding_width" in result.stderr


@pytest.mark.parametrize("fact", ["dtype", "model", "tolerance", "sha256"])
def test_a_manifest_that_lacks_a_fact_is_a_failed_check_and_no_crash(mwactl_cli, own_bundle: Path, fact: str):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    if fact == "sha256":
        manifest["files"]["runtime.py"] = {}
    elif fact == "tolerance":
        manifest["tolerance"] = {}
    else:
        del manifest[fact]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    result = mwactl_cli("verify", own_bundle)
    assert (result.code, result.stdout) == (5, "")
    assert fact in result.stderr
