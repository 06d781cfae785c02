from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from mwactl.train.sampling import EpochPlan

# Picture 0 has captions 0 and 1, picture 1 has 2, picture 2 shares 2 and has 3, 4, 5; and four more with one each.
PAIRS = np.array([[0, 0], [0, 1], [1, 2], [2, 2], [2, 3], [2, 4], [2, 5], [3, 6], [4, 7], [5, 8], [6, 9]])
Captions = Literal["random", "all"]


def plan(captions: Captions = "random", batch_size: int = 3, seed: int = 0) -> EpochPlan:
    return EpochPlan(PAIRS, batch_size=batch_size, captions=captions, seed=seed)


def test_random_shows_every_picture_once_an_epoch_with_a_caption_of_its_own():
    for epoch in range(20):
        rows = plan().rows(epoch)
        assert sorted(rows[:, 0]) == list(range(7))
        assert {tuple(row) for row in rows.tolist()} <= {tuple(pair) for pair in PAIRS.tolist()}


def test_random_shows_every_caption_of_a_picture_sooner_or_later():
    shown = {int(caption) for epoch in range(60) for image, caption in plan().rows(epoch) if image == 2}
    assert shown == {2, 3, 4, 5}


def test_all_shows_every_pair_once_an_epoch():
    rows = plan("all").rows(3)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, PAIRS.tolist()))


@pytest.mark.parametrize("captions", ["random", "all"])
def test_order_depends_on_seed_and_epoch_alone(captions: Captions):
    first = plan(captions).rows(4)
    assert np.array_equal(first, plan(captions).rows(4))
    assert not np.array_equal(first, plan(captions).rows(5))
    assert not np.array_equal(first, plan(captions, seed=1).rows(4))


def test_the_order_of_the_pairs_does_not_matter():
    shuffled = EpochPlan(PAIRS[::-1], batch_size=3, captions="random", seed=0)
    assert np.array_equal(plan().rows(0), shuffled.rows(0))


@pytest.mark.parametrize("captions", ["random", "all"])
def test_going_on_from_any_step_gives_the_rest_of_the_run(captions: Captions):
    whole = list(plan(captions).batches(first_step=0, epochs=4))
    assert len(whole) == 4 * plan(captions).steps_per_epoch
    for step in range(len(whole) + 1):
        assert list(plan(captions).batches(first_step=step, epochs=4)) == whole[step:]


def test_batches_hold_the_epochs_rows_in_order():
    batches = list(plan("all", batch_size=4).batches(first_step=0, epochs=2))
    for epoch in (0, 1):
        shown = [row for batch in batches for row in batch if row[0] == epoch]
        assert [list(row[1:]) for row in shown] == plan("all").rows(epoch).tolist()
    assert [len(batch) for batch in batches] == [4, 4, 3, 4, 4, 3]


def test_a_last_batch_of_one_pair_is_dropped():
    seven = plan(batch_size=3)  # 7 pictures: 3, 3 and one alone
    assert (seven.rows_per_epoch, seven.steps_per_epoch) == (7, 2)
    assert [len(batch) for batch in seven.batches(first_step=0, epochs=1)] == [3, 3]


def test_a_last_batch_of_two_pairs_is_kept():
    seven = plan(batch_size=5)
    assert [len(batch) for batch in seven.batches(first_step=0, epochs=1)] == [5, 2]
