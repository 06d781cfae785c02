"""Captions as rows of one length."""

from __future__ import annotations

import torch

from mwactl.backbone.captions import caption_rows


def test_captions_stand_between_begin_and_end_are_cut_to_the_length_and_padded() -> None:
    rows = caption_rows([[7, 8], [], [5, 6, 7, 8, 9]], 5, begin=1, end=2, padding=0)
    assert rows.tolist() == [[1, 7, 8, 2, 0], [1, 2, 0, 0, 0], [1, 5, 6, 7, 2]]
    assert rows.dtype == torch.int64


def test_no_captions_are_no_rows() -> None:
    rows = caption_rows([], 5, begin=1, end=2, padding=0)
    assert (rows.shape, rows.dtype) == ((0, 5), torch.int64)
