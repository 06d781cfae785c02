"""From what a user types to what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mwactl.backbone import find_spec
from mwactl.backbone.precision import choose_device, choose_precision
from mwactl.bench.batch import Batch, batch_of_data, synthetic_batch
from mwactl.bench.family import Family, family_of
from mwactl.bench.machine import available_memory
from mwactl.bench.setup import FULL, FULL_LEAN, VARIANTS, Setup
from mwactl.data import Catalogue
from mwactl.errors import ResourceError, UsageError

#: What Python and torch take before there is a model.
_PROCESS_BYTES = 300_000_000


def choose_variants(names: Sequence[str]) -> list[str]:
    """The variants of these names; none: all.

    Raises:
        UsageError: There is no such variant.
    """
    for name in names:
        if name not in VARIANTS:
            raise UsageError(f"--variants {name}: unknown", fix=f"--variants {','.join(VARIANTS)}")
    return [variant for variant in VARIANTS if not names or variant in names]


def timed_precision(name: str, device: str) -> Literal["fp32", "bf16"]:
    """In which precision the steps are timed; `auto`: bf16 on a GPU, fp32 on a CPU.

    Raises:
        UsageError: It is neither fp32 nor bf16, or there is no such device.
    """
    precision = choose_precision(name, choose_device(device))
    if precision == "fp16":
        raise UsageError("fp16 is not compared", fix="--precision bf16, or --precision fp32")
    return precision


def check_memory(setup: Setup, variants: Sequence[str], parameters: int, available: int | None) -> None:
    """Refuse what this machine's memory cannot hold, before the system ends a process for it.

    Args:
        setup: What is compared.
        variants: Which each have their own weights, and where everything is trained AdamW's two moments.
        parameters: Numbers of the backbone.
        available: Bytes; None: unknown.

    Raises:
        ResourceError: It is not enough, whatever the batch.
    """
    if available is None or choose_device(setup.device).type != "cpu":
        return
    copies = [3 if variant in (FULL, FULL_LEAN) else 1 for variant in variants]
    gradients = 1 if 3 in copies else 0  # of one at a time
    need = 4 * parameters * (sum(copies) + gradients) + _PROCESS_BYTES * len(variants)
    if need > available:
        raise ResourceError(
            f"{len(variants)} variants of {setup.backbone} at once need at least {need / 1e9:.1f} GB",
            why=f"{available / 1e9:.1f} GB are free",
            fix="fewer --variants, such as --variants mwa-plain,mwa",
        )


def prepare_batch(setup: Setup, variants: Sequence[str], data: str | None, split: str) -> Batch:
    """The batch of a comparison: of a data set, or synthetic with real caption lengths.

    Raises:
        ResourceError: The variants do not fit into this machine's memory together.
        NotFoundError: No such backbone or data set, or the tokenizer that real captions need is not here.
        UsageError: The family's ids are not known, so that captions must be real; or there are too few pictures.
    """
    if setup.batch_size < 2:
        raise UsageError("--batch-size 1 has no negatives", fix="--batch-size 2")
    plugin, spec = find_spec(setup.backbone)
    backbone = plugin.build_without_weights(spec)
    check_memory(setup, variants, backbone.count_parameters(), available_memory())
    family = family_of(backbone)
    size, captions = setup.batch_size, setup.captions_per_image
    if data is not None:
        split_of_data = Catalogue.default().get(data).load(split)
        padding = Family(0, lambda _: 0, None) if family is None else family
        return batch_of_data(backbone, padding, split_of_data, size=size, captions=captions)
    if family is None:
        raise UsageError(
            f"captions for {setup.backbone} cannot be made up",
            why=f"the ids of the family `{spec.family}` are not known",
            fix="--data NAME  (mwactl data list)",
        )
    return synthetic_batch(backbone, family, size=size, captions=captions, seed=setup.seed)
