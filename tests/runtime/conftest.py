"""A bundle of the tiny CLIP, written here: the runtime is tested against the layout, whatever the exporter does."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone, unit_rows
from mwactl.files import canonical_json
from mwactl.runtime import RetrievalModel, bundle, load

CAPTIONS = ["a dog", "two dogs run in the snow &amp; a child laughs", "<end_of_text> É"]


class Tower(nn.Module):
    """[b, …] -> [b, e], rows of length one."""

    def __init__(self, encode: Callable[[Tensor], Tensor], backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.encode = backbone, encode

    def forward(self, batch: Tensor) -> Tensor:
        return unit_rows(self.encode(batch))


@pytest.fixture(scope="session")
def backbone(tiny_clip: Path) -> Backbone:
    """The tiny CLIP in torch."""
    plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
    return plugin.build(spec, WeightsRequest())


@pytest.fixture(scope="session")
def tiny_bundle(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle; shared by all tests, none may change it (`own_bundle` may be)."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    folder.mkdir()
    data = backbone.portable()
    facts: dict[str, Any] = {
        "schema": 1,
        "kind": "mwactl-bundle",
        "identity": "0" * 64,
        "model": {"reference": "tiny@1", "kind": "merged"},
        "preprocess": data.digest,
        "embedding_width": backbone.embedding_width,
        "dtype": "fp32",
        "logit_scale": 4.6,
        "tolerance": {"max_abs": 1e-5, "min_cosine": 0.99999},
    }
    tokens = torch.arange(1, 2 * 9 + 1).reshape(2, 9).contiguous()
    examples = {"image": torch.randn(2, 3, *backbone.image_size), "text": tokens}
    for tower, example in examples.items():
        write_graph(folder / f"{tower}.onnx", tower, backbone, example, facts)
    (folder / "preprocess.json").write_bytes(canonical_json(data.preprocess()))
    for name, content in data.files.items():
        (folder / name).write_bytes(content)
    shutil.copy(bundle.__file__, folder / "runtime.py")
    requirements = ["numpy", "onnxruntime", "pillow", *data.requirements]
    (folder / "requirements.txt").write_text("\n".join(requirements))
    write_golden(folder / "golden.npz", backbone)
    write_manifest(folder, facts)
    return folder


def write_graph(path: Path, tower: str, backbone: Backbone, example: Tensor, facts: dict[str, Any]) -> None:
    encode = backbone.encode_image if tower == "image" else backbone.encode_padded_text
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic} if tower == "image" else {0: dynamic, 1: dynamic},)
    program = torch.onnx.export(
        Tower(encode, backbone).eval(), (example,), dynamo=True, opset_version=20, dynamic_shapes=shapes, verbose=False,
        input_names=["pixels" if tower == "image" else "tokens"], output_names=["embeddings"],
    )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {"mwactl": json.dumps(facts)})
    path.write_bytes(graph.SerializeToString())


def write_golden(path: Path, backbone: Backbone) -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    pixels = backbone.image_transform()(Image.fromarray(picture))[None]
    tokens = backbone.tokenize(CAPTIONS)
    with torch.inference_mode():
        images, texts = unit_rows(backbone.encode_image(pixels)), unit_rows(backbone.encode_text(tokens))
    np.savez(
        path, picture=picture, pixels=pixels.numpy(), captions=np.array(CAPTIONS), tokens=tokens.numpy(),
        image_embeddings=images.numpy(), text_embeddings=texts.numpy(),
    )  # fmt: skip


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """The manifest of what lies in the folder now."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({**facts, "files": files}))


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def write_facts(graph: Path, facts: dict[str, Any]) -> None:
    """Other facts in a graph's metadata."""
    model = onnx.load(graph)
    onnx.helper.set_model_props(model, {"mwactl": json.dumps(facts)})
    graph.write_bytes(model.SerializeToString())


@pytest.fixture
def change_all(own_bundle: Path) -> Callable[..., Path]:
    """change_all(**facts): the copied bundle with other facts in its manifest and in its graphs."""

    def write(**facts: Any) -> Path:
        manifest = json.loads((own_bundle / "manifest.json").read_bytes()) | facts
        del manifest["files"]
        for tower in ("image", "text"):
            write_facts(own_bundle / f"{tower}.onnx", manifest)
        write_manifest(own_bundle, manifest)
        return own_bundle

    return write


@pytest.fixture
def change(own_bundle: Path) -> Callable[..., Path]:
    """change(**facts): the copied bundle with other facts and the digests of its files as they are now."""

    def write(**facts: Any) -> Path:
        manifest = json.loads((own_bundle / "manifest.json").read_bytes())
        write_manifest(own_bundle, manifest | facts)
        return own_bundle

    return write


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> RetrievalModel:
    """The bundle's model on one thread of the CPU."""
    return load(tiny_bundle, device="cpu", threads=1)
