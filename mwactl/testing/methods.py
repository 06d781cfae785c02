"""What else is done with a model: a fold, graphs, LoRA beside its linear maps, compilation, sharding."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, fold, folded_structure
from mwactl.backbone.contract import Backbone, Site
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.export.graph import OPSET
from mwactl.export.towers import examples_of, trace_towers
from mwactl.progress import Silent
from mwactl.testing.subject import TOLERANCE, Refused, Subject, distance, same_bits
from mwactl.train.compiled import allow_a_graph_a_block


def folding(subject: Subject) -> Iterator[str]:
    """A merged model computes what the adapted one does, and its tensors are all of it."""
    if not any(_feed_forwards(subject, subject.backbone)):
        raise Refused("no block says what its FFN is: a merged model keeps every module beside it")
    adapted = subject.adapted()
    rows, padded = subject.embed(adapted), adapted.encode_padded_text(subject.tokens)
    merged = fold(adapted)
    of_merged = subject.embed(merged)
    for modality, found in of_merged.items():
        if (far := distance(found, rows[modality])) > TOLERANCE:
            yield f"after a fold `encode_{modality}` gives something else (by {far:.1e}): `feed_forward` is not the FFN"
    if distance(merged.encode_padded_text(subject.tokens), padded) > TOLERANCE:
        yield "after a fold `encode_padded_text` gives something else"
    empty = folded_structure(subject.plugin.build_without_weights(subject.spec), adapted.method)
    empty.load_complete_state({name: tensor.clone() for name, tensor in merged.complete_state().items()}, where="")
    for modality, found in subject.embed(empty).items():
        if not same_bits(found, of_merged[modality]):
            yield f"a merged model that is loaded gives another `encode_{modality}`"


def graphs(subject: Subject) -> Iterator[str]:
    """One graph a tower serves any number of pictures, and of captions of any length: shapes follow from shapes."""
    merged = fold(subject.adapted())
    backbone = merged.backbone
    try:
        data = backbone.portable()
    except IncompatibleError as error:
        raise Refused(str(error)) from error
    examples = examples_of(merged, backbone, data)
    with tempfile.TemporaryDirectory(prefix="mwactl-graphs-") as folder:
        try:
            trace_towers(
                merged, backbone, data, examples,
                dtype="fp32", opset=OPSET, folder=Path(folder) / "graphs", reporter=Silent(),
            )  # fmt: skip
        except (IncompatibleError, VerificationError) as error:
            yield str(error)


@torch.inference_mode()
def linear_maps(subject: Subject) -> Iterator[str]:
    """The linear maps that a block names are called as modules: LoRA takes their place."""
    backbone = subject.fresh()
    named = dict(_linears(subject, backbone))
    if not named:
        raise Refused("no block names its linear maps: `method: lora` has nothing to change")
    inside = {id(module) for module in backbone.modules()}
    called: set[int] = set()
    for linear in named.values():
        linear.register_forward_hook(lambda module, *_: called.add(id(module)))
    subject.embed(backbone)
    for where, linear in named.items():
        if id(linear) not in inside:
            yield f"{where} is no module of the backbone"
        elif id(linear) not in called:
            yield f"{where} is not called as a module: LoRA beside it would be left out"


def compilation(subject: Subject) -> Iterator[str]:
    """Compiled blocks compute the same, gradients too."""
    plain, compiled = subject.adapted(), subject.adapted()
    expected, own = _step(subject, plain)
    counters: Any = import_module("torch._dynamo.utils").counters
    dynamo: Any = import_module("torch._dynamo")
    dynamo.reset()
    graphs = counters["stats"]["unique_graphs"]
    try:
        allow_a_graph_a_block()
        for site in _ends(compiled.backbone.sites(subject.modalities())):
            site.compile("aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what dynamo has to say of the code that it reads
            found, gradients = _step(subject, compiled)
    except IncompatibleError as error:
        raise Refused(str(error)) from error
    finally:
        dynamo.reset()
    if counters["stats"]["unique_graphs"] == graphs:
        yield "`Site.compile` compiles nothing"
    if distance(found, expected) > TOLERANCE:
        yield "compiled blocks compute something else"
    if worst := [
        name for name, gradient in gradients.items() if (gradient - own[name]).norm() > 1e-3 * own[name].norm()
    ]:
        yield f"compiled blocks give other gradients: {worst[0]}"


@torch.inference_mode()
def sharding(subject: Subject) -> Iterator[str]:
    """A site's block is a module that is called and that holds the maps it names: its weights can be divided."""
    backbone = subject.fresh()
    sites = backbone.sites(subject.modalities())
    try:
        blocks = [(site, site.block) for site in sites]
    except IncompatibleError as error:
        raise Refused(str(error)) from error
    inside = {id(module) for module in backbone.modules()}
    called: set[int] = set()
    for _, block in blocks:
        block.register_forward_hook(lambda module, *_: called.add(id(module)))
    subject.embed(backbone)
    for site, block in blocks:
        if id(block) not in inside:
            yield f"`block` of {site.name} is no module of the backbone"
        elif id(block) not in called:
            yield f"`block` of {site.name} is not called as a module: its weights would never be gathered"
        held = {id(module) for module in block.modules()}
        if outside := [where for where, linear in _linears_of(site) if id(linear) not in held]:
            yield f"{outside[0]} is not in its `block`, which must hold every parameter of it"


def _ends(sites: Sequence[Site]) -> list[Site]:
    """The first and the last block of each tower: compiling all of them takes long and shows no more."""
    towers = {site.modalities: [other for other in sites if other.modalities == site.modalities] for site in sites}
    return [site for tower in towers.values() for site in {id(site): site for site in (tower[0], tower[-1])}.values()]


def _step(subject: Subject, model: AdaptedModel) -> tuple[Tensor, dict[str, Tensor]]:
    rows = torch.cat([model.encode_image(subject.pixels), model.encode_text(subject.tokens)])
    (rows * torch.randn(rows.shape, generator=torch.Generator().manual_seed(4))).sum().backward()  # type: ignore[no-untyped-call]
    return rows.detach(), {name: p.grad for name, p in model.trainable().items() if p.grad is not None}


def _feed_forwards(subject: Subject, backbone: Backbone) -> Iterator[bool]:
    for site in backbone.sites(subject.modalities()):
        yield from (site.feed_forward(modality) is not None for modality in site.modalities)


def _linears(subject: Subject, backbone: Backbone) -> Iterator[tuple[str, nn.Linear]]:
    for site in backbone.sites(subject.modalities()):
        yield from _linears_of(site)


def _linears_of(site: Site) -> Iterator[tuple[str, nn.Linear]]:
    for modality in site.modalities:
        for index, linear in enumerate(site.attention_linears(modality)):
            yield f"`attention_linears('{modality}')[{index}]` of {site.name}", linear
        if (ffn := site.feed_forward(modality)) is not None:
            yield f"`feed_forward('{modality}').fc1` of {site.name}", ffn.fc1
            yield f"`feed_forward('{modality}').fc2` of {site.name}", ffn.fc2
