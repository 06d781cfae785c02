"""Which BEiT-3 a set of weights is, by its shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from mwactl.backbone.spec import BackboneSpec
from mwactl_beit3.names import SIZES, config_of
from mwactl_beit3.sizes import Beit3Config

_LAYER = re.compile(r"beit3\.encoder\.layers\.(\d+)\.")
#: The sizes that leave a mark on the shapes: all but the number of heads.
_VISIBLE = ("width", "layers", "hidden", "image_size", "vocabulary", "text_positions", "patch")


def recognise(weights: Mapping[str, Tensor], spec: BackboneSpec | None) -> tuple[str, Beit3Config]:
    """The name and the sizes of the BEiT-3 whose weights these are.

    Args:
        weights: Under the official names.
        spec: The backbone that they should be of; None: any that has a short name.

    Raises:
        ValueError: They are of no such model; says which sizes they have.
    """
    found = _sizes_of(weights)
    candidates = SIZES if spec is None else {spec.name: config_of(spec)}
    for name, config in candidates.items():
        if all(getattr(config, size) == number for size, number in found.items()):
            return name, config
    if spec is None:
        raise ValueError("no BEiT-3 has its sizes: " + ", ".join(f"{size} {number}" for size, number in found.items()))
    wanted = candidates[spec.name]
    differ = [f"{size} {n}, not {getattr(wanted, size)}" for size, n in found.items() if getattr(wanted, size) != n]
    raise ValueError(f"it is no {spec.name}: {'; '.join(differ)}")


def _sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    def size(key: str, axis: int) -> int:
        if key not in weights:
            raise ValueError(f"it is no whole BEiT-3: it has no {key}")
        shape = weights[key].shape
        if len(shape) <= axis:
            raise ValueError(f"it is no BEiT-3: {key} is {list(shape)}")
        return shape[axis]

    rows = size("beit3.encoder.embed_positions.A.weight", 0)
    side = math.isqrt(max(rows - 3, 0))  # two rows are unused, and one is the class token's
    if side == 0 or side * side != rows - 3:
        raise ValueError(f"its {rows} picture positions are not 3 and a square number")
    patch = size("beit3.vision_embed.proj.weight", 3)
    sizes = (
        size("beit3.text_embed.weight", 1),
        1 + max((int(match[1]) for match in map(_LAYER.match, weights) if match), default=-1),
        size("beit3.encoder.layers.0.ffn.A.fc1.weight", 0),
        side * patch,
        size("beit3.text_embed.weight", 0),
        size("beit3.encoder.embed_positions.B.weight", 0),
        patch,
    )
    return dict(zip(_VISIBLE, sizes, strict=True))
