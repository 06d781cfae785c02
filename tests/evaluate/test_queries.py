"""Ranks as they are kept: small, the same again, and refused where they are something else."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest

from mwactl.errors import VerificationError
from mwactl.evaluate.queries import QueryRanks


def ranks(n=40, each=5, seed=0):
    rng = np.random.default_rng(seed)
    pictures = np.repeat(np.arange(n), each)
    return QueryRanks(rng.geometric(0.05, n), rng.geometric(0.05, n * each), np.arange(n * each), pictures)


def test_they_come_back_from_json_as_they_were():
    kept = ranks()
    back = QueryRanks.from_dict(json.loads(json.dumps(kept.as_dict())), where="here")
    for name in ("image_to_text", "text_to_image", "texts", "pictures"):
        np.testing.assert_array_equal(getattr(back, name), getattr(kept, name))
        assert getattr(back, name).dtype == np.int64
    assert back.folds == 1


def test_those_of_coco_5k_are_small_enough_to_be_kept_with_every_evaluation():
    assert len(json.dumps(ranks(5_000).as_dict())) < 100_000


def packed(numbers) -> str:
    steps = np.diff(np.array(numbers), prepend=0).astype("<i4")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"image_to_text": None},
        {"image_to_text": "no base64!"},
        {"image_to_text": base64.b64encode(b"not deflated").decode()},
        {"image_to_text": base64.b64encode(zlib.compress(b"\1\0\0\0" * 40)[:-8]).decode()},
        {"image_to_text": base64.b64encode(zlib.compress(b"\1\0\0")).decode()},
        {"image_to_text": packed([])},
        {"image_to_text": packed([0] * 40)},
        {"text_to_image": packed([1] * 199)},
        {"pictures": packed([40] * 200)},
        {"pictures": packed([-1] * 200)},
        {"texts": packed([-1] * 200)},
        {"folds": 3},
        {"folds": 0},
        {"folds": "five"},
    ],
)
def test_what_is_something_else_is_refused(change):
    with pytest.raises(VerificationError, match="stored ranks cannot be read; in coco@1"):
        QueryRanks.from_dict(ranks().as_dict() | change, where="coco@1")


def test_a_list_that_unpacks_to_more_than_any_split_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("mwactl.evaluate.queries._MOST_BYTES", 100)
    with pytest.raises(VerificationError, match="incomplete or too long"):
        QueryRanks.from_dict(ranks().as_dict(), where="here")
