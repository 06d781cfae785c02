"""Who we are to an OCI registry: what `docker login` has stored, and the tokens that the registry gives for it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mwactl.errors import MwactlError
from mwactl.progress import Reporter
from mwactl.remote.client import Http, origin_of, parse_url, read_all

_MAX_TOKEN_BYTES = 1 << 20
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s",]+))')
#: Docker Hub's name in `docker login` is not the name of its registry.
_DOCKER_HUB = {"registry-1.docker.io": "https://index.docker.io/v1/"}


def stored_credentials(host: str) -> str | None:
    """What `docker login HOST` has stored, in its file or with the helper program that the file names.

    Returns:
        `user:password` in base 64; None where nothing is stored.

    Raises:
        MwactlError: The file is damaged.
    """
    path = config_path()
    spellings = (host, f"https://{host}", _DOCKER_HUB.get(host, host))
    try:
        config = json.loads(path.read_bytes())
        known, helpers = config.get("auths", {}), config.get("credHelpers", {})
        stored = next((known[key].get("auth") for key in spellings if key in known), None)
        if stored and b":" not in base64.b64decode(stored, validate=True):
            raise ValueError(f"what is stored for {host} is no user and password")
        helper = next((helpers[key] for key in spellings if key in helpers), config.get("credsStore"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MwactlError(
            "the file with Docker's logins cannot be used",
            where=str(path),
            why=str(error),
            fix=f"docker login {host}",
        ) from error
    return str(stored) if stored else _from_helper(helper, spellings[-1]) if helper else None


def _from_helper(helper: str, server: str) -> str | None:
    """What a credential helper of Docker's keeps for a server: it reads the name and prints JSON."""
    program = shutil.which(f"docker-credential-{helper}") if "/" not in helper else None
    if program is None:
        return None
    try:
        done = subprocess.run([program, "get"], input=server, capture_output=True, text=True, check=True, timeout=30)
        said = json.loads(done.stdout)
        login = f"{said['Username']}:{said['Secret']}"
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None  # it knows no login: helpers say so by failing
    return base64.b64encode(login.encode()).decode()


def config_path() -> Path:
    """The file that `docker login` writes."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


class OciIdentity:
    """Says nothing until the registry asks, then what it asks for: a password, or a token from where it says.

    Args:
        host: The registry, with its port where it has one.
        plain_http: Whether passwords may travel unencrypted to where tokens are given.
        reporter: Hears that something is tried again.
    """

    def __init__(self, host: str, *, plain_http: bool, reporter: Reporter) -> None:
        self._credentials = stored_credentials(host)
        self._plain_http = plain_http
        self._reporter = reporter
        self._header: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether there are credentials for this registry."""
        return self._credentials is not None

    def header(self) -> str | None:
        """What the registry asked for last."""
        return self._header

    def challenged(self, challenge: str) -> bool:
        """Get what the registry asks for; False where there is nothing (new) to say.

        Raises:
            RefusedError: There is no token for these credentials.
            MwactlError: The token would come from an unsafe address.
        """
        scheme, _, rest = challenge.partition(" ")
        before = self._header
        if scheme.lower() == "basic" and self._credentials:
            self._header = f"Basic {self._credentials}"
        elif scheme.lower() == "bearer":
            self._header = (
                f"Bearer {self._token({key: quoted or bare for key, quoted, bare in _PARAMETER.findall(rest)})}"
            )
        return self._header != before

    def _token(self, asked: Mapping[str, str]) -> str:
        """A token from the place that the challenge names, for what it says is needed."""
        realm = asked.get("realm", "")
        if realm.partition("://")[0].lower() not in (("http", "https") if self._plain_http else ("https",)):
            raise MwactlError(
                "the registry sends the login to an address that is not safe",
                where=realm[:80],
                fix="tell whoever runs the registry; nothing was sent",
            )
        parse_url(realm)
        query = urlencode({key: asked[key] for key in ("service", "scope") if key in asked})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        giver = Http(origin_of(realm), _Password(self._credentials), self._reporter)

        def ask() -> Any:
            with giver.exchange("GET", url) as response:
                return json.loads(read_all(response, _MAX_TOKEN_BYTES, where=realm))

        try:
            answer = giver.persist(ask, where=realm)
            token = answer.get("token") or answer["access_token"]
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise _no_token(realm) from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise _no_token(realm)
        return token


def _no_token(realm: str) -> MwactlError:
    return MwactlError(
        "the registry gives no token that can be read",
        where=realm,
        fix="try again later, or tell whoever runs the registry",
    )


class _Password:
    """Says who we are at once: where tokens are given nobody asks."""

    def __init__(self, credentials: str | None) -> None:
        self._credentials = credentials

    def header(self) -> str | None:
        return f"Basic {self._credentials}" if self._credentials else None

    def challenged(self, challenge: str) -> bool:
        return False
