"""Every check of the contract finds a backbone that was broken on purpose."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone, FeedForward, Site
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.spec import WeightsUsed
from mwactl.errors import IncompatibleError, NotFoundError, UsageError
from mwactl.testing import CHECKS, check_backbone

Patch = Callable[[Any, str, Any], None]


class Broken:
    """What a sabotage changes: the plugin's own modules and classes."""

    def __init__(self, patch: Patch) -> None:
        package, backbone, model = (
            importlib.import_module(f"tiny_towers{part}") for part in ("", ".backbone", ".model")
        )
        self.plugin, self.module, self.backbone = package.plugin, backbone, backbone.MyBackbone
        self.block, self.site = model.Block, backbone.TowerSite
        self._patch = patch

    def set(self, where: Any, **values: Any) -> None:
        for name, value in values.items():
            self._patch(where, name, value)

    def after(self, where: Any, name: str, change: Callable[..., Any]) -> None:
        """Let a method give what `change(self, its result, *arguments)` makes of it."""
        method = getattr(where, name)
        self._patch(where, name, lambda this, *given, **named: change(this, method(this, *given, **named), *given))


def after_building(change: Callable[[Any], Any]) -> Callable[[Broken], None]:
    return lambda it: it.after(it.backbone, "__init__", lambda this, *_: change(this) and None)


def gives(where: str, name: str, change: Callable[..., Any]) -> Callable[[Broken], None]:
    return lambda it: it.after(getattr(it, where), name, change)


def another_family(it: Broken) -> None:
    it.set(it.plugin, family="others")


def takes_every_name(it: Broken) -> None:
    it.set(it.plugin, parse=lambda name: it.plugin.specs()[0])


def never_the_same(it: Broken) -> None:
    seeds = itertools.count()
    it.set(it.module, initial_value=lambda name, shape: torch.rand(
        shape, generator=torch.Generator().manual_seed(next(seeds))))  # fmt: skip


def one_seed(it: Broken) -> None:
    draw = it.module.initial_value

    def always(name: str, shape: torch.Size) -> Tensor:
        torch.manual_seed(0)
        return draw(name, shape)

    it.set(it.module, initial_value=always)


def on_the_cpu(it: Broken) -> None:
    it.set(it.module, build_without_weights=lambda spec: it.backbone(spec, WeightsUsed("none")))


def hidden_gain(it: Broken) -> None:
    gains = itertools.count(1)
    it.after(it.backbone, "__init__", lambda this, *_: setattr(this, "gain", next(gains)))
    it.after(it.backbone, "encode_image", lambda this, rows, *_: rows + this.gain)


def ends_with_the_length(this: Any, ids: Tensor, captions: list[str]) -> Tensor:
    for row, caption in zip(ids, captions, strict=True):
        if len(caption) > len(row):
            row[-1] = len(caption) % 256
    return ids


def looks_at_batch(this: Any, rows: Tensor, *_: Any) -> Tensor:
    return rows - rows.mean(dim=0)


def one_by_one(this: Any, pixels: Tensor) -> Tensor:
    return torch.cat([this.towers["image"](this.patches(picture[None]).flatten(2).mT) for picture in pixels])


def unused_map(it: Broken) -> None:
    it.after(it.block, "__init__", lambda this, *_: setattr(this, "unused", nn.Linear(2, 2)))
    it.set(it.block, attention_linears=lambda this, _: [this.unused])


def other_tower_too(it: Broken) -> None:
    it.after(it.backbone, "__init__", lambda this, *_: setattr(this, "factor", 1.0))
    it.after(it.backbone, "encode_text", lambda this, rows, *_: rows * this.factor)
    it.after(it.backbone, "sites", lambda this, sites, *_: [setattr(site, "owner", this) or site for site in sites])
    it.after(it.site, "attach", lambda this, *_: setattr(this.owner, "factor", 1.1))


def registers(it: Broken) -> None:
    it.after(it.site, "attach", lambda this, _, extractors, enhancers: this._layer.add_module(
        "extractor", next(iter(extractors.values()))))  # fmt: skip


def block_computes(adapted: Callable[..., Tensor]) -> Callable[[Broken], None]:
    """A block that computes with its modules in another way: `adapted(extractor, enhancer, x1, x2)`."""

    def compute(this: Any, modality: str, x1: Tensor, x2: Tensor) -> Tensor:
        extractor, enhancer = (of.get(modality) for of in (this.extractors, this.enhancers))
        return x2 if extractor is None or enhancer is None else adapted(extractor, enhancer, x1, x2)

    return lambda it: it.set(it.block, adapted=compute)


def unmasked(this: Any, tokens: Tensor) -> Tensor:
    return this.towers["text"](this.bytes(tokens))


def detached(branch: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        added: Tensor = branch(x)
    return added


SABOTAGES: list[tuple[str, Callable[[Broken], None], str]] = [
    ("found by name", another_family, "not named after the plugin's family"),
    ("found by name", takes_every_name, "takes a name for its own"),
    ("built for inference", after_building(lambda this: this.requires_grad_(True)), "requires a gradient"),
    ("built for inference", after_building(lambda this: this.train()), "in training mode"),
    ("built for inference", lambda it: it.after(it.module, "build", lambda spec, it_, *_: it_.half()), "torch.float16"),
    ("sizes", lambda it: it.set(it.backbone, context_length="64"), "`context_length` is '64'"),
    ("sizes", lambda it: it.set(it.backbone, logit_scale=nn.Parameter(torch.zeros(()))), "no parameter of the"),
    ("parameter names", gives("backbone", "head_parameter_names", lambda *_: {"head"}), "`head`, which is no"),
    ("parameter names", gives("backbone", "untrained_parameter_names", lambda *_: {"x"}), "`x`, which is no parameter"),
    ("architecture", gives("backbone", "architecture", lambda *_: {"dtype": torch.half}), "no JSON"),
    ("architecture", gives("backbone", "architecture", lambda *_: {"at": torch.rand(()).item()}), "differs from one"),
    ("without weights", on_the_cpu, "has values"),
    ("same weights again", never_the_same, "built again"),
    ("same weights again", one_seed, "another seed gives the same"),
    ("state dict", hidden_gain, "values that are not in the state dict"),
    ("tokenizer", gives("backbone", "tokenize", lambda this, ids, *_: ids.int()), "must be [5, 64] torch.int64"),
    ("tokenizer", gives("backbone", "tokenize", lambda this, ids, *_: ids * 0 + 1), "different captions the same ids"),
    ("tokenizer", gives("backbone", "tokenize", ends_with_the_length), "does not cut captions"),
    ("tokenizer", gives("backbone", "tokenize", lambda this, ids, of: ids + len(of)), "other ids alone"),
    ("transform", gives("backbone", "image_transform", lambda this, _, *__: lambda p: p), "gives Image"),
    ("transform", gives("backbone", "image_transform", lambda _, f, *__: lambda p: f(p) + torch.rand(())), "is random"),
    ("portable", gives("backbone", "portable", lambda this, data: data.text.update(begin=9) or data), "other ids"),
    ("portable", gives("backbone", "portable", lambda this, data: data.image.update(mean=[0.4] * 3) or data), "pixels"),
    ("embeddings", gives("backbone", "encode_image", lambda this, x, *_: nn.functional.normalize(x)), "of length one"),
    ("embeddings", gives("backbone", "encode_text", lambda this, x, *_: x.double()), "in torch.float64"),
    ("embeddings", gives("backbone", "encode_text", lambda this, x, *_: x / 0), "NaN or infinite"),
    ("determinism", gives("backbone", "encode_text", lambda this, x, *_: nn.functional.dropout(x)), "the second time"),
    ("batch independence", gives("backbone", "encode_image", looks_at_batch), "a batch of one"),
    ("padding", lambda it: it.set(it.backbone, encode_padded_text=unmasked), "something else at length"),
    ("half precision", gives("backbone", "encode_image", lambda this, x, *_: (x + 500) - 500), "far from fp32"),
    ("sites", gives("site", "__init__", lambda this, *_: setattr(this, "name", this.name.replace("/", "."))), "a dot"),
    ("sites", gives("site", "__init__", lambda this, *_: setattr(this, "name", "image/0")), "the same name"),
    ("sites", gives("backbone", "sites", lambda this, sites, *_: sites[::-1]), "must count up from 0"),
    ("stable sites", lambda it: it.after(it.backbone, "sites", lambda this, *_: [
        it.site(depth, block) for tower in this.towers.values() for depth, block in enumerate(tower.blocks)]),
     "`sites(['image'])` is not"),
    ("attaching", registers, "attaching changes the backbone's parameters"),
    ("untrained modules", block_computes(lambda ke, ae, x1, x2: x2 * 1.00001), "though they add exactly nothing"),
    ("computation", block_computes(lambda ke, ae, x1, x2: x2 + ke(x1)), "calls no Alignment Enhancer"),
    ("computation", block_computes(lambda ke, ae, x1, x2: x2 + ke(x1) + ae(x2)), "does not read what its Knowledge"),
    ("computation", block_computes(lambda ke, ae, x1, x2: ke(x1) * 0 + x2 + ae(x2 + ke(x1)) * 0), "does not reach"),
    ("modalities apart", other_tower_too, "modules for image alone change `encode_text`"),
    ("gradients", block_computes(lambda ke, ae, x1, x2: x2 + detached(ke, x1) + ae(x2)), "get no gradient"),
    ("detaching", lambda it: it.set(it.site, detach=lambda this: None), "what it gave before attaching"),
    ("folding", gives("block", "feed_forward", lambda this, ffn, *_: FeedForward(
        ffn.norm, ffn.fc1, nn.functional.relu, None, ffn.fc2, None)), "after a fold"),
    ("graphs", lambda it: it.set(it.backbone, encode_image=one_by_one), "the image tower"),
    ("linear maps", gives("block", "attention_linears", lambda *_: [nn.Linear(2, 2)]), "no module of the backbone"),
    ("linear maps", unused_map, "is not called as a module"),
    ("compilation", lambda it: it.set(it.site, compile=lambda this, backend: None), "compiles nothing"),
    ("sharding", lambda it: it.set(it.site, block=property(lambda this: nn.Linear(2, 2))), "no module of the backbone"),
    ("sharding", lambda it: it.set(it.site, block=property(lambda this: this._layer.ffn)), "not in its `block`"),
]  # fmt: skip


@pytest.fixture
def broken(own_plugin: str, monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(lambda where, name, value: monkeypatch.setattr(where, name, value, raising=False))


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("check", "sabotage", "sentence"), SABOTAGES, ids=name_of)
def test_a_broken_backbone_is_found_by_the_check_of_what_is_broken(
    check: str, sabotage: Callable[[Broken], None], sentence: str, broken: Broken, own_plugin: str
) -> None:
    sabotage(broken)
    with pytest.raises(AssertionError, match=re.escape(sentence)) as found:
        check_backbone(own_plugin, weights="random", only=[check])
    assert f"\n  - {check}: " in str(found.value)
    assert "raised" not in str(found.value)


def test_every_check_has_a_backbone_that_it_finds() -> None:
    assert {check for check, *_ in SABOTAGES} == CHECKS.keys()


def test_all_that_is_wrong_is_said_at_once_and_what_raises_stops_no_other_check(
    broken: Broken, own_plugin: str
) -> None:
    def unfinished(this: Any, augmentation: object = None) -> None:
        raise KeyError("mean")

    broken.set(broken.backbone, context_length="64", image_transform=unfinished)
    broken.set(broken.site, detach=lambda this: None)
    with pytest.raises(AssertionError) as found:
        check_backbone(own_plugin, weights="random", only=["detaching", "sizes", "transform", "determinism"])
    first, *problems = str(found.value).splitlines()
    assert first == "tiny-towers does not keep the contract of a backbone in 4 points:"
    checks = [problem.split(":")[0] for problem in problems]
    assert checks == ["  - sizes", "  - transform", "  - detaching", "  - detaching"]
    assert problems[1].startswith("  - transform: raised KeyError: 'mean' (test_check.py:")


def test_what_the_contract_lets_a_backbone_leave_out_is_answered_with_its_reason(
    broken: Broken, own_plugin: str
) -> None:
    broken.set(broken.backbone, portable=Backbone.portable)
    broken.set(
        broken.site,
        block=Site.block,
        compile=Site.compile,
        feed_forward=lambda *_: None,
        attention_linears=lambda *_: [],
    )
    left_out = ["portable", "folding", "graphs", "linear maps", "compilation", "sharding"]
    refused = check_backbone(own_plugin, weights="random", only=["sizes", *left_out])
    assert sorted(refused) == sorted(left_out)
    assert "cannot be used without torch" in refused["portable"]
    assert "image/0 cannot be compiled" in refused["compilation"]
    assert "image/0 cannot be sharded" in refused["sharding"]


def test_a_tower_without_sites_leaves_the_other_to_be_checked(broken: Broken, own_plugin: str) -> None:
    def text_alone(this: Any, sites: list[Site], modalities: tuple[str, ...] = ("image", "text")) -> list[Site]:
        if "image" in modalities:
            raise IncompatibleError("the image tower has no transformer blocks")
        return sites

    broken.after(broken.backbone, "sites", text_alone)
    of_sites = ["sites", "stable sites", "attaching", "untrained modules", "computation", "gradients", "folding"]
    assert check_backbone(own_plugin, weights="random", only=of_sites) == {}
    broken.set(broken.site, attach=lambda *_: None)
    with pytest.raises(AssertionError, match=r"text/0 \(text\) calls no Knowledge Extractor"):
        check_backbone(own_plugin, weights="random", only=["computation"])


def test_heads_that_the_weights_lack_are_trained_and_are_no_fault(broken: Broken, own_plugin: str) -> None:
    broken.set(broken.backbone, untrained_parameter_names=broken.backbone.head_parameter_names)
    checks = ["parameter names", "untrained modules", "modalities apart", "gradients", "detaching", "folding"]
    assert check_backbone(own_plugin, weights="random", only=checks) == {}


def test_a_backbone_that_is_built_is_checked_and_left_as_it_is(own_plugin: str) -> None:
    plugin, spec = find_spec(own_plugin)
    backbone = plugin.build(spec, WeightsRequest("random", seed=5))
    before = fingerprint(backbone)
    assert check_backbone(backbone, only=["same weights again", "state dict", "detaching", "folding"]) == {}
    assert fingerprint(backbone) == before
    backbone.logit_scale.data += 1
    with pytest.raises(AssertionError, match="built again"):
        check_backbone(backbone, only=["same weights again"])


def test_a_backbone_whose_plugin_is_not_installed_cannot_be_checked(own_plugin: str) -> None:
    plugin, spec = find_spec(own_plugin)
    backbone = plugin.build(spec, WeightsRequest("random"))
    backbone.spec = replace(spec, family="others")
    with pytest.raises(NotFoundError, match="no installed package provides the backbone family `others`"):
        check_backbone(backbone)


def test_a_backbone_that_cannot_be_built_is_an_error_of_its_own(own_plugin: str) -> None:
    with pytest.raises(NotFoundError, match="tiny-towers needs weights"):
        check_backbone(own_plugin)


def test_a_check_that_there_is_not_is_a_mistake(own_plugin: str) -> None:
    with pytest.raises(UsageError, match="no check called 'paddings'"):
        check_backbone(own_plugin, weights="random", only=["paddings"])
