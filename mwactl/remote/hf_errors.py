"""What the Hub's library raises, as errors with a next command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mwactl.errors import MwactlError
from mwactl.remote.client import RefusedError
from mwactl.remote.refusal import Door, missing, refusal


@contextmanager
def naming_hub_errors(door: Door) -> Iterator[None]:
    """Turn what the library raises in this block, where it is the only thing that is called, into our errors.

    Raises:
        NotFoundError: There is no such repository or revision, or it is hidden from us.
        MwactlError: The Hub cannot be reached, or refuses.
    """
    # `HTTPError` is that of whichever HTTP library this version of the Hub's is built on.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, HfHubHTTPError):
                raise _refused(cause, door) from error
        why = " ".join(str(causes[-1]).split())[:200] or type(causes[-1]).__name__
        if isinstance(error, ValueError):  # what the library finds wrong before it sends anything, such as the card
            fix = "mwactl card REF --check   (the Hub reads the first lines of the model card)"
            raise MwactlError("the Hub does not take this", where=door.place, why=why, fix=fix) from error
        raise MwactlError(
            "the Hub cannot be reached, or the transfer was cut off",
            where=door.place,
            why=why,
            fix="check the network (and HF_HUB_OFFLINE), then type the same command again",
        ) from error


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
