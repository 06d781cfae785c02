"""A comparison from beginning to end: build, check the function, alternate, count."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mwactl.bench.batch import Batch
from mwactl.bench.function import GRADIENT_TOLERANCE, LOSS_TOLERANCE, Difference, compare_functions
from mwactl.bench.process import Remote, VariantProcess
from mwactl.bench.setup import FULL, MWA_PLAIN, SAME_FUNCTION, VARIANTS, Setup, UnavailableError
from mwactl.bench.step import StepTime
from mwactl.bench.worker import Built, Checked
from mwactl.errors import MwactlError
from mwactl.progress import Reporter, Silent

Start = Callable[[str, Setup, Path], Remote]

#: What the ratios are against.
BASES = (FULL, MWA_PLAIN)


@dataclass
class Row:
    """All that is measured of one variant."""

    variant: str
    built: Built
    checked: Checked
    difference: Difference | None = None
    rounds: list[list[StepTime]] = field(default_factory=list)
    peak_memory: int = 0
    saved_bytes: float = 0.0

    def seconds_per_pair(self) -> list[float]:
        """Round by round."""
        return [statistics.median(step.total for step in steps) / self.built.pairs for steps in self.rounds]

    def median(self, part: str) -> float:
        """The median over all steps of `forward`, `backward`, `optimiser` or `total`."""
        return statistics.median([float(getattr(step, part)) for steps in self.rounds for step in steps])


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Args:
        setup: What was compared.
        batch: On what.
        rows: The variants that were measured, in the order of `VARIANTS`.
        left_out: The others that were asked for, and why.
        matmul_rate: Operations a second that a large matrix product reaches here.
        date: When.
    """

    setup: Setup
    batch: Batch
    rows: list[Row]
    left_out: dict[str, str]
    matmul_rate: float
    date: str

    def ratios(self, variant: str, base: str) -> tuple[float, float, float] | None:
        """Time per pair over that of `base`, round by round: median, first and third quartile; None: not measured."""
        rows = {row.variant: row for row in self.rows}
        if base not in rows or variant not in rows:
            return None
        pairs = zip(rows[variant].seconds_per_pair(), rows[base].seconds_per_pair(), strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        first, median, third = statistics.quantiles(ratios, n=4, method="inclusive")
        return median, first, third

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `mwactl bench step`."""
        setup, lengths = self.setup, self.batch.lengths.double()
        built = self.rows[0].built
        return {
            "schema": 1,
            "date": self.date,
            "backbone": setup.backbone,
            "weights": setup.weights,
            "seed": setup.seed,
            "precision": setup.precision,
            "rounds": setup.rounds,
            "steps": setup.steps,
            "batch": {
                "pairs": setup.batch_size,
                "picture": list(self.batch.pixels.shape[1:]),
                "tokens_mean": lengths[:, 0].mean().item(),
                "tokens_padded": self.batch.tokens.shape[-1],
                "captions_per_image": self.batch.captions_per_image,
            },
            "machine": built.machine,
            "versions": built.versions,
            "matmul_rate": self.matmul_rate,
            "tolerance": {"loss": LOSS_TOLERANCE, "gradient": GRADIENT_TOLERANCE},
            "variants": [self._row_as_dict(row) for row in self.rows],
            "left_out": [{"variant": variant, "why": why} for variant, why in self.left_out.items()],
        }

    def _row_as_dict(self, row: Row) -> dict[str, Any]:
        per_second = 1 / statistics.median(row.seconds_per_pair())
        ratios = {base: self.ratios(row.variant, base) for base in BASES}
        return {
            "variant": row.variant,
            "what": VARIANTS[row.variant],
            "notes": row.built.notes,
            "pairs": row.built.pairs,
            "trained_parameters": row.built.trained,
            "loss_fp32": row.checked.loss,
            "same_function": None if row.difference is None else row.difference.as_dict(),
            "seconds": {part: row.median(part) for part in ("total", "forward", "backward", "optimiser")},
            "seconds_of_rounds": [[step.total for step in steps] for steps in row.rounds],
            "pairs_per_second": per_second,
            "ratio": {
                base: None if ratio is None else dict(zip(("median", "q1", "q3"), ratio, strict=True))
                for base, ratio in ratios.items()
            },
            "peak_memory_bytes": row.peak_memory,
            "saved_bytes_per_pair": row.saved_bytes,
            "flops_per_pair": row.checked.flops_per_pair,
            "utilisation": row.checked.flops_per_pair * per_second / self.matmul_rate,
        }


def compare_steps(
    setup: Setup,
    batch: Batch,
    variants: Sequence[str],
    *,
    start: Start | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Measure the variants' steps side by side.

    Args:
        setup: What is compared.
        batch: With as many captions a picture as `mwa-k` shall have.
        variants: Of `VARIANTS`.
        start: How a variant is started; None: in a process of its own.
        reporter: Hears of the progress.

    Raises:
        VerificationError: Variants that should compute the same do not; nothing is timed.
        ResourceError: A process was killed.
        MwactlError: No variant can be measured, or one failed.
    """
    reporter = reporter or Silent()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwactl-bench-")))
        batch.save(folder / "batch.safetensors")
        field_of = _Field(setup, folder, reporter)
        for variant in VARIANTS:
            if variant in variants:
                field_of.start(variant, start or VariantProcess, stack)
        field_of.build_and_check()
        field_of.warm_up()
        field_of.alternate()
        field_of.count()
    rows = list(field_of.rows.values())
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Comparison(setup, batch, rows, field_of.left_out, max(field_of.rates), date)


class _Field:
    """The variants that are still in the comparison."""

    def __init__(self, setup: Setup, folder: Path, reporter: Reporter) -> None:
        self.rows: dict[str, Row] = {}
        self.left_out: dict[str, str] = {}
        self.rates: list[float] = []
        self._setup, self._folder, self._reporter = setup, folder, reporter
        self._remotes: dict[str, Remote] = {}

    def start(self, variant: str, start: Start, stack: ExitStack) -> None:
        remote = start(variant, self._setup, self._folder / "batch.safetensors")
        stack.callback(remote.close)
        self._remotes[variant] = remote

    def build_and_check(self) -> None:
        """Build one after the other, one fp32 step each, and compare the functions."""
        files = {variant: self._folder / f"{variant}.safetensors" for variant in self._remotes}

        def begin(variant: str) -> None:
            remote = self._remotes[variant]
            built = remote.call("build")
            self.rows[variant] = Row(variant, built, remote.call("check", files[variant]))

        self._each("building and checking", begin)
        losses = {variant: row.checked.loss for variant, row in self.rows.items()}
        for group in SAME_FUNCTION:
            reference, *others = [variant for variant in group if variant in self.rows] or [""]
            for variant in others:
                self.rows[variant].difference = compare_functions(variant, reference, losses, files)

    def warm_up(self) -> None:
        """The first steps, which are slower."""
        self._each("warming up", lambda variant: self._remotes[variant].call("warm_up"))

    def alternate(self) -> None:
        """A B C, A B C, …: what slows the machine for a while slows all of them."""
        progress = self._reporter.progress("timing", self._setup.rounds)
        try:
            for _ in range(self._setup.rounds):
                for variant in list(self._remotes):
                    self._unless_unavailable(
                        variant, lambda name: self.rows[name].rounds.append(self._remotes[name].call("turn"))
                    )
                self.rates.append(next(iter(self._remotes.values())).call("matmul_rate"))
                progress.advance()
        finally:
            progress.close()

    def count(self) -> None:
        """Memory of each."""

        def of(variant: str) -> None:
            row, remote = self.rows[variant], self._remotes[variant]
            row.peak_memory = remote.call("peak_memory")
            row.saved_bytes = remote.call("saved_bytes")

        self._each("counting", of)

    def _each(self, label: str, action: Callable[[str], None]) -> None:
        progress = self._reporter.progress(label, len(self._remotes))
        try:
            for variant in list(self._remotes):
                self._unless_unavailable(variant, action)
                progress.advance(note=variant)
        finally:
            progress.close()

    def _unless_unavailable(self, variant: str, action: Callable[[str], None]) -> None:
        """Do it, or leave the variant out with the reason."""
        try:
            action(variant)
        except UnavailableError as reason:
            self.left_out[variant] = str(reason)
            self._reporter.warn(f"{variant} is left out: {reason}")
            self.rows.pop(variant, None)
            self._remotes.pop(variant).close()
            if not self._remotes:
                raise MwactlError("no variant is left to measure", why=str(reason), fix="other --variants") from reason
