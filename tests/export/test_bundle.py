"""The folder: what is in it, what it says of itself, and that it can prove it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from mwactl import runtime
from mwactl.errors import VerificationError
from mwactl.export.bundle import prove, widened, write_bundle
from mwactl.export.golden import golden, synthetic_picture
from mwactl.export.parity import TOLERANCES, Parity, TowerParity
from mwactl.files import canonical_json, sha256_file

NEAR = TowerParity(rows=3, max_abs=1e-7, min_cosine=0.9999999, mean_cosine=1.0)
PARITY = Parity(NEAR, NEAR, 100.0, None)


@pytest.fixture
def bundle(tiny, content, tmp_path) -> Path:
    folder = tmp_path / "bundle"
    write_bundle(folder, content, tiny.graphs, parity=PARITY, tolerance=TOLERANCES["fp32"], more={"gate": []})
    return folder


def test_it_holds_all_that_is_needed_and_lists_it(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        "image.onnx", "text.onnx", "merges.txt", "preprocess.json", "golden.npz", "runtime.py", "requirements.txt",
        "README.md", "manifest.json",
    }  # fmt: skip
    assert manifest["files"].keys() == names - {"manifest.json"}
    for name, facts in manifest["files"].items():
        assert facts == {"sha256": sha256_file(bundle / name), "size": (bundle / name).stat().st_size}


def test_manifest_and_graphs_say_the_same(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]
    for tower in ("image", "text"):
        session = onnxruntime.InferenceSession(bundle / f"{tower}.onnx", providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["mwactl"]) == manifest
    assert manifest["tolerance"] == {"max_abs": 1e-5, "min_cosine": 0.99999}
    assert manifest["parity"]["top10"] == 100.0


def test_it_proves_itself_and_notices_a_changed_weight(bundle, tiny, content, tmp_path):
    assert prove(bundle, 1)["image"]["max_abs"] <= 1e-5
    images = dict(tiny.graphs) | {"image": tmp_path / "image.onnx"}
    data = bytearray(tiny.graphs["image"].read_bytes())
    at = data.index(np.float32(tiny.backbone.model.visual.class_embedding[0].item()).tobytes())
    data[at : at + 4] = np.float32(9.0).tobytes()
    images["image"].write_bytes(bytes(data))
    write_bundle(tmp_path / "other", content, images, parity=PARITY, tolerance=TOLERANCES["fp32"])
    with pytest.raises(VerificationError, match=r"does not hold what it promises.*image") as error:
        prove(tmp_path / "other", 1)
    assert str(tmp_path) not in str(error.value)


def test_the_runtime_in_it_is_this_one(bundle):
    assert (bundle / "runtime.py").read_bytes() == Path(runtime.bundle.__file__).read_bytes()


def test_requirements_name_what_the_runtime_imports_and_no_torch(bundle):
    lines = (bundle / "requirements.txt").read_text().split()
    assert "onnxruntime>=1.20" in lines
    names = {re.split("[>=<]", line)[0] for line in lines}
    assert {"numpy", "onnxruntime", "pillow", "ftfy", "regex"} == names
    assert lines == sorted(lines[:3]) + sorted(lines[3:])


@pytest.mark.parametrize(
    ("opset", "oldest"), [(21, "1.20"), (22, onnxruntime.__version__), (23, onnxruntime.__version__)]
)
def test_newer_operators_need_an_onnxruntime_that_knows_them(tiny, content, tmp_path, opset, oldest):
    write_bundle(tmp_path / "bundle", replace(content, facts={**content.facts, "opset": opset}), tiny.graphs)
    assert f"onnxruntime>={oldest}" in (tmp_path / "bundle" / "requirements.txt").read_text().split()


def test_the_readme_says_true_commands(bundle, tmp_path, monkeypatch):
    program = re.search("```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    assert program is not None
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend(str(bundle))
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (50, 30), "red").save(tmp_path / name)
    code = program[1].replace("a.jpg", str(tmp_path / "a.jpg")).replace("b.jpg", str(tmp_path / "b.jpg"))
    found: dict[str, object] = {}
    exec(code.replace("print(", "shown = ("), found)
    assert found["shown"].shape == (1, 2)


def test_the_test_vectors_are_torchs_and_the_same_every_time(tiny, content):
    assert golden(tiny.adapted, tiny.backbone, tiny.portable) == content.golden
    with np.load(io.BytesIO(content.golden), allow_pickle=False) as file:
        vectors = dict(file)
    assert vectors["picture"].shape[0] != vectors["picture"].shape[1]
    assert vectors["pixels"].shape == (1, 3, 32, 32)
    lengths = (vectors["tokens"] != 0).sum(axis=1)
    assert len(set(lengths.tolist())) == len(vectors["captions"]) == 3
    for name in ("image_embeddings", "text_embeddings"):
        np.testing.assert_allclose(np.linalg.norm(vectors[name], axis=1), 1, atol=1e-6)


def test_no_two_neighbours_of_the_picture_are_alike_in_all_channels():
    picture = synthetic_picture().astype(int)
    for axis in (0, 1):
        assert (np.diff(picture, axis=axis) != 0).any(axis=2).mean() > 0.98


def test_nothing_of_this_machine_is_in_it(bundle, tiny):
    for path in bundle.iterdir():
        for trace in (str(bundle.parent), str(tiny.backbone.spec.model), str(Path.cwd())):
            assert trace.encode() not in path.read_bytes(), (path.name, trace)
    assert (
        canonical_json(json.loads((bundle / "preprocess.json").read_bytes()))
        == (bundle / "preprocess.json").read_bytes()
    )


def test_an_int8_bundle_holds_to_twice_the_worst_that_was_found():
    far = Parity(TowerParity(3, 0.01, 0.98, 0.99), TowerParity(3, 0.03, 0.99, 0.995), 90.0, None)
    report = {"pixels": {"max_levels": 0.0}, "image": {"max_abs": 0.02, "min_cosine": 0.97}}
    tolerance = widened(far, report)
    assert tolerance.min_cosine == pytest.approx(0.94)
    assert tolerance.max_abs == pytest.approx(0.06)
    report["image"]["max_abs"] = 0.04
    assert widened(far, report).max_abs == pytest.approx(0.08)


def test_an_int8_bundle_need_not_be_nearer_than_full_precision():
    exact = TowerParity(3, 0.0, 1.0000001, 1.0)
    tolerance = widened(Parity(exact, exact, 100.0, None), {"image": {"max_abs": 0.0, "min_cosine": 1.0}})
    assert tolerance == TOLERANCES["fp32"]
