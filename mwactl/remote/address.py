"""Where an adapter can be sent to and fetched from: `hf://org/name[@rev]` and `oci://host[:port]/repo:tag`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mwactl.errors import UsageError

_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB = re.compile(rf"hf://(?P<repository>{_HUB_PART}/{_HUB_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?")
_OCI_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_OCI = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?P<port>:[0-9]{1,5})?"
    rf"/(?P<repository>{_OCI_PART}(?:/{_OCI_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@sha256:(?P<digest>[0-9a-f]{64}))"
)
_FORMS = "hf://ORGANISATION/NAME (for a pull also hf://ORGANISATION/NAME@REVISION), or oci://HOST[:PORT]/REPOSITORY:TAG"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class HubAddress:
    """A model repository on the Hugging Face Hub."""

    repository: str
    """`organisation/name`."""
    revision: str | None = None
    """A branch, a tag or a commit; None is the main branch."""

    @property
    def name(self) -> str:
        """The last part of the repository: what an adapter from there is called unless somebody says otherwise."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        """The address as it is typed."""
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class OciAddress:
    """A tag, or a manifest's digest, in a repository of an OCI registry."""

    host: str
    """The host, with its port where one was typed."""
    repository: str
    """The repository: lower-case parts with `/` between them."""
    reference: str
    """The tag, or `sha256:…`."""

    @property
    def name(self) -> str:
        """The last part of the repository: what an adapter from there is called unless somebody says otherwise."""
        return self.repository.rpartition("/")[2]

    @property
    def is_tag(self) -> bool:
        """Whether this is a tag and not a digest."""
        return ":" not in self.reference

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return self.host.rpartition(":")[0] in _LOOPBACK or self.host in _LOOPBACK

    def at(self, digest: str) -> OciAddress:
        """The address of a manifest with this SHA-256 in the same repository."""
        return replace(self, reference=f"sha256:{digest}")

    def __str__(self) -> str:
        """The address as it is typed."""
        return f"oci://{self.host}/{self.repository}{':' if self.is_tag else '@'}{self.reference}"


def parse_address(text: str) -> HubAddress | OciAddress:
    """Read an address.

    Raises:
        UsageError: The text is none.
    """
    if found := _HUB.fullmatch(text):
        revision = found["revision"]
        if ".." not in text:
            return HubAddress(found["repository"], revision)
    if found := _OCI.fullmatch(text):
        reference = found["tag"] or f"sha256:{found['digest']}"
        return OciAddress(found["host"] + (found["port"] or ""), found["repository"], reference)
    why = "the host is followed by a repository in lower case and a tag" if text.startswith("oci://") else None
    raise UsageError(f"{text!r} is no address of a remote", why=why, fix=f"type {_FORMS}")
