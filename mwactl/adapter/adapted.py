"""A backbone with an adapter: inject, strip, freeze, and the tensors that belong to the adapter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mwactl.adapter.added import Adapter
from mwactl.adapter.lora import LoraAdapter
from mwactl.adapter.model import BackboneModel
from mwactl.adapter.mwa import MultiWayAdapter
from mwactl.backbone.contract import Backbone
from mwactl.config.recipe import MethodConfig
from mwactl.errors import IncompatibleError, UsageError

_NAMED_IN_ERRORS = 3
_IN_USE = "_adapted"
"""Set on a backbone between `inject` and `strip`."""


class AdaptedModel(BackboneModel):
    """A backbone and what a method trains of it or on it. Made by `inject`.

    `adapter` owns the modules that are added (None for methods that add none); the backbone's own parameters keep their
    names.
    """

    def __init__(self, backbone: Backbone, method: MethodConfig, adapter: Adapter | None) -> None:
        super().__init__(backbone)
        self.method = method
        self.adapter = adapter

    def train(self, mode: bool = True) -> AdaptedModel:
        """Training mode for what is trained: a frozen backbone stays in evaluation mode (no dropout, no drop path)."""
        super().train(mode)
        if self.method.name != "full":
            self.backbone.eval()
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # running statistics are no parameters: an adapter could not carry them
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapter's own parameters: all that is trained, and all that is saved."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def trainable_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.trainable().values())

    def adapter_state(self) -> dict[str, Tensor]:
        """The tensors of `trainable`, detached, on the CPU; names start with `adapter.` or `backbone.`."""
        return {name: parameter.detach().cpu().contiguous() for name, parameter in self.trainable().items()}

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors of an adapter: every name, every shape and every dtype, or nothing.

        Raises:
            IncompatibleError: A tensor is missing, unexpected, or of another shape or dtype.
        """
        own = self.trainable()
        problems = [f"{name} is missing" for name in own if name not in state]
        problems += [f"{name} is unexpected" for name in state if name not in own]
        for name in own.keys() & state.keys():
            mine, theirs = own[name], state[name]
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                problems.append(f"{name} is {_spelled(theirs)}, the model's is {_spelled(mine)}")
        if problems:
            more = len(problems) - _NAMED_IN_ERRORS
            raise IncompatibleError(
                f"the adapter does not fit {self.backbone.spec.name}: "
                f"{len(problems)} tensor{'s differ' if len(problems) > 1 else ' differs'}",
                why="; ".join(sorted(problems)[:_NAMED_IN_ERRORS]) + (f"; and {more} more" if more > 0 else ""),
                fix="use the backbone and the method options that the adapter was made with",
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


def inject(backbone: Backbone, method: MethodConfig, *, seed: int = 0) -> AdaptedModel:
    """Attach fresh modules to a frozen backbone, or choose what a baseline trains.

    With the preset `paper`, the injected model's embeddings are bit-for-bit the backbone's until it is trained. (Both
    without gradients: torch's attention takes another path, with other last bits, for tensors that need them.)

    Args:
        backbone: Is changed in place: its sites compute with the modules, its parameters are frozen.
        method: What is trained.
        seed: Of the modules' initial values; the global random state is left as it was.

    Raises:
        IncompatibleError: A tower has no transformer blocks, or none that the method can change. Nothing was touched.
        UsageError: The method needs a package that is not installed; or the backbone is part of an adapted model.
    """
    if _IN_USE in vars(backbone):  # whose modules would be replaced: it would train what nothing computes with
        raise UsageError(
            f"{backbone.spec.name} is part of another adapted model",
            why="a backbone computes with the modules of one",
            fix="give that one to strip(), or build the backbone again",
        )
    # Made on the CPU, so that a seed means the same values on every device; shapes alone need no values.
    device = next(backbone.parameters()).device
    with torch.random.fork_rng(devices=[]), torch.device("meta" if device.type == "meta" else "cpu"):
        torch.manual_seed(seed)
        adapter = _fresh_adapter(backbone, method)
    if adapter is not None:
        adapter.to(device=device)
        adapter.attach_to(backbone)
    model = AdaptedModel(backbone, method, adapter)
    _freeze(model)
    vars(backbone)[_IN_USE] = True
    return model.eval()


def _fresh_adapter(backbone: Backbone, method: MethodConfig) -> Adapter | None:
    """The modules that a method adds, not yet attached."""
    if method.name == "mwa":
        return MultiWayAdapter(backbone.sites(method.mwa.modalities), method.mwa)
    return LoraAdapter(backbone, method.lora) if method.name == "lora" else None


def strip(model: AdaptedModel) -> Backbone:
    """Take the modules off again and give back the backbone as it was.

    Its parameters stay frozen; what was trained of its own (heads, temperature) keeps its values.
    """
    if model.adapter is not None:
        model.adapter.detach_from(model.backbone)
        model.adapter = None
    vars(model.backbone).pop(_IN_USE, None)
    return model.backbone


def _freeze(model: AdaptedModel) -> None:
    """Require gradients for exactly what the method trains."""
    method, backbone = model.method, model.backbone
    policy = backbone.untrained_parameter_names()
    if method.name == "head" or method.train_head:
        policy = policy | backbone.head_parameter_names()
    temperature = {id(parameter) for parameter in (backbone.logit_scale, backbone.logit_bias) if parameter is not None}
    train_temperature = method.train_logit_scale
    if train_temperature is None:
        train_temperature = method.name in ("head", "full")
    for name, parameter in backbone.named_parameters():
        wanted = train_temperature if id(parameter) in temperature else name in policy or _is_trained(name, method)
        parameter.requires_grad_(wanted or name in policy)


def _is_trained(name: str, method: MethodConfig) -> bool:
    """Whether the method trains this parameter of the backbone, whatever the freeze policy says."""
    if method.name == "bitfit":  # Ben Zaken et al., 2021, arXiv:2106.10199: every bias, also those of norms
        return name.rpartition(".")[2].endswith("bias")
    return method.name == "full"


def _spelled(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
