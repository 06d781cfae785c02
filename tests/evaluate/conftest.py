"""Ranks as a model may have them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mwactl.evaluate.queries import QueryRanks


@pytest.fixture(scope="session")
def make_ranks() -> Callable[..., QueryRanks]:
    """make_ranks(seed): of 60 pictures with one to six captions each; a larger `skill` ranks better."""

    def make(seed: int, *, n: int = 60, skill: float = 0.3, folds: int = 1) -> QueryRanks:
        pictures = np.repeat(np.arange(n), np.random.default_rng(99).integers(1, 7, n))  # the same for every seed
        rng = np.random.default_rng(seed)
        q = len(pictures)
        return QueryRanks(rng.geometric(skill, n), rng.geometric(skill, q), np.arange(q), pictures, folds)

    return make
