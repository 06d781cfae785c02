"""Inject, strip, freeze and the adapter's tensors, on a backbone that knows no library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.adapter import inject, strip
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import ExitCode, IncompatibleError

Tiny = Callable[..., Any]
TrainALittle = Callable[..., None]
HEADS = {"backbone.image_head.weight", "backbone.text_head.weight"}
METHODS = ["mwa", "head", "full"]


def copied(module: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_untrained_injection_changes_no_bit(
    tiny: Tiny, pixels: Tensor, tokens: Tensor, joint: bool, method: Any
) -> None:
    backbone = tiny(joint=joint)
    image, text, state = backbone.encode_image(pixels), backbone.encode_text(tokens), copied(backbone)
    model = inject(backbone, MethodConfig(name=method))
    assert torch.equal(model.encode_image(pixels), image)
    assert torch.equal(model.encode_text(tokens), text)
    assert same(copied(backbone), state)


@pytest.mark.parametrize("joint", [True, False])
def test_strip_gives_the_backbone_back_after_training(
    tiny: Tiny, pixels: Tensor, tokens: Tensor, joint: bool, train_a_little: TrainALittle
) -> None:
    backbone = tiny(joint=joint)
    image, text, state = backbone.encode_image(pixels), backbone.encode_text(tokens), copied(backbone)
    model = inject(backbone, MethodConfig())
    train_a_little(model)
    assert not torch.equal(model.encode_image(pixels), image)
    assert not torch.equal(model.encode_text(tokens), text)
    assert strip(model) is backbone
    assert model.adapter is None
    assert torch.equal(backbone.encode_image(pixels), image)
    assert torch.equal(backbone.encode_text(tokens), text)
    assert same(copied(backbone), state)


def test_weights_load_after_injection_as_before(tiny: Tiny, pixels: Tensor) -> None:
    donor = tiny()
    with torch.no_grad():
        donor.patches.weight.mul_(2)
    backbone = tiny()
    model = inject(backbone, MethodConfig())
    backbone.load_state_dict(donor.state_dict(), strict=True)
    assert torch.equal(model.encode_image(pixels), donor.encode_image(pixels))


def test_the_seed_decides_the_initial_values_and_the_global_random_state_stays(tiny: Tiny) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (inject(tiny(), MethodConfig(), seed=seed).adapter_state() for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first, again)
    assert not same(first, other)


def test_injected_models_start_in_evaluation_mode(tiny: Tiny) -> None:
    model = inject(tiny().train(), MethodConfig())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("method", "train_logit_scale", "expected"),
    [
        ("mwa", None, set()),
        ("mwa", True, {"backbone.scale", "backbone.offset"}),
        ("mwa", False, set()),
        ("head", None, HEADS | {"backbone.scale", "backbone.offset"}),
        ("head", False, HEADS),
    ],
)
def test_exactly_what_the_method_trains_needs_a_gradient(
    tiny: Tiny, method: Any, train_logit_scale: bool | None, expected: set[str]
) -> None:
    model = inject(tiny(bias=True), MethodConfig(name=method, train_logit_scale=train_logit_scale))
    own = {f"adapter.{name}" for name, _ in model.adapter.named_parameters()} if model.adapter else set()
    assert bool(own) == (method == "mwa")
    assert set(model.trainable()) == expected | own
    assert model.trainable_count() == sum(model.get_parameter(name).numel() for name in expected | own)


def test_heads_can_be_trained_together_with_the_modules(tiny: Tiny) -> None:
    alone = set(inject(tiny(bias=True), MethodConfig()).trainable())
    together = inject(tiny(bias=True), MethodConfig(train_head=True))
    assert set(together.trainable()) == alone | HEADS
    assert set(together.adapter_state()) >= HEADS


@pytest.mark.parametrize("train_logit_scale", [None, True, False])
def test_full_trains_everything_with_the_temperature_as_an_option(tiny: Tiny, train_logit_scale: bool | None) -> None:
    model = inject(tiny(bias=True), MethodConfig(name="full", train_logit_scale=train_logit_scale))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"backbone.scale", "backbone.offset"} if train_logit_scale is False else set())


@pytest.mark.parametrize("method", METHODS)
def test_what_the_weights_lack_is_trained_and_saved_with_every_method(tiny: Tiny, method: Any) -> None:
    model = inject(tiny(untrained=["image_head.weight", "scale"]), MethodConfig(name=method, train_logit_scale=False))
    assert {"backbone.image_head.weight", "backbone.scale"} <= set(model.adapter_state())
    assert ("backbone.text_head.weight" in model.trainable()) == (method != "mwa")


def test_gradients_reach_the_adapter_and_nothing_else(tiny: Tiny, pixels: Tensor, tokens: Tensor) -> None:
    model = inject(tiny(), MethodConfig())
    (model.encode_image(pixels).square().sum() + model.encode_text(tokens).square().sum()).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(model.trainable())
    # At the start only what follows the zero up-projection moves; that is enough to leave zero.
    up = model.get_parameter("adapter.sites.image/0.knowledge_extractor.image.up.weight")
    assert up.grad is not None
    assert up.grad.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_backbone_stays_in_evaluation_mode_while_training(tiny: Tiny, pixels: Tensor, method: Any) -> None:
    model = inject(tiny(), MethodConfig(name=method))
    assert model.train() is model
    frozen = method != "full"
    assert model.training
    assert {module.training for module in model.backbone.modules()} == {not frozen}
    assert all(module.training for module in (model.adapter.modules() if model.adapter else []))
    assert torch.equal(model.encode_image(pixels), model.encode_image(pixels)) == frozen
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_saved_tensors_move_the_trained_model(
    tiny: Tiny, pixels: Tensor, tokens: Tensor, method: Any, train_a_little: TrainALittle
) -> None:
    trained = inject(tiny(), MethodConfig(name=method))
    train_a_little(trained)
    fresh = inject(tiny(), MethodConfig(name=method), seed=99)
    fresh.load_adapter_state(trained.adapter_state())
    assert same(fresh.adapter_state(), trained.adapter_state())
    assert torch.equal(fresh.encode_image(pixels), trained.encode_image(pixels))
    assert torch.equal(fresh.encode_text(tokens), trained.encode_text(tokens))


def test_loading_copies_and_does_not_share(tiny: Tiny) -> None:
    model = inject(tiny(), MethodConfig())
    state = {name: torch.ones_like(tensor) for name, tensor in model.adapter_state().items()}
    model.load_adapter_state(state)
    for tensor in state.values():
        tensor.zero_()
    assert all(parameter.all() for parameter in model.trainable().values())


NAME = "adapter.sites.image/0.knowledge_extractor.image.down.weight"


def without(state: dict[str, Tensor]) -> None:
    del state[NAME]


def with_another(state: dict[str, Tensor]) -> None:
    state["adapter.sites.image/7.surprise"] = torch.zeros(1)


def of_another_shape(state: dict[str, Tensor]) -> None:
    state[NAME] = torch.zeros(5, 12)


def of_another_dtype(state: dict[str, Tensor]) -> None:
    state[NAME] = state[NAME].double()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without, f"{NAME} is missing"),
        (with_another, "adapter.sites.image/7.surprise is unexpected"),
        (of_another_shape, f"{NAME} is [5, 12] float32, the model's is [64, 12] float32"),
        (of_another_dtype, f"{NAME} is [64, 12] float64, the model's is [64, 12] float32"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name_and_nothing_changes(
    tiny: Tiny, train_a_little: TrainALittle, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    other = inject(tiny(), MethodConfig())
    train_a_little(other)
    state = other.adapter_state()
    spoil(state)
    model = inject(tiny(), MethodConfig())
    before = copied(model)
    with pytest.raises(IncompatibleError) as raised:
        model.load_adapter_state(state)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert raised.value.why == said
    assert "1 tensor " in raised.value.what
    assert same(copied(model), before)


def test_many_differences_are_counted_and_three_are_named(tiny: Tiny) -> None:
    state = inject(tiny(depth=3), MethodConfig()).adapter_state()
    model = inject(tiny(depth=2), MethodConfig(mwa=MwaConfig(bias=False)))
    with pytest.raises(IncompatibleError) as raised:
        model.load_adapter_state(state)
    differing = len(state.keys() ^ model.adapter_state().keys())
    why = raised.value.why or ""
    assert f"{differing} tensors differ" in raised.value.what
    assert why.count(" is unexpected") == 3
    assert why.endswith(f"; and {differing - 3} more")


def test_on_the_meta_device_no_value_is_ever_made(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    fill = torch.nn.init.trunc_normal_

    def noting(tensor: torch.Tensor, **options: float) -> torch.Tensor:
        seen.add(tensor.device.type)
        return fill(tensor, **options)

    monkeypatch.setattr(torch.nn.init, "trunc_normal_", noting)
    model = inject(tiny(joint=True).to("meta"), MethodConfig(mwa=MwaConfig(preset="authors-code")))
    assert seen == {"meta"}
    assert all(parameter.is_meta for parameter in model.trainable().values())


def test_bitfit_trains_every_bias_and_nothing_else(tiny: Tiny) -> None:
    backbone = tiny()
    expected = {f"backbone.{name}" for name, _ in backbone.named_parameters() if name.endswith("bias")}
    model = inject(backbone, MethodConfig(name="bitfit"))
    assert set(model.trainable()) == expected
    assert model.adapter is None


@pytest.mark.parametrize("name", ["mwa", "bitfit"])
def test_heads_are_trained_too_where_asked_and_the_temperature_is_not(tiny: Tiny, name: str) -> None:
    backbone = tiny()
    model = inject(backbone, MethodConfig(name=name, train_head=True))
    assert {f"backbone.{head}" for head in backbone.head_parameter_names()} <= set(model.trainable())
    assert not backbone.logit_scale.requires_grad


@pytest.mark.parametrize("family", ["beit3", "vlmo", "clip"])
@pytest.mark.parametrize("name", ["mwa", "bitfit", "head", "full"])
def test_every_method_trains_in_bf16_with_frozen_weights_held_in_it(family: str, name: str, tiny_backbones) -> None:
    from mwactl.backbone.precision import autocast, hold_frozen
    from mwactl.bench.batch import synthetic_batch
    from mwactl.bench.contestant import build_backbone, known_family
    from mwactl.bench.setup import Setup

    backbone = build_backbone(Setup(tiny_backbones[family], device="cpu"))
    batch = synthetic_batch(backbone, known_family(backbone), size=3, captions=1, seed=0)
    model = inject(backbone, MethodConfig(name=name)).train()
    hold_frozen(backbone, "bf16")
    with autocast(torch.device("cpu"), "bf16"):
        rows = torch.cat([model.encode_image(batch.pixels), model.encode_text(batch.tokens[:, 0])])
    rows.float().square().sum().backward()
    trained = model.trainable().values()
    assert all(parameter.dtype == torch.float32 for parameter in trained)
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
