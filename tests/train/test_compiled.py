from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject, strip
from mwactl.backbone.contract import Site, unit_rows
from mwactl.bench.batch import synthetic_batch
from mwactl.bench.contestant import build_backbone, known_family
from mwactl.bench.setup import Setup
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError, MwactlError
from mwactl.train import contrastive_loss
from mwactl.train.compiled import compile_blocks, naming_compiler_errors

#: Dynamo looks at `.grad` of whatever it traces, and torch warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def model_of(name: str, **options) -> AdaptedModel:
    backbone = build_backbone(Setup(name, device="cpu"))
    return inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=8, alignment_enhancer=8, **options)))


def step(model: AdaptedModel, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a batch, with captions of lengths of its own; the same draws each time."""
    backbone = model.backbone
    batch = synthetic_batch(backbone, known_family(backbone), size=count, captions=1, seed=count)
    model.train()
    model.zero_grad()
    torch.manual_seed(5)
    image, text = model.encode_image(batch.pixels), model.encode_text(batch.tokens[:, 0])
    ids = torch.arange(count)
    loss = contrastive_loss(unit_rows(image), unit_rows(text), torch.tensor(10.0), ids, ids)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("family", ["beit3", "vlmo", "clip"])
def test_compiled_blocks_take_the_same_step_also_with_dropout_and_other_lengths(family, tiny_backbones, train_a_little):
    plain, compiled = (model_of(tiny_backbones[family], dropout=0.3) for _ in range(2))
    for model in (plain, compiled):
        train_a_little(model)
    names = list(compiled.state_dict())
    compile_blocks(compiled, backend="aot_eager")
    for count in (4, 2, 3):
        (loss, gradients), (other_loss, other_gradients) = step(plain, count), step(compiled, count)
        torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=1e-7)
        assert other_gradients.keys() == gradients.keys() and gradients
        for name, gradient in gradients.items():
            assert (other_gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(compiled.state_dict()) == names


def test_dropout_matters_to_this_comparison(tiny_backbones, train_a_little):
    plain, other = model_of(tiny_backbones["beit3"]), model_of(tiny_backbones["beit3"], dropout=0.3)
    for model in (plain, other):
        train_a_little(model)
    assert abs(step(plain, 4)[0] - step(other, 4)[0]) > 1e-4


def test_all_blocks_are_compiled_but_those_of_the_tower_that_mwa_leaves_alone(tiny_backbones, monkeypatch):
    backbone = build_backbone(Setup(tiny_backbones["clip"], device="cpu"))
    compiled: list[str] = []
    monkeypatch.setattr(type(backbone.sites()[0]), "compile", lambda site, _: compiled.append(site.modalities[0]))
    for name, towers in (("mwa", {"image"}), ("bitfit", {"image", "text"})):
        method = MethodConfig(name=name, mwa=MwaConfig(modalities=("image",)))
        compile_blocks(model := inject(backbone, method))
        strip(model)
        assert set(compiled) == towers
        compiled.clear()

    sites = backbone.sites

    def text_alone(modalities=("image", "text")):
        if "image" in modalities:
            raise IncompatibleError("the image tower has no transformer blocks")
        return sites(modalities)

    monkeypatch.setattr(backbone, "sites", text_alone)
    compile_blocks(inject(backbone, MethodConfig(name="bitfit")))
    assert set(compiled) == {"text"}


def test_what_the_compiler_cannot_do_is_named_with_the_way_out(tiny_backbones):
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler found\nmore")

    model = model_of(tiny_backbones["beit3"])
    compile_blocks(model, backend=broken)
    with pytest.raises(MwactlError, match="cannot be compiled") as raised, naming_compiler_errors():
        step(model, 2)
    assert "no C++ compiler" in raised.value.why
    assert raised.value.fix == "train.compile=false"


def test_a_plugin_without_compilable_blocks_is_refused():
    class Bare(Site):
        def attach(self, extractors, enhancers): ...

        def detach(self): ...

    with pytest.raises(IncompatibleError, match="layer/0 cannot be compiled"):
        Bare("layer/0", depth=0, width=4, eps=1e-5, modalities=("image",)).compile("inductor")
