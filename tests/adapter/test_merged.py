from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, MergedModel, fold, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError

from .conftest import TinyBackbone

Tiny = Callable[..., TinyBackbone]
METHOD = MethodConfig(mwa=MwaConfig(knowledge_extractor=3, alignment_enhancer=4))


@pytest.fixture
def merged(tiny: Tiny, train_a_little: Callable[[AdaptedModel], None]) -> MergedModel:
    model = inject(tiny(joint=True), METHOD)
    train_a_little(model)
    return fold(model)


def test_the_complete_state_has_buffers_that_torch_would_leave_out(merged: MergedModel) -> None:
    merged.backbone.register_buffer("mask", torch.ones(2), persistent=False)
    assert "backbone.mask" in merged.complete_state()
    assert "backbone.mask" not in merged.state_dict()


def test_a_tensor_of_two_names_is_kept_once_and_stays_one(merged: MergedModel) -> None:
    backbone = merged.backbone
    assert isinstance(backbone, TinyBackbone)
    backbone.text_head.weight = backbone.image_head.weight
    state = merged.complete_state()
    assert "backbone.image_head.weight" in state and "backbone.text_head.weight" not in state
    state["backbone.image_head.weight"] = torch.full_like(state["backbone.image_head.weight"], 3.0)
    merged.load_complete_state(state, where="a test")
    assert backbone.text_head.weight is backbone.image_head.weight
    assert (backbone.text_head.weight == 3).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("backbone.scale"), "backbone.scale is missing"),
        (lambda state: state.update(more=torch.ones(1)), "more is unexpected"),
        (lambda state: state.update({"backbone.scale": torch.ones(2)}), "backbone.scale is [2] float32"),
        (lambda state: state.update({"backbone.scale": torch.ones((), dtype=torch.float64)}), "is [] float64"),
    ],
    ids=["missing", "extra", "misshapen", "of another precision"],
)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_changed(
    merged: MergedModel, change: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    before = {name: tensor.clone() for name, tensor in merged.complete_state().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    change(state)
    with pytest.raises(IncompatibleError, match="are not those of a merged tiny") as raised:
        merged.load_complete_state(state, where="tiny@1")
    assert raised.value.exit_code == 4
    assert raised.value.where == "tiny@1"
    assert said in str(raised.value.why)
    assert all(torch.equal(tensor, before[name]) for name, tensor in merged.complete_state().items())


def test_a_tensor_that_no_file_can_bring_is_an_error_and_not_an_empty_model(merged: MergedModel) -> None:
    object.__setattr__(merged.backbone, "cache", torch.empty(2, device="meta"))
    with pytest.raises(IncompatibleError) as raised:
        merged.load_complete_state(merged.complete_state(), where="tiny@1")
    assert "backbone.cache is made anew" in str(raised.value.why)


def test_an_ffn_of_an_unknown_form_keeps_its_extractor_beside_it(
    tiny: Tiny, train_a_little: Callable[[AdaptedModel], None], pixels: Tensor, tokens: Tensor
) -> None:
    model = inject(tiny(joint=True), METHOD)
    train_a_little(model)
    with torch.inference_mode():
        expected = model.encode_image(pixels), model.encode_text(tokens), model.encode_padded_text(tokens)
        merged = fold(model)
        found = merged.encode_image(pixels), merged.encode_text(tokens), merged.encode_padded_text(tokens)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert [sentence.rpartition(": ")[2] for sentence in merged.kept] == [
        "the FFN of these blocks has no form that anything can be folded into",
        "each reads what its block has finished",
    ]
    assert merged.kept[0].startswith("the Knowledge Extractors of 4 places (layer/0 (image) to layer/1 (text)) stay")


@pytest.mark.parametrize("name", ["head", "full"])
def test_a_baseline_has_nothing_to_fold_and_its_trained_weights_are_the_model(
    tiny: Tiny, train_a_little: Callable[[AdaptedModel], None], pixels: Tensor, name: str
) -> None:
    model = inject(tiny(), MethodConfig(name=name))  # type: ignore[arg-type]
    train_a_little(model)
    with torch.inference_mode():
        expected = model.encode_image(pixels)
        merged = fold(model)
        assert torch.equal(merged.encode_image(pixels), expected)
    assert merged.kept == ()
    assert merged.count_parameters() == merged.backbone.count_parameters()


def test_a_folded_model_cannot_be_trained_by_mistake(merged: MergedModel) -> None:
    assert not merged.train().training
    assert not any(isinstance(module, nn.Dropout) and module.training for module in merged.modules())
    assert not any(parameter.requires_grad for parameter in merged.parameters())
