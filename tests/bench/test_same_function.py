"""The claim that the figures rest on: the variants compute the same."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mwactl.bench.contestant import build_contestant
from mwactl.bench.function import compare_functions
from mwactl.bench.measure import counting_flops
from mwactl.bench.setup import SAME_FUNCTION, UnavailableError
from mwactl.errors import VerificationError

FAMILIES = [
    pytest.param("beit3", marks=pytest.mark.skipif(find_spec("torchscale") is None, reason="needs torchscale 0.2.0")),
    "clip",
    "vlmo",
]


@pytest.fixture
def compare(worker_of, tmp_path):
    """compare(variants, setup): loss and gradients of each, beside the first one's."""

    def of(variants, setup, change=None):
        losses, files = {}, {}
        for variant in variants:
            worker = worker_of(variant, setup)
            if change is not None:
                change(variant, worker._stepper.parameters)
            files[variant] = tmp_path / f"{variant}.gradients"
            losses[variant] = worker.check(files[variant]).loss
        return [compare_functions(variant, variants[0], losses, files) for variant in variants[1:]]

    return of


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("group", SAME_FUNCTION, ids=["full", "mwa"])
def test_every_variant_of_a_group_has_the_loss_and_the_gradients_of_the_plain_one(compare, setup_of, family, group):
    differences = compare(group, setup_of(family))
    assert len(differences) == len(group) - 1
    assert all(difference.gradient < 1e-5 for difference in differences)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["knowledge_extractor", "alignment_enhancer"])
def test_one_module_with_other_values_is_found(compare, setup_of, family, part):
    def change(variant, parameters):
        if variant == "mwa":
            name = next(name for name in parameters if part in name and name.endswith("down.weight"))
            with torch.no_grad():
                parameters[name].mul_(1.01)

    with pytest.raises(VerificationError) as found:
        compare(("mwa-plain", "mwa"), setup_of(family), change)
    assert "nothing was timed" in found.value.what


def test_adapters_and_weights_are_away_from_their_neutral_values(worker_of, setup_of):
    """Else a missing module, norm or bias would change nothing."""
    worker = worker_of("mwa", setup_of("beit3"))
    for name, parameter in worker._contestant.module.named_parameters():
        if parameter.dim():
            assert parameter.std() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_text_tower_computes_its_padding_and_ours_does_not(worker_of, setup_of, batch_of, family):
    batch = batch_of(setup_of(family))
    short = batch.tokens[:, 0].clone()
    short[:, 6:] = batch.padding
    short[:, 5] = short.max()

    def flops(variant, tokens):
        encode = worker_of(variant, setup_of(family))._contestant.model.encode_text
        return counting_flops(lambda: encode(tokens))[1]

    assert flops("mwa-plain", short) > 1.5 * flops("mwa-plain", short[:, :6])
    assert flops("mwa", short) == flops("mwa", short[:, :6])


def test_a_tower_of_other_blocks_has_no_plain_form(setup_of, tiny_backbones, tmp_path):
    from mwactl.bench.contestant import build_model
    from mwactl.bench.plain_clip import make_plain

    model = build_model("full", setup_of("clip"))
    model.backbone.model.visual.transformer.resblocks[0].attn = torch.nn.Identity()
    with pytest.raises(UnavailableError, match="image tower"):
        make_plain(model, fused=False)


def test_an_adapter_of_other_options_has_no_plain_form():
    from mwactl.adapter import MultiWayAdapter
    from mwactl.bench.plain import plain_adapter
    from mwactl.config.recipe import MwaConfig

    with pytest.raises(UnavailableError, match="defaults"):
        plain_adapter(MultiWayAdapter([], MwaConfig(alpha=0.5)))
    assert plain_adapter(None) is None


def test_without_torchscale_the_plain_form_of_beit3_is_named_with_what_to_install(setup_of, monkeypatch):
    from mwactl.bench import plain_beit3

    monkeypatch.setattr(plain_beit3, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install --no-deps torchscale"):
        build_contestant("full", setup_of("beit3"), torch.device("cpu"))


@pytest.mark.skipif(find_spec("torchscale") is None, reason="needs torchscale 0.2.0")
def test_torchscale_leaves_no_stand_ins_behind(worker_of, setup_of):
    import sys

    worker_of("full", setup_of("beit3"))
    assert "fairscale" not in sys.modules
    assert "timm" not in sys.modules or hasattr(sys.modules["timm"], "__version__")


def test_frozen_weights_are_held_in_bf16_as_in_training_and_only_then(worker_of, setup_of, tmp_path):
    dtypes = {}
    for variant in ("mwa-plain", "mwa"):
        worker = worker_of(variant, setup_of("vlmo", precision="bf16"))
        worker.check(tmp_path / "gradients")
        assert {each.dtype for each in worker._contestant.module.parameters()} == {torch.float32}
        worker.warm_up()
        frozen = [each for each in worker._contestant.module.parameters() if not each.requires_grad and each.dim()]
        dtypes[variant] = {each.dtype for each in frozen}
        assert {each.dtype for each in worker._stepper.parameters.values()} == {torch.float32}
        assert len(worker.turn()) == 1
    assert dtypes == {"mwa-plain": {torch.float32}, "mwa": {torch.bfloat16}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_plain_attention_is_explicit_and_strong_attention_is_fused(worker_of, setup_of, family, tower):
    def has_fused_kernels(variant):
        worker = worker_of(variant, setup_of(family))
        model, batch = worker._contestant.model, worker._batch
        with FlopCounterMode(display=False) as counter:
            model.encode_image(batch.pixels) if tower == "image" else model.encode_text(batch.tokens[:, 0])
        return any("scaled_dot_product" in str(kernel) for kernel in counter.get_flop_counts()["Global"])

    assert not has_fused_kernels("mwa-plain")
    assert not has_fused_kernels("full")
    assert has_fused_kernels("mwa-strong")
