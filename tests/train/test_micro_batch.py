from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mwactl.errors import ResourceError
from mwactl.train.micro_batch import MicroBatch


def full() -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def holding(most: int, tried: list[int | None], whole: int) -> Callable[[int | None], Tensor]:
    """An attempt that fits up to a size."""

    def attempt(size: int | None) -> Tensor:
        tried.append(size)
        if (size or whole) > most:
            raise full()
        return torch.tensor(1.0)

    return attempt


@pytest.mark.parametrize(
    ("most", "tried"),
    [(100, [None]), (50, [None, 50]), (49, [None, 50, 25]), (1, [None, 50, 25, 13, 7, 4, 2, 1])],
)
def test_auto_is_the_whole_batch_halved_until_it_fits(most: int, tried: list[int | None]):
    micro, seen = MicroBatch("auto", 100), []
    assert micro.fit(holding(most, seen, 100)) == 1
    assert seen == tried
    assert micro.size == tried[-1]


def test_processes_that_share_a_batch_halve_their_shares():
    micro, seen = MicroBatch("auto", 100, 3), []
    micro.fit(holding(10, seen, 34))
    assert seen == [None, 17, 9]


def test_what_was_found_to_fit_is_kept_and_lowered_again_when_it_no_longer_does():
    micro, seen = MicroBatch("auto", 16), []
    for most in (8, 8, 3):
        micro.fit(holding(most, seen, 16))
    assert seen == [None, 8, 8, 8, 4, 2]


def test_a_failed_attempt_is_gone_before_the_next_begins():
    held: list[weakref.ref[Tensor]] = []

    def attempt(size: int | None) -> Tensor:
        assert not held or held[0]() is None
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        if size is None:
            raise full()
        return activations.sum()

    MicroBatch("auto", 4).fit(attempt)
    assert len(held) == 2


def test_where_not_even_one_fits_it_is_an_error_that_names_smaller_work():
    micro, seen = MicroBatch("auto", 4), []
    with pytest.raises(ResourceError) as caught:
        micro.fit(holding(0, seen, 4))
    assert seen == [None, 2, 1]
    assert caught.value.why == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert str(caught.value.fix).startswith("train.batch_size=2, ")


@pytest.mark.parametrize("asked", [None, 8])
def test_a_size_that_was_asked_for_is_never_changed_in_silence(asked: int | None):
    micro, seen = MicroBatch(asked, 16), []
    with pytest.raises(ResourceError) as caught:
        micro.fit(holding(4, seen, 16))
    assert seen == [asked]
    assert micro.size == asked
    assert str(caught.value.fix).startswith("train.micro_batch_size=auto")


def test_a_resumed_run_goes_on_with_what_auto_had_found_but_a_given_size_is_the_recipes():
    for asked, size in (("auto", 4), (8, 8), (None, None)):
        micro = MicroBatch(asked, 16)  # type: ignore[arg-type]
        micro.resume(4)
        assert micro.size == size


def test_other_errors_pass_through():
    def broken(_: int | None) -> Tensor:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        MicroBatch("auto", 4).fit(broken)
