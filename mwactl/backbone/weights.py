"""The weights that a request asks for: random values, a folder's own, a file's, or those of a tag."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mwactl.backbone.checkpoint import CONTAINERS, read_checkpoint
from mwactl.backbone.spec import RANDOM, BackboneSpec, WeightsRequest, WeightsUsed
from mwactl.backbone.store import find_weights


def resolve_weights(
    spec: BackboneSpec, request: WeightsRequest, *, containers: Sequence[str] = CONTAINERS
) -> tuple[WeightsUsed, dict[str, Tensor]]:
    """Which weights they are, and the tensors by name; random ones have no path and no tensors, the plugin draws them.

    Args:
        spec: The backbone.
        request: What is asked for.
        containers: As of `read_checkpoint`.

    Raises:
        NotFoundError: They are not on this machine; `fix` says how to get them.
        VerificationError: The file is damaged, or not what it should be.
    """
    if request.source == RANDOM:
        return WeightsUsed(RANDOM, seed=request.seed), {}
    path, source = find_weights(spec, request.source, download=request.download, reporter=request.reporter)
    checkpoint = read_checkpoint(path, containers=containers)
    return WeightsUsed(source, path=path.resolve(), file_sha256=checkpoint.sha256), checkpoint.state
