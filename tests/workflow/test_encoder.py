"""One way to embeddings: a registry entry with torch and an exported folder without give the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mwactl
from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.registry import Registry
from mwactl.workflow.bundle import BundleEncoder
from mwactl.workflow.encoder import TorchEncoder, open_encoder

CAPTIONS = ["a square", "a much longer caption of a square with many words in it, so that it is cut in the end", "red"]


@pytest.fixture
def pictures(tmp_path: Path, picture: Image.Image) -> list[Path]:
    """Files of several modes and shapes."""
    files = {
        "wide.png": picture,
        "cmyk.jpg": picture.convert("CMYK"),
        "grey.png": picture.convert("L").resize((7, 60)),
        "clear.png": picture.convert("RGBA"),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    return [tmp_path / name for name in files]


@pytest.fixture
def adapter(trained_adapter: str) -> str:
    return trained_adapter.partition("@")[0]


@pytest.mark.usefixtures("traced_once")
def test_a_reference_a_merged_model_and_a_folder_give_the_same(
    mwactl_cli, adapter: str, pictures: list[Path], tmp_path: Path
) -> None:
    assert mwactl_cli("merge", adapter).code == 0
    exported = mwactl_cli("export", adapter, "--onnx", "-o", tmp_path / "model")
    assert exported.code == 0, exported.stderr
    encoders = [open_encoder(adapter), open_encoder(f"{adapter}-merged"), open_encoder(str(tmp_path / "model"))]
    assert [type(encoder) for encoder in encoders] == [TorchEncoder, TorchEncoder, BundleEncoder]
    first, merged, folder = encoders
    assert first.identity == folder.identity != merged.identity
    assert len({encoder.preprocess_digest for encoder in encoders}) == 1
    for encoder in encoders[1:]:
        np.testing.assert_allclose(encoder.encode_images(pictures), first.encode_images(pictures), rtol=0, atol=1e-5)
        np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), first.encode_texts(CAPTIONS), rtol=0, atol=1e-5)


def test_rows_have_length_one_and_the_given_order(adapter: str, pictures: list[Path]) -> None:
    encoder = mwactl.load(adapter)
    texts, images = encoder.encode_texts(CAPTIONS, 2), encoder.encode_images(pictures, 3)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, atol=1e-6)
    for index, caption in enumerate(CAPTIONS):
        np.testing.assert_allclose(texts[index], encoder.encode_texts([caption])[0], rtol=0, atol=1e-6)
    for index, path in enumerate(pictures):
        for spelled in (path, str(path), path.read_bytes(), Image.open(path)):
            np.testing.assert_allclose(images[index], encoder.encode_images([spelled])[0], rtol=0, atol=1e-6)
    assert encoder.encode_images([]).shape == (0, encoder.width)


def test_the_newest_is_loaded_where_no_name_is_given(adapter: str) -> None:
    assert mwactl.load().identity == Registry.default().resolve(adapter).digest


def test_options_that_a_bundle_has_no_use_for_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "mwactl-bundle", "schema": 1}')
    for option, given in (("--weights", {"weights": "x"}), ("--backbone", {"backbone_name": "y"}),
                          ("--download", {"download": True})):  # fmt: skip
        with pytest.raises(UsageError, match=f"needs no {option}"):
            open_encoder(str(tmp_path), **given)  # type: ignore[arg-type]


def test_what_cannot_be_loaded_or_read_is_said(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_encoder("no-such-adapter")
    with pytest.raises(UsageError):
        open_encoder(adapter, device="abacus")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        open_encoder(adapter).encode_images([tmp_path / "broken.png"])


def test_importing_the_package_and_the_encoder_imports_no_torch() -> None:
    program = "import sys, mwactl, mwactl.workflow.encoder; assert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
