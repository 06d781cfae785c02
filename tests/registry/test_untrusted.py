from __future__ import annotations

import pytest

from mwactl.errors import VerificationError
from mwactl.registry import untrusted
from mwactl.registry.untrusted import parse_untrusted


def test_an_ordinary_document_is_read() -> None:
    data = '{"a": [1, 2.5, null, {"b": "ü"}], "c": true}'.encode()
    assert parse_untrusted(data, what="it", where="there") == {"a": [1, 2.5, None, {"b": "ü"}], "c": True}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff{}", "no JSON"),
        ("{}".encode("utf-16"), "no JSON"),
        (b"[]", "it is list"),
        (b"null", "it is NoneType"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": {"a": 1, "a": 1}}', "twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "64 levels"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "depth|recursion|levels"),
    ],
    ids=range(13),
)
def test_what_could_mean_two_things_or_exhaust_a_reader_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(VerificationError, match=rf"it .*there.*{why}" if why != "no JSON" else why):
        parse_untrusted(data, what="it", where="there")


def test_sixty_four_levels_are_not_too_deep() -> None:
    assert parse_untrusted(b'{"a":' * 63 + b"1" + b"}" * 63, what="it", where="there")


def test_a_long_document_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 10)
    assert parse_untrusted(b'{"a": 123}', what="it", where="there") == {"a": 123}
    with pytest.raises(VerificationError, match="11 bytes, at most 10"):
        parse_untrusted(b'{"a": 1234}', what="it", where="there")
