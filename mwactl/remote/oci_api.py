"""The HTTP API of one repository of an OCI registry, and no more of it than is needed.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mwactl.files import canonical_json, sha256_bytes
from mwactl.progress import Progress, Reporter
from mwactl.registry.oci_layout import IMAGE_TYPE, INDEX_TYPE, Descriptor
from mwactl.registry.staging import Source, chunks_of, size_of
from mwactl.registry.untrusted import MAX_JSON_BYTES, fail, parse_untrusted
from mwactl.remote.address import OciAddress
from mwactl.remote.client import Headers, Http, RefusedError, parse_url, read_all, redirected
from mwactl.remote.login import OciIdentity
from mwactl.remote.offer import Documents
from mwactl.remote.refusal import Door, naming_refusals

_DOCKER_HUB = "registry-1.docker.io"
#: As many as there could be attachments, one a page.
_MAX_PAGES = 1000
_HOSTS = {"docker.io": _DOCKER_HUB, "index.docker.io": _DOCKER_HUB}


class OciRepository:
    """One repository.

    Args:
        address: Which.
        plain_http: Speak HTTP without encryption; to this machine itself that is done anyway.
        reporter: Hears what is tried again.
    """

    def __init__(self, address: OciAddress, *, plain_http: bool, reporter: Reporter) -> None:
        plain_http = plain_http or address.is_loopback
        host = _HOSTS.get(address.host, address.host)
        self._identity = OciIdentity(host, plain_http=plain_http, reporter=reporter)
        self.http = Http(f"{'http' if plain_http else 'https'}://{host}", self._identity, reporter)
        self.where = str(address)
        self.door = Door(
            self.where,
            self._identity.is_known,
            login=f"docker login {address.host}",
            access="ask whoever runs the registry for access to this repository",
        )
        self._base = f"/v2/{address.repository}"

    # -- blobs -------------------------------------------------------------------------------------------------

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        return self._exists(f"{self._base}/blobs/sha256:{digest}", None)

    def blob_url(self, digest: str) -> str:
        """Where a blob is."""
        return f"{self.http.origin}{self._base}/blobs/sha256:{digest}"

    def put_blob(self, digest: str, source: Source, progress: Progress) -> None:
        """Upload a blob: the registry gives an address for it, and there all of it goes; the registry hashes it."""
        body = source if isinstance(source, Path) else b"".join(chunks_of(source))

        def upload() -> None:
            with self.http.exchange("POST", f"{self._base}/blobs/uploads/") as response:
                place = redirected(response.url, response.headers.get("Location", ""))
            place += f"{'&' if '?' in place else '?'}digest=sha256:{digest}"
            counted = _Counted(progress)
            try:
                headers = {"Content-Type": "application/octet-stream"}
                with self.http.exchange("PUT", place, headers=headers, body=body, progress=counted):
                    counted.settle(size_of(source))
            except BaseException:
                counted.settle(0)
                raise

        with naming_refusals(self.door):
            self.http.persist(upload, where=self.where)

    def document(self, descriptor: Descriptor) -> bytes:
        """The verified bytes of a small blob.

        Raises:
            VerificationError: It is too long, missing, or not what its digest says.
        """
        if descriptor.size > MAX_JSON_BYTES:
            fail("a document is too long", where=self.where, why=f"{descriptor.size:,} bytes")
        found = self._get(self.blob_url(descriptor.digest), None, absent=(404,))
        if found is None or sha256_bytes(found[0]) != descriptor.digest:
            state = "is missing" if found is None else "is not what its digest says"
            fail(f"a document {state}", where=f"{self.where} sha256:{descriptor.digest[:12]}…")
        return found[0]

    # -- manifests ---------------------------------------------------------------------------------------------

    def has_manifest(self, reference: str) -> bool:
        """Whether there is an image manifest with this tag or digest (`sha256:…`)."""
        return self._exists(self._manifest_path(reference), IMAGE_TYPE)

    def manifest(self, reference: str, media_type: str = IMAGE_TYPE) -> bytes | None:
        """The bytes under a tag or a digest (then verified), or None.

        Raises:
            VerificationError: They are not what the digest says.
        """
        found = self._get(self._manifest_path(reference), media_type, absent=(404,))
        if found is None:
            return None
        if ":" in reference and f"sha256:{sha256_bytes(found[0])}" != reference:
            fail("the registry sent another manifest than was asked for", where=f"{self.where} {reference[:19]}…")
        return found[0]

    def put_manifest(self, data: bytes, reference: str, media_type: str = IMAGE_TYPE) -> bool:
        """Store a manifest; whether the registry saw its `subject` and lists it there."""

        def put() -> bool:
            headers = {"Content-Type": media_type}
            with self.http.exchange("PUT", self._manifest_path(reference), headers=headers, body=data) as response:
                return response.headers.get("OCI-Subject") is not None

        with naming_refusals(self.door):
            return self.http.persist(put, where=self.where)

    # -- what is attached to a manifest -------------------------------------------------------------------------

    def referrers(self, subject: str) -> list[Any]:
        """What says that it is about a manifest, as it is listed: by the registry, or in an index that stands in.

        Raises:
            VerificationError: The list makes no sense, or has no end.
        """
        url: str | None = f"{self._base}/referrers/sha256:{subject}"
        where = f"the attachments of {self.where}"
        listed: list[Any] = []
        pages, seen = Documents(where), set[str]()
        while url is not None:
            if url in seen or len(seen) == _MAX_PAGES:
                fail("their list has no end", where=where, why=f"page {len(seen) + 1:,}")
            seen.add(url)
            page = self._get(url, INDEX_TYPE, absent=(400, 404, 405))
            if page is None:
                return self._stand_in(subject)
            listed += self._manifests_in(pages.take(page[0]))
            url = _next_page(page[1], self.http.origin + url)
        return listed

    def list_referrers(self, subject: str, referrers: list[Descriptor]) -> None:
        """Write into the index that stands in for a registry's own list; what others wrote there stays."""
        listed = self._stand_in(subject)
        known = {said.get("digest") for said in listed if isinstance(said, dict)}
        if fresh := [each.as_json() for each in referrers if f"sha256:{each.digest}" not in known]:
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed + fresh}
            self.put_manifest(canonical_json(index), _stand_in_tag(subject), INDEX_TYPE)

    def _stand_in(self, subject: str) -> list[Any]:
        data = self.manifest(_stand_in_tag(subject), INDEX_TYPE)
        return [] if data is None else self._manifests_in(data)

    def _manifests_in(self, index: bytes) -> list[Any]:
        where = f"the attachments of {self.where}"
        manifests = parse_untrusted(index, what="their list", where=where).get("manifests")
        return manifests if isinstance(manifests, list) else fail("their list has another form", where=where)

    # -- inside ------------------------------------------------------------------------------------------------

    def _manifest_path(self, reference: str) -> str:
        return f"{self._base}/manifests/{quote(reference, safe=':')}"

    def _exists(self, path: str, accept: str | None) -> bool:
        def look() -> bool:
            try:
                with self.http.exchange("HEAD", path, headers={"Accept": accept} if accept else None):
                    return True
            except RefusedError as error:
                if error.status == 404:
                    return False
                raise

        with naming_refusals(self.door):
            return self.http.persist(look, where=self.where)

    def _get(self, url: str, accept: str | None, *, absent: tuple[int, ...]) -> tuple[bytes, Headers] | None:
        def ask() -> tuple[bytes, Headers] | None:
            try:
                with self.http.exchange("GET", url, headers={"Accept": accept} if accept else None) as response:
                    return read_all(response, MAX_JSON_BYTES, where=self.where), response.headers
            except RefusedError as error:
                if error.status in absent:
                    return None
                raise

        with naming_refusals(self.door):
            return self.http.persist(ask, where=self.where)


class _Counted:
    """Passes progress on, and can take it back where an upload has to begin again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._count = 0

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self._count += steps
        self._progress.advance(steps, note=note)

    def settle(self, count: int) -> None:
        self.advance(count - self._count)

    def close(self) -> None:
        self._progress.close()


def _stand_in_tag(subject: str) -> str:
    return f"sha256-{subject}"


def _next_page(headers: Headers, base: str) -> str | None:
    """The path in a `Link: <…>; rel="next"`, which is at the same server; None at the end."""
    link: str = headers.get("Link", "")
    address, _, parameters = link.partition(">")
    if 'rel="next"' not in parameters:
        return None
    parts = urlsplit(parse_url(address.lstrip(" <"), base=base))
    return parts._replace(scheme="", netloc="").geturl()
