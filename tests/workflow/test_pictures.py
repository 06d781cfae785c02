from __future__ import annotations

import pytest

from mwactl.errors import VerificationError
from mwactl.files import sha256_bytes
from mwactl.workflow import pictures

DIGESTS = [sha256_bytes(bytes([number])) for number in range(20)]


def test_pictures_that_were_packed_are_counted_as_seen():
    data = pictures.pack(DIGESTS[:10])
    assert pictures.seen(data, DIGESTS[5:15], where="a@1") == 5
    assert pictures.seen(data, DIGESTS[10:], where="a@1") == 0


def test_order_copies_and_unreadable_pictures_do_not_change_the_file():
    data = pictures.pack(DIGESTS[:10])
    assert pictures.pack([None, *reversed(DIGESTS[:10]), DIGESTS[3]]) == data
    assert len(data) == 160
    assert pictures.seen(data, [None, DIGESTS[0], None], where="a@1") == 1


def test_no_pictures_were_seen_in_an_empty_file():
    assert pictures.seen(b"", DIGESTS, where="a@1") == 0


def test_a_file_cut_short_is_refused():
    with pytest.raises(VerificationError, match="damaged") as caught:
        pictures.seen(pictures.pack(DIGESTS)[:-1], DIGESTS, where="a@1")
    assert caught.value.where == "a@1"
