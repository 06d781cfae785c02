"""What a backbone says of itself: how it is found, how it is built, its sizes, and names of its parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import nn

from mwactl.backbone import find_spec, plugins
from mwactl.errors import IncompatibleError
from mwactl.testing.subject import Refused, Subject


def found_by_name(subject: Subject) -> Iterator[str]:
    """Every verb takes a name, and finds everything by it."""
    spec, plugin = subject.spec, subject.plugin
    if plugins().get(plugin.family) is not plugin:
        yield f"the entry point is not named after the plugin's family, `{plugin.family}`"
    if spec.family != plugin.family:
        yield f"the spec's family is `{spec.family}`, the plugin's `{plugin.family}`"
    finder, found = find_spec(spec.name)
    if finder is not plugin or found != spec:
        yield f"the spec's own name, `{spec.name}`, finds another spec: {found}"
    if plugin.parse("a name of nobody's") is not None:
        yield "`parse` takes a name for its own that is not: give None"


def built_for_inference(subject: Subject) -> Iterator[str]:
    """In fp32 on the CPU, in evaluation mode, frozen."""
    backbone = subject.fresh()
    if backbone.spec != subject.spec:
        yield "`spec` is not the spec that it was built from"
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            yield f"`{name}` requires a gradient: end `__init__` with `self.eval().requires_grad_(False)`"
            break
    for name, tensor in backbone.state_dict().items():
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            yield f"`{name}` is {tensor.dtype} on {tensor.device}: build it in fp32 on the CPU"
            break
    training = [name or "the backbone" for name, module in backbone.named_modules() if module.training]
    if training:
        yield f"`{training[0]}` is in training mode: end `__init__` with `self.eval()`"


def sizes(subject: Subject) -> Iterator[str]:
    """Picture size, context length, embedding width, temperature."""
    backbone = subject.backbone
    for name in ("image_size", "context_length", "embedding_width"):
        value = getattr(backbone, name)
        numbers = value if name == "image_size" else (value,)
        count = 2 if name == "image_size" else 1
        if type(numbers) is not tuple or len(numbers) != count or any(type(n) is not int or n < 1 for n in numbers):
            yield f"`{name}` is {value!r}: it must be {'(h, w)' if count == 2 else 'a positive int'}"
    own = {id(parameter) for parameter in backbone.parameters()}
    scalars = {"logit_scale": backbone.logit_scale, "logit_bias": backbone.logit_bias}
    for name, scalar in scalars.items():
        if name == "logit_bias" and scalar is None:
            continue
        if not isinstance(scalar, nn.Parameter) or id(scalar) not in own or scalar.dim() != 0:
            yield f"`{name}` is no parameter of the backbone of shape []"


def parameter_names(subject: Subject) -> Iterator[str]:
    """The heads, and the freeze policy: names of parameters that there are."""
    backbone = subject.backbone
    own = {name for name, _ in backbone.named_parameters()}
    if absent := sorted(backbone.untrained_parameter_names() - own):
        yield f"`untrained_parameter_names` has `{absent[0]}`, which is no parameter of the backbone"
    try:
        heads = backbone.head_parameter_names()
    except IncompatibleError as error:
        raise Refused(str(error)) from error
    if not heads:
        yield "`head_parameter_names` is empty: name the projections, or raise IncompatibleError where there are none"
    if absent := sorted(heads - own):
        yield f"`head_parameter_names` has `{absent[0]}`, which is no parameter of the backbone"


def architecture(subject: Subject) -> Iterator[str]:
    """Facts that are part of the fingerprint: JSON, and the same each time."""
    facts = subject.backbone.architecture()
    try:
        text = json.dumps(facts, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"`architecture` is no JSON: {error}"
        return
    if not facts:
        yield "`architecture` is empty: say what changes the result and is no tensor (heads, epsilons, activation, …)"
    if json.dumps(subject.fresh().architecture(), sort_keys=True) != text:
        yield "`architecture` differs from one building to the next: it must not hold times, paths or random numbers"
