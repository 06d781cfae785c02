"""`--fail-below`: what may be lost."""

from __future__ import annotations

import numpy as np
import pytest

from mwactl.errors import UsageError
from mwactl.evaluate.bootstrap import resample
from mwactl.evaluate.floor import Floor, parse_floors
from mwactl.evaluate.paired import differences
from mwactl.evaluate.queries import QueryRanks


@pytest.fixture(scope="module")
def a_tenth_less():
    """1 of 1,000 pictures fewer at R@1: 41.6 - 41.7, which in floating point is below -0.1."""
    baseline, contestant = (
        QueryRanks(np.where(np.arange(1000) < found, 1, 9), np.ones(1000, int), np.arange(1000), np.arange(1000))
        for found in (417, 416)
    )
    [found] = differences(resample([baseline, contestant], resamples=10))
    return found


def test_the_difference_as_it_was_found_decides(a_tenth_less):
    assert a_tenth_less["i2t.R@1"].difference < -0.1
    assert Floor("i2t.R@1", -0.1).holds(a_tenth_less)
    assert not Floor("i2t.R@1", -0.09).holds(a_tenth_less)
    assert Floor("t2i.R@1", 0.0).holds(a_tenth_less)
    assert not Floor("rsum", 0.0).holds(a_tenth_less)


def test_the_words_of_the_command_line_are_read():
    assert parse_floors(["t2i.R@1=-0.5", "rsum=2"]) == (Floor("t2i.R@1", -0.5), Floor("rsum", 2.0))


@pytest.mark.parametrize(
    "text", ["t2i.R@1", "t2i.R@1=", "t2i.R@1=much", "R@1=-1", "rsum=nan", "rsum=-inf", "rsum=601", ""]
)
def test_what_is_no_floor_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"--fail-below .*not a bound") as caught:
        parse_floors([text])
    assert "--fail-below t2i.R@1=-0.5" in str(caught.value.fix)
