from __future__ import annotations

import pytest

from mwactl.errors import MwactlError, NotFoundError
from mwactl.remote.client import RefusedError
from mwactl.remote.refusal import Door, naming_refusals


def door(*, is_known: bool) -> Door:
    return Door("oci://host/coco:v1", is_known, login="docker login host", access="ask the owner")


@pytest.mark.parametrize(
    ("status", "headers", "is_known", "what", "fix"),
    [
        (401, {}, False, "this needs a login", "docker login host"),
        (401, {}, True, "the login is not accepted", "docker login host"),
        (403, {}, True, "access is refused", "ask the owner"),
        (429, {}, True, "too many requests", "wait for a while"),
        (429, {"Retry-After": "60"}, True, "too many requests", "wait for 60 s"),
        (507, {}, True, "the server failed (HTTP 507)", "later"),
        (413, {}, True, "the server refuses (HTTP 413)", "ask the owner"),
    ],
)
def test_every_refusal_is_a_sentence_and_what_to_do(
    status: int, headers: dict[str, str], is_known: bool, what: str, fix: str
) -> None:
    with pytest.raises(MwactlError) as caught, naming_refusals(door(is_known=is_known)):
        raise RefusedError(status, headers, "")
    assert what in caught.value.what
    assert caught.value.fix is not None and fix in caught.value.fix
    assert caught.value.where == "oci://host/coco:v1"


@pytest.mark.parametrize(("is_known", "why"), [(True, None), (False, "or it can only be seen after docker login host")])
def test_nothing_there_may_mean_that_it_is_hidden(is_known: bool, why: str | None) -> None:
    with (
        pytest.raises(NotFoundError, match="nothing at this address") as caught,
        naming_refusals(door(is_known=is_known)),
    ):
        raise RefusedError(404, {}, "")
    assert caught.value.why == why
