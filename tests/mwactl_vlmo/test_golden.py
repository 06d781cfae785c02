"""The original VLMo's outputs on small random weights.

Every `vlmo*.safetensors` with its `.json` in the folder is compared (`MWACTL_GOLDEN`; default: those beside the tests).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.backbone.contract import unit_rows
from mwactl.backbone.packing import PackedTokens, pack
from mwactl_vlmo.model import Vlmo
from mwactl_vlmo.sizes import VlmoConfig

FOLDER = Path(os.environ.get("MWACTL_GOLDEN", Path(__file__).parents[1] / "golden"))
FILES = sorted(FOLDER.glob("vlmo*.safetensors"))
INPUTS = {"image", "text_ids", "text_masks"}
INDICES = {"relative_position_index", "text_relative_position_index", "text_imag_relative_position_index"}


@dataclass
class Golden:
    """One file: the model with its weights, and the other tensors in it."""

    model: Vlmo
    tensors: dict[str, Tensor]

    @property
    def pixels(self) -> Tensor:
        return self.tensors["image"]

    @property
    def text(self) -> PackedTokens:
        real = self.tensors["text_masks"].bool()
        assert torch.equal(real, self.tensors["text_ids"] != 0)
        return pack(self.tensors["text_ids"], 0)

    def packed(self, name: str) -> Tensor:
        """An output for padded captions [b, s, d] without its padding, in the packed order: [t, d]."""
        real = self.tensors["text_masks"].bool()
        return torch.cat([self.tensors[name][caption][real[caption]] for caption in self.text.order])


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    file: Path = request.param
    tensors = safetensors.torch.load_file(file)
    document = json.loads(file.with_suffix(".json").read_text())
    weights = {name.removeprefix("weights/"): tensors.pop(name) for name in list(tensors) if name.startswith("weights")}
    dims, options = document["dims"], document["config"]
    config = VlmoConfig(
        width=dims["embed_dim"],
        layers=dims["depth"],
        heads=dims["heads"],
        hidden=len(weights["transformer.blocks.0.mlp_text.fc1.weight"]),
        first_joint_block=dims["vlffn_start"],
        image_size=dims["img"],
        relative_positions=dims["rel"],
        layer_scale="transformer.blocks.0.gamma_1" in weights,
        vocabulary=options["vocab_size"],
        text_length=options["max_text_len"],
        bias_text_length=options["max_text_len_of_initckpt"],
        patch=dims["patch"],
    )
    config.check()
    with torch.device("meta"):
        model = Vlmo(config, pretraining=True)
    model.load_state_dict(weights, strict=True, assign=True)
    return Golden(model.eval(), tensors)


def fused(golden: Golden, part: str) -> Tensor:
    features = golden.model.encode_pairs(golden.pixels, golden.text)
    pooled = golden.model.pool_pairs(features, golden.text)
    return {**features, "pooled": pooled, "itm": golden.model.itm_score(pooled)}[part]


#: Output in the file -> ours, and the file's, in one form.
OUTPUTS: dict[str, Callable[[Golden], tuple[Tensor, Tensor]]] = {
    "image_cls": lambda g: (unit_rows(g.model.embed_pictures(g.pixels)), g.tensors["image_cls"]),
    "text_cls": lambda g: (unit_rows(g.model.embed_text(g.text)), g.tensors["text_cls"]),
    "image_cls_vl": lambda g: (unit_rows(g.model.embed_pictures(g.pixels, joint=True)), g.tensors["image_cls_vl"]),
    "text_cls_vl": lambda g: (unit_rows(g.model.embed_text(g.text, joint=True)), g.tensors["text_cls_vl"]),
    "image_tokens": lambda g: (g.model.encode_pictures(g.pixels), g.tensors["image_tokens"]),
    "text_tokens": lambda g: (g.model.encode_text(g.text), g.packed("text_tokens")),
    "fused_text": lambda g: (fused(g, "text"), g.packed("fused_text")),
    "fused_image": lambda g: (fused(g, "image"), g.tensors["fused_image"][g.text.order].flatten(0, 1)),
    "fused_pooled": lambda g: (fused(g, "pooled"), g.tensors["fused_pooled"]),
    "itm_logits": lambda g: (fused(g, "itm"), g.tensors["itm_logits"]),
}


def test_there_are_goldens() -> None:
    assert FILES, f"no vlmo*.safetensors in {FOLDER}"
    if "MWACTL_GOLDEN" not in os.environ:
        kinds = {json.loads(file.with_suffix(".json").read_text())["dims"]["rel"] for file in FILES}
        assert kinds == {True, False}


def test_every_tensor_of_a_file_is_compared(golden: Golden) -> None:
    outputs = golden.tensors.keys() - INPUTS - INDICES
    assert outputs <= OUTPUTS.keys()
    assert outputs == OUTPUTS.keys() or (outputs and "MWACTL_GOLDEN" in os.environ)


@pytest.mark.parametrize("output", OUTPUTS)
@torch.inference_mode()
def test_outputs_are_the_originals(golden: Golden, output: str) -> None:
    if output not in golden.tensors:
        pytest.skip(f"the file holds no {output}")
    ours, theirs = OUTPUTS[output](golden)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "text"])
@torch.inference_mode()
def test_bf16_stays_within_a_hundredth_of_the_original(golden: Golden, modality: str) -> None:
    if f"{modality}_cls" not in golden.tensors:
        pytest.skip(f"the file holds no {modality}_cls")
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = OUTPUTS[f"{modality}_cls"](golden)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-2)


def test_index_matrices_are_the_originals(golden: Golden) -> None:
    held = golden.tensors.keys() & INDICES
    if not golden.model.config.relative_positions:
        assert not held
        return
    index, text = golden.model._position_index, golden.model.config.text_length
    ours = {
        "text_relative_position_index": index[:text, :text],
        "relative_position_index": index[text:, text:],
        "text_imag_relative_position_index": index,
    }
    assert all(torch.equal(ours[name], golden.tensors[name].long()) for name in held)
    assert held == INDICES or "MWACTL_GOLDEN" in os.environ
