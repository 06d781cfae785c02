"""A backbone that an adapter has been folded into: one model for retrieval, not for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from mwactl.adapter.model import BackboneModel
from mwactl.backbone.contract import Backbone
from mwactl.errors import IncompatibleError

_NAMED_IN_ERRORS = 3


class MergedModel(BackboneModel):
    """A backbone with an adapter in its weights. Made by `fold`; always in evaluation mode, and frozen.

    Args:
        backbone: With the folded FFNs in it.
        branches: What could not be folded, by site: the backbone computes with these modules, this model owns them.
        kept: What could not be folded and why, one sentence each.
    """

    def __init__(self, backbone: Backbone, branches: nn.ModuleDict, kept: Sequence[str]) -> None:
        super().__init__(backbone)
        self.branches = branches
        self.kept = tuple(kept)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> MergedModel:
        """Evaluation mode, whatever is asked for: there is nothing here that could be trained."""
        super().train(False)
        return self

    def count_parameters(self) -> int:
        """How many numbers it computes with, what could not be folded included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def complete_state(self) -> dict[str, Tensor]:
        """Every parameter and every buffer by name, those too that torch would make anew: all of the model."""
        return {name: getattr(*places[0]).detach() for name, places in self._tensors()}

    def load_complete_state(self, state: Mapping[str, Tensor], *, where: str) -> None:
        """Make these tensors the model's own; nothing is copied, and none of its tensors may be left without values.

        Args:
            state: What `complete_state` gave, of a model of the same structure (which may be on the meta device).
            where: What is loaded, for the error.

        Raises:
            IncompatibleError: A tensor is missing, unexpected, or of another shape or dtype. Nothing was changed.
        """
        own = dict(self._tensors())
        problems = [f"{name} is missing" for name in own if name not in state]
        problems += [f"{name} is unexpected" for name in state if name not in own]
        for name in own.keys() & state.keys():
            mine, theirs = getattr(*own[name][0]), state[name]
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                problems.append(f"{name} is {_form(theirs)}, the model's is {_form(mine)}")
        problems += [f"{name} is made anew and has no place in a file" for name in self._loose_tensors_on_meta()]
        if problems:
            more = len(problems) - _NAMED_IN_ERRORS
            raise IncompatibleError(
                f"these tensors are not those of a merged {self.backbone.spec.name}",
                where=where,
                why="; ".join(sorted(problems)[:_NAMED_IN_ERRORS]) + (f"; and {more} more" if more > 0 else ""),
                fix="merge the adapter again with this version of mwactl: mwactl merge REF",
            )
        for name, places in own.items():
            parameter = nn.Parameter(state[name], requires_grad=False)  # one, whatever it is called by
            for module, leaf in places:
                if leaf in module._parameters:
                    module._parameters[leaf] = parameter
                else:
                    module._buffers[leaf] = state[name]

    def _tensors(self) -> Iterator[tuple[str, list[tuple[nn.Module, str]]]]:
        """Each parameter and buffer once, by its first name, with every module and attribute that has it."""
        found: dict[int, tuple[str, list[tuple[nn.Module, str]]]] = {}
        for prefix, module in self.named_modules():
            for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    _, places = found.setdefault(id(tensor), (f"{prefix}.{leaf}", []))
                    places.append((module, leaf))
        yield from found.values()

    def _loose_tensors_on_meta(self) -> Iterator[str]:
        """Tensors that modules keep as plain attributes, without values."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.is_meta:
                    yield f"{prefix}.{name}"


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
