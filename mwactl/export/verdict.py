"""Whether what was exported may be given away: near enough to torch, and within the bounds that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.export.bundle import widened
from mwactl.export.candidates import Candidates
from mwactl.export.gate import Bound
from mwactl.export.graph import WITH_TORCH
from mwactl.export.int8 import Int8, quantise_within
from mwactl.export.parity import TOLERANCES, DType, Parity, Tolerance
from mwactl.export.towers import Graphs
from mwactl.progress import Reporter


@dataclass(frozen=True)
class Verdict:
    """What may be given away.

    Args:
        graphs: The graphs to deploy.
        parity: What was measured with them.
        tolerance: What they must hold to, wherever they are verified.
        int8: What was quantised; None: nothing.
    """

    graphs: Graphs
    parity: Parity
    tolerance: Tolerance
    int8: Int8 | None = None


def judge(
    graphs: Graphs, dtype: DType, bounds: Sequence[Bound], candidates: Candidates, work: Path, reporter: Reporter
) -> Verdict:
    """Measure the graphs; for int8 quantise them first, as much as the bounds allow.

    Args:
        graphs: As traced.
        dtype: What they shall compute in.
        bounds: What may be lost.
        candidates: Measures.
        work: A folder for what is tried.
        reporter: Is told what is done.

    Raises:
        VerificationError: They are too far from torch, or cost too much.
    """
    if dtype == "int8":
        int8 = quantise_within(graphs, bounds, candidates, work, reporter)
        return Verdict(int8.graphs, int8.parity, widened(int8.parity, candidates.replay(int8.graphs)), int8)
    parity, tolerance = candidates.measure(graphs), TOLERANCES[dtype]
    if not parity.within(tolerance):
        raise VerificationError(
            f"the exported {dtype} model is too far from torch; nothing was written",
            why=f"{_figures(parity)}; allowed {tolerance.max_abs:g} and {tolerance.min_cosine}",
            fix="--dtype fp32" if dtype == "fp16" else WITH_TORCH,
        )
    if failed := [bound for bound in bounds if not bound.holds(parity)]:
        raise VerificationError(
            "the export costs more than the gate allows; nothing was written",
            why="; ".join(bound.describe(parity) for bound in failed),
            fix="allow more with --gate",
        )
    return Verdict(graphs, parity, tolerance)


def _figures(parity: Parity) -> str:
    return "; ".join(
        f"{name} max |Δ| {found.max_abs:.1e}, cosine {found.min_cosine:.6f}"
        for name, found in (("image", parity.image), ("text", parity.text))
    )
