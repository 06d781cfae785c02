"""A frozen backbone that no process holds whole: the weights of its blocks are divided among them (torch's FSDP2).

A block's weights are gathered when it computes, forward or backward, and let go when it has. What lies outside the
blocks (embeddings, last norms, projections) and everything that is trained stays whole in each process, so the trained
gradients are exchanged as ever.

All processes must call the blocks equally often and in the same order: each waits for the others' parts.

Shape notation: n numbers of a process's part of a block.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from mwactl.backbone.contract import Backbone
from mwactl.backbone.towers import available_sites
from mwactl.errors import UsageError
from mwactl.train.distributed import Processes

_ENTRANCES = ("encode_image", "encode_text", "encode_padded_text")


def shard_blocks(backbone: Backbone, processes: Processes, device: torch.device) -> None:
    """Keep this process's part of each block's frozen weights, on the device; the rest stays where it is.

    The sites cannot be asked for afterwards: torch gives the blocks other classes.

    Args:
        backbone: With its modules attached, in the precision it computes in; the same in every process.
        processes: At least two.
        device: Where it will compute; it must have room for one block at a time.

    Raises:
        IncompatibleError: The backbone has no blocks, or its plugin does not say which modules they are.
        UsageError: This torch is too old.
    """
    if not hasattr(FSDPModule, "set_custom_all_gather"):
        raise UsageError(
            f"train.shard_backbone needs a newer torch than {torch.__version__}", fix="pip install --upgrade torch"
        )
    # FSDP's warning concerns views that are changed in place; `Site.block` says that none is.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes.count,))
    whole = {parameter for parameter in backbone.parameters() if parameter.requires_grad}
    blocks = list({id(site.block): site.block for site in available_sites(backbone)}.values())
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    # The backbone itself divides nothing: it lets the next block's weights come while one computes.
    inside = {parameter for block in blocks for parameter in block.parameters()}
    fully_shard(backbone, mesh=mesh, ignored_params=whole | (set(backbone.parameters()) - inside))
    for entrance in _ENTRANCES:
        register_fsdp_forward_method(backbone, entrance)
    for block in blocks:
        assert isinstance(block, FSDPModule)
        block.set_custom_all_gather(_Gathering(processes))  # type: ignore[arg-type]
        # The tensors that weights are gathered into are made at their first use. That must not be a validation: what
        # inference mode has made, no training can write to.
        block.unshard()
        block.reshard()


class _Gathering:
    """How FSDP exchanges the parts of a block: as all else is exchanged, so that a lost process is named as one."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for one exchange."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> None:
        """Every process's part, [n] each, one after the other into [processes * n].

        Raises:
            PeerLostError: A process is gone.
        """
        self._processes.gather_flat(output_tensor, input_tensor)
