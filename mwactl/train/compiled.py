"""Blocks by `torch.compile`: elementwise work fused into few kernels. An option, since it costs minutes at first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import Site
from mwactl.backbone.towers import available_sites
from mwactl.errors import MwactlError


def compile_blocks(model: AdaptedModel, *, backend: str = "inductor") -> None:
    """Compile the blocks of the trained towers, with the modules attached to them. Nothing is compiled before its use.

    Dropout draws what it draws in a block that is not compiled, so both compute the same step.

    Raises:
        IncompatibleError: The backbone's blocks cannot be compiled.
    """
    allow_a_graph_a_block()
    inductor: Any = import_module("torch._inductor.config")
    inductor.fallback_random = True
    for site in _trained_sites(model):
        site.compile(backend)


def _trained_sites(model: AdaptedModel) -> list[Site]:
    """Those of the towers that MultiWay-Adapter chooses; with other methods of every tower that has blocks."""
    method = model.method
    return model.backbone.sites(method.mwa.modalities) if method.name == "mwa" else available_sites(model.backbone)


def allow_a_graph_a_block() -> None:
    """Let blocks, which share their code, each have graphs of their own: several, for training, evaluation, lengths.

    A block beyond the limit would be computed without compilation, and nobody told.
    """
    config: Any = import_module("torch._dynamo").config  # takes a second, which only those who compile should wait
    for name, value in (("recompile_limit", 256), ("cache_size_limit", 256), ("fail_on_recompile_limit_hit", True)):
        if hasattr(config, name):
            setattr(config, name, value)


@contextmanager
def naming_compiler_errors() -> Iterator[None]:
    """Turn what the compiler raises, from within any step, into one of our errors.

    Raises:
        MwactlError: There is no working C++ compiler or Triton, or a block is beyond what they can compile.
    """
    exceptions: Any = import_module("torch._dynamo.exc")
    try:
        yield
    except exceptions.TorchDynamoException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise MwactlError(
            "the blocks cannot be compiled",
            why=" ".join([f"{type(error).__name__}:", *lines[:2]])[:300],
            fix="train.compile=false",
        ) from error
