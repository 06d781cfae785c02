from __future__ import annotations

from typing import Any, Literal

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


# -- several captions a picture ---------------------------------------------------------------------------------------


def several(k: int, captions: Captions = "random", batch_size: int = 6, seed: int = 0) -> EpochPlan:
    return EpochPlan(PAIRS, batch_size=batch_size, captions=captions, seed=seed, captions_per_image=k)


def shown(plan: EpochPlan, epoch: int) -> list[tuple[int, list[int]]]:
    return [(int(row[0]), row[1:].tolist()) for row in plan.rows(epoch)]


def of_their_own(rows: list[tuple[int, list[int]]]) -> bool:
    pairs = [(image, caption) for image, captions in rows for caption in captions]
    return set(pairs) <= {tuple(pair) for pair in PAIRS.tolist()} and len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_random_shows_every_picture_once_with_k_captions_or_all_it_has(k: int):
    counts = np.bincount(PAIRS[:, 0])
    for epoch in range(20):
        rows = shown(several(k, batch_size=18), epoch)
        assert sorted(image for image, _ in rows) == list(range(7))
        assert all(len(captions) == min(k, counts[image]) for image, captions in rows)
        assert of_their_own(rows)


def test_every_caption_of_a_picture_is_as_likely_to_be_among_the_k():
    counts = np.zeros(6)
    for epoch in range(400):
        counts[[caption for image, captions in shown(several(2), epoch) if image == 2 for caption in captions]] += 1
    assert counts[[2, 3, 4, 5]].sum() == 800
    assert (abs(counts[[2, 3, 4, 5]] - 200) < 45).all()  # three standard deviations of 200 ± 10 · √2, and more


@pytest.mark.parametrize("k", [2, 3, 4])
def test_all_shows_every_pair_once_k_at_a_time(k: int):
    for epoch in range(5):
        rows = shown(several(k, "all", batch_size=8), epoch)
        assert sum(len(captions) for _, captions in rows) == len(PAIRS)
        assert of_their_own(rows)
        assert len(rows) == several(k, "all", batch_size=8).rows_per_epoch
        assert all(1 <= len(captions) <= k for _, captions in rows)


def test_all_deals_the_captions_out_anew_every_epoch():
    hands = {
        frozenset(captions)
        for epoch in range(60)
        for image, captions in shown(several(2, "all"), epoch)
        if image == 2 and len(captions) == 2
    }
    assert len(hands) == 6  # every two of its four


def test_more_captions_than_any_picture_has_are_as_many_as_the_most_that_one_has():
    """Otherwise a batch would have fewer pictures, and so fewer negatives, for nothing."""
    assert several(100, batch_size=8).captions_per_image == 4
    assert [len(batch) for batch in several(100, batch_size=8).batches(first_step=0, epochs=1)] == [2, 2, 2]


def test_where_every_picture_has_one_caption_k_changes_nothing():
    single = np.stack([np.arange(6), np.arange(6)], axis=1)
    options: dict[str, Any] = {"batch_size": 4, "captions": "all", "seed": 0}
    one, many = (EpochPlan(single, **options, captions_per_image=k) for k in (1, 5))
    assert list(one.batches(first_step=0, epochs=2)) == list(many.batches(first_step=0, epochs=2))


@pytest.mark.parametrize("captions", ["random", "all"])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_with_several_captions_too_any_step_gives_the_rest_of_the_run(captions: Captions, k: int):
    plan = several(k, captions, batch_size=8)
    whole = list(plan.batches(first_step=0, epochs=3))
    assert len(whole) == 3 * plan.steps_per_epoch
    assert whole[0] != whole[plan.steps_per_epoch]
    for step in range(len(whole) + 1):
        assert list(several(k, captions, batch_size=8).batches(first_step=step, epochs=3)) == whole[step:]
    assert list(several(k, captions, batch_size=8, seed=1).batches(first_step=0, epochs=3)) != whole


@pytest.mark.parametrize("captions", ["random", "all"])
@pytest.mark.parametrize(("k", "batch_size"), [(2, 6), (3, 9), (2, 7), (4, 8)])
def test_a_batch_has_batch_size_over_k_pictures_and_never_more_pairs_than_its_size(
    captions: Captions, k: int, batch_size: int
):
    plan = several(k, captions, batch_size=batch_size)
    batches = list(plan.batches(first_step=0, epochs=2))
    assert all(2 <= len(batch) <= batch_size // k for batch in batches)
    assert len(batches[0]) == batch_size // k
    assert all(sum(len(row) - 2 for row in batch) <= batch_size for batch in batches)


def test_a_last_batch_of_one_picture_has_no_negative_whatever_its_captions_and_is_dropped():
    plan = several(2, batch_size=6)  # 7 pictures: 3, 3 and one alone
    assert [len(batch) for batch in plan.batches(first_step=0, epochs=1)] == [3, 3]


def test_an_epoch_counts_its_pairs():
    assert several(1).pairs_per_epoch == 7
    assert several(2).pairs_per_epoch == 9
    assert several(4, batch_size=8).pairs_per_epoch == several(2, "all").pairs_per_epoch == 11
    assert (several(2, "all").rows_per_epoch, several(2).rows_per_epoch) == (8, 7)
