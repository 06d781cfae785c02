"""The training step measured side by side: first the same function, then the time, the memory and the arithmetic."""

from mwactl.bench.comparison import Comparison, compare_steps
from mwactl.bench.plot import plot_steps
from mwactl.bench.setup import Setup

__all__ = ["Comparison", "Setup", "compare_steps", "plot_steps"]
