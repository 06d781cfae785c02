"""What a server's refusal means to the user, and the next command: one mapping for every kind of remote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mwactl.errors import MwactlError, NotFoundError
from mwactl.remote.client import RefusedError


@dataclass(frozen=True)
class Door:
    """How one remote lets people in."""

    place: str
    """The address as it was typed."""
    is_known: bool
    """Whether we said who we are."""
    login: str
    """The command that says who we are."""
    access: str
    """How to get what is closed to us."""


@contextmanager
def naming_refusals(door: Door) -> Iterator[None]:
    """Turn refusals into errors with a next command.

    Raises:
        NotFoundError: There is nothing at the address.
        MwactlError: The server refuses for another reason.
    """
    try:
        yield
    except RefusedError as error:
        raise refusal(error, door) from error


def refusal(error: RefusedError, door: Door) -> MwactlError:
    """The error for an answer that is no success."""
    said = error.detail or None
    match error.status:
        case 401:
            what = "the login is not accepted" if door.is_known else "this needs a login"
            return MwactlError(what, where=door.place, why=said, fix=door.login)
        case 403:
            return MwactlError("access is refused", where=door.place, why=said, fix=door.access)
        case 404:
            return missing(door)
        case 429:
            wait = "a while" if error.retry_after_s is None else f"{error.retry_after_s:.0f} s"
            return MwactlError(
                "the server says that these are too many requests",
                where=door.place,
                why=None if door.is_known else "without a login the limits are lower",
                fix=f"wait for {wait}, then type the same command again: what was finished is not repeated",
            )
        case status if status >= 500:
            return MwactlError(
                f"the server failed (HTTP {status})", where=door.place, why=said, fix="try the same command again later"
            )
        case status:
            return MwactlError(f"the server refuses (HTTP {status})", where=door.place, why=said, fix=door.access)


def missing(door: Door) -> NotFoundError:
    """The error for an address with nothing behind it."""
    hidden = None if door.is_known else f"or it can only be seen after {door.login}"
    return NotFoundError("there is nothing at this address", where=door.place, why=hidden, fix="check how it is spelt")
