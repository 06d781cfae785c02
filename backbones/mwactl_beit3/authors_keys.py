"""The tensors of the MultiWay-Adapter authors' modules, by their names and by ours.

In an encoder layer of their program a Knowledge Extractor for each side hangs beside the FFN, and one Alignment
Enhancer for both on top. The names of the extractors are crossed: `adaptmlp_text` computes on pictures,
`adaptmlp_vision` on text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mwactl.errors import IncompatibleError

EXTRACTORS = {"adaptmlp_text": "image", "adaptmlp_vision": "text"}
"""Their extractors by the modality whose tokens pass through: not the one in the name."""
ENHANCER = "enhancemlp"
NORM = "adapter_layer_norm_before"
SCALE = "scale"

_KEY = re.compile(rf"beit3\.encoder\.layers\.(\d+)\.({'|'.join([*EXTRACTORS, ENHANCER])})\.(.+)")
_EXTRACTOR_PARTS = {"down_proj": "down", "up_proj": "up", NORM: "norm"}
_ENHANCER_PARTS = {"fc1": "fc1", "ffn_layernorm": "norm", "fc2": "fc2"}
_SHOWN = 3

#: How a checkpoint of their program is taken over.
ADD = "mwactl registry add --from-authors"

Layer = dict[tuple[str, str], Tensor]
"""The tensors of one layer by the module's name and the tensor's within it."""


def is_adapter_key(key: str) -> bool:
    """Whether a tensor belongs to one of the authors' modules."""
    return _KEY.fullmatch(key) is not None


def refuse_adapter(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse an authors' checkpoint where the weights of a backbone are wanted.

    Raises:
        IncompatibleError: The authors' modules are among the weights.
    """
    if (key := next(filter(is_adapter_key, state), None)) is not None:
        raise IncompatibleError(
            "this is no backbone alone but a checkpoint of the MultiWay-Adapter authors' program",
            where=str(path),
            why=f"it holds adapter modules: {key}",
            fix=f"{ADD} {path}",
        )


def layers_of(state: Mapping[str, Tensor], count: int) -> list[Layer]:
    """The modules' tensors, layer by layer; every layer has the same.

    Args:
        state: A whole checkpoint.
        count: How many layers the backbone has.

    Raises:
        ValueError: A tensor is missing, unknown, or of another shape than in the first layer.
    """
    layers: list[Layer] = [{} for _ in range(count)]
    for key, tensor in state.items():
        if (match := _KEY.fullmatch(key)) is None:
            continue
        index, module, name = match.groups()
        if name not in _names_in(module):
            raise ValueError(f"{key} is no tensor that their program writes")
        if int(index) >= count:
            raise ValueError(f"{key} is of a layer that the backbone's {count} do not have")
        layers[int(index)][module, name] = tensor
    first = _shapes(layers[0])
    for index, layer in enumerate(layers):
        here = _shapes(layer)
        if differ := sorted(key for key in first.keys() | here.keys() if first.get(key) != here.get(key)):
            raise ValueError(f"layer {index} does not hold what layer 0 holds: {_some(differ)}")
    optional = {SCALE, f"{NORM}.weight", f"{NORM}.bias"}
    needed = {(module, name) for module, _ in first for name in _names_in(module) - optional}
    if missing := sorted(needed - first.keys()):
        raise ValueError(f"it has no {_some(missing)}")
    return layers


def in_our_names(layers: list[Layer]) -> dict[str, Tensor]:
    """The tensors as `AdaptedModel.adapter_state` names and shapes them: their learned scale is [1], ours []."""
    state = {}
    for index, layer in enumerate(layers):
        for (module, name), tensor in layer.items():
            scale = name == SCALE and tensor.numel() == 1
            state[f"adapter.sites.layer/{index}.{_our_name(module, name)}"] = tensor.reshape(()) if scale else tensor
    return state


def _our_name(module: str, name: str) -> str:
    part, _, kind = name.partition(".")
    if module == ENHANCER:
        return f"alignment_enhancer.shared.{_ENHANCER_PARTS[part]}.{kind}"
    ours = SCALE if part == SCALE else f"{_EXTRACTOR_PARTS[part]}.{kind}"
    return f"knowledge_extractor.{EXTRACTORS[module]}.{ours}"


def _names_in(module: str) -> set[str]:
    parts = _ENHANCER_PARTS if module == ENHANCER else _EXTRACTOR_PARTS
    names = {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    return names if module == ENHANCER else names | {SCALE}


def _shapes(layer: Layer) -> dict[tuple[str, str], list[int]]:
    return {key: list(tensor.shape) for key, tensor in layer.items()}


def _some(keys: list[tuple[str, str]]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(map(".".join, keys[:_SHOWN])) + more
