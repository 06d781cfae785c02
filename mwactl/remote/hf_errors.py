"""What the Hub's library raises, as errors with a next command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from mwactl.errors import MwactlError, UsageError
from mwactl.remote.client import RefusedError
from mwactl.remote.refusal import Door, missing, refusal

_SPELLING = "check how the address is spelt"


@contextmanager
def naming_hub_errors(door: Door, *, sends_card: bool = False) -> Iterator[None]:
    """Turn what the library raises in this block, where it is the only thing that is called, into our errors.

    Args:
        door: How the Hub lets people in.
        sends_card: Whether the library looks at a model card first, and may find fault with it.

    Raises:
        NotFoundError: There is no such repository or revision, or it is hidden from us.
        MwactlError: The Hub cannot be reached, or refuses.
    """
    # `HTTPError` is that of whichever HTTP library this version of the Hub's is built on.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except HFValidationError as error:
        raise UsageError("the Hub has no such names", where=door.place, why=str(error)[:200], fix=_SPELLING) from error
    except (LookupError, TypeError, AttributeError, RecursionError, JSONDecodeError) as error:  # an answer of any form
        raise strange_answer(door, f"{type(error).__name__}: {error}"[:200]) from error
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, HfHubHTTPError):
                raise _refused(cause, door) from error
        why = " ".join(str(causes[-1]).split())[:200] or type(causes[-1]).__name__
        if isinstance(error, ValueError) and not sends_card:
            raise strange_answer(door, why) from error
        if isinstance(error, ValueError):  # what the library finds wrong before it sends anything, such as the card
            fix = "mwactl card REF --check   (the Hub reads the first lines of the model card)"
            raise MwactlError("the Hub does not take this", where=door.place, why=why, fix=fix) from error
        raise MwactlError(
            "the Hub cannot be reached, or the transfer was cut off",
            where=door.place,
            why=why,
            fix="check the network (and HF_HUB_OFFLINE), then type the same command again",
        ) from error


def strange_answer(door: Door, why: str | None) -> MwactlError:
    """The error for an answer that is a success, and none that the Hub gives."""
    return MwactlError(
        "this is not how the Hub answers",
        where=door.place,
        why=why,
        fix="check HF_ENDPOINT, and whether the network asks for a login in a browser first",
    )


def _refused(error: Exception, door: Door) -> MwactlError:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    assert isinstance(error, HfHubHTTPError)
    # Without a login the Hub says 401 of what does not exist, too.
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return missing(door)
    status, headers = error.response.status_code, error.response.headers
    said = (error.server_message or headers.get("X-Error-Message") or "").strip().partition("\n")[0]
    if status == 412:
        return MwactlError(
            "somebody else pushed there meanwhile; nothing was changed",
            where=door.place,
            why=said or None,
            fix="type the same command again, if this version is to be the newest",
        )
    return refusal(RefusedError(status, headers, said), door)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: the library wraps a refusal that meets it in a thread."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
