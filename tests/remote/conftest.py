"""A real OCI registry on this machine, a scripted server for what a real one never does, and something to send."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mwactl.registry import Entry, Registry
from mwactl.remote import client

PASSWORD = "reader:secret"
_BCRYPT_OF_SECRET = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logins of whoever runs the tests, no proxies, and failures are tried again at once."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(client, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The sender's."""
    return Registry(tmp_path / "registry")


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    """The receiver's, with nothing in it."""
    return Registry(tmp_path / "other-machine")


@pytest.fixture
def entry(registry: Registry) -> Entry:
    """An adapter of two files with two evaluations."""
    return publish_adapter(registry)


@pytest.fixture
def publish() -> Callable[..., Entry]:
    """publish(registry, name=…, size=…, **facts): such an adapter."""
    return publish_adapter


def publish_adapter(registry: Registry, name: str = "coco-mwa", size: int = 300_000, **facts: Any) -> Entry:
    files: dict[str, Path | bytes] = {"adapter.safetensors": tensors(size), "recipe.yaml": b"name: coco-mwa\n"}
    facts = {"method": {"name": "mwa"}, "base": {"backbone": "tiny"}} | facts
    entry = registry.publish(name, kind="adapter", files=files, facts=facts, verb="train")
    for rsum in (500.0, 510.5):
        registry.attach(entry, "evaluation", {"rsum": rsum})
    return entry


def tensors(size: int) -> bytes:
    """Bytes of which no two stretches are alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


# -- a real registry -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def oci_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a registry that lets everyone in."""
    with running_registry(tmp_path_factory.mktemp("oci"), "") as host:
        yield host


@pytest.fixture(scope="session")
def closed_oci_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of one that asks for `PASSWORD`."""
    folder = tmp_path_factory.mktemp("closed-oci")
    (folder / "htpasswd").write_text(f"reader:{_BCRYPT_OF_SECRET}\n")
    with running_registry(folder, f"auth: {{htpasswd: {{realm: tests, path: {folder / 'htpasswd'}}}}}\n") as host:
        yield host


@contextmanager
def running_registry(folder: Path, more: str) -> Iterator[str]:
    binary = shutil.which("docker-registry")
    if binary is None:
        pytest.skip("there is no docker-registry here (Debian: apt-get install docker-registry)")
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: 127.0.0.1:0}\n" + more
    )
    server = subprocess.Popen(
        [binary, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        found = None
        while found is None and (line := server.stderr.readline()):
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", line)
        assert found, "the registry did not start"
        reader = threading.Thread(target=server.stderr.read)  # a full pipe would stop it
        reader.start()
        yield found[1]
    finally:
        server.terminate()
        server.wait(10)
    reader.join(10)
    server.stderr.close()


# -- a scripted server -----------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is sent back; `cut` ends the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Script:
    """A server that does as it is told, and remembers what it was asked."""

    host: str = ""
    respond: Callable[[Asked], Answer] = lambda asked: Answer(404)
    asked: list[Asked] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    def paths(self, method: str) -> list[str]:
        return [asked.path for asked in self.asked if asked.method == method]

    def plain(self, *answers: Any) -> None:
        """Give these answers in turn (the arguments of `Answer` each), the last one for ever."""
        rest = [Answer(*answer) for answer in answers]
        self.respond = lambda asked: rest.pop(0) if len(rest) > 1 else rest[0]

    answer = Answer

    @staticmethod
    def ranged(asked: Asked, content: bytes, cut: int | None = None) -> Answer:
        """Content, or the stretch of it that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if not found:
            return Answer(200, content, cut=cut)
        start = int(found[1])
        if start >= len(content):
            return Answer(416)
        said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return Answer(206, content[start:], said, cut)


@pytest.fixture
def script() -> Iterator[Script]:
    """A scripted server on 127.0.0.1."""
    state = Script()
    handler = type("Handler", (_Scripted,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        state.host = f"127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


class _Scripted(BaseHTTPRequestHandler):
    state: Script

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.state.asked.append(asked)
        answer = self.state.respond(asked)
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.cut])
        self.close_connection = True

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()


# -- a Hub -----------------------------------------------------------------------------------------------------------

TOKEN = "hf_a_token_that_is_good"


@dataclass
class Hub:
    """What the Hub's library is answered: repositories with commits, in memory; files above 1,000 bytes are LFS.

    `error` is the answer to everything that starts with a path; `no_card` makes the card wrong.
    """

    origin: str = ""
    downloads: str = ""
    commits: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, Answer] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    spoil: Callable[[bytes], bytes] = lambda content: content

    answer = Answer

    def files(self, repository: str) -> dict[str, bytes]:
        return self.commits[repository][-1]

    def respond(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        for start, answer in self.errors.items():
            if asked.path.startswith(start):
                return answer
        path = unquote(asked.path.partition("?")[0])
        for pattern, action in self._ROUTES:
            if found := re.fullmatch(pattern, f"{asked.method} {path}"):
                return action(self, asked, *found.groups())
        return Answer(404, headers={"X-Error-Code": "RepoNotFound"})

    def _hidden(self, asked: Asked, repository: str) -> Answer | None:
        authorization = asked.headers.get("authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if repository not in self.commits or (repository in self.private and authorization is None):
            return Answer(404 if authorization else 401, headers={"X-Error-Code": "RepoNotFound"})
        return None

    def _info(self, asked: Asked, repository: str, revision: str | None = None) -> Answer:
        if hidden := self._hidden(asked, repository):
            return hidden
        commits = self.commits[repository]
        shas = [sha_of(number) for number in range(len(commits))]
        if revision not in (None, "main", *shas):
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        sha = revision if revision in shas else shas[-1]
        siblings = [sibling(path, data) for path, data in commits[shas.index(sha)].items()]
        return as_json({"id": repository, "sha": sha, "private": repository in self.private, "siblings": siblings})

    def _create(self, asked: Asked) -> Answer:
        said = json.loads(asked.body)
        repository = "/".join(filter(None, (said.get("organization"), said["name"])))
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        self.commits.setdefault(repository, [{".gitattributes": b"*.safetensors filter=lfs\n"}])
        if said.get("private") or said.get("visibility") == "private":
            self.private.add(repository)
        return as_json({"url": f"{self.origin}/{repository}", "name": repository, "id": "1"})

    def _preupload(self, asked: Asked, repository: str, revision: str) -> Answer:
        if hidden := self._hidden(asked, repository):
            return hidden
        files = [
            {"path": each["path"], "uploadMode": "lfs" if each["size"] > 1000 else "regular", "shouldIgnore": False}
            for each in json.loads(asked.body)["files"]
        ]
        return as_json({"files": files})

    def _batch(self, asked: Asked, repository: str) -> Answer:
        objects = [
            each | ({} if each["oid"] in self.uploaded else {"actions": {"upload": {"href": self._lfs(each["oid"])}}})
            for each in json.loads(asked.body)["objects"]
        ]
        return as_json({"transfer": "basic", "objects": objects})

    def _lfs(self, oid: str) -> str:
        return f"{self.origin}/lfs/{oid}"

    def _upload(self, asked: Asked, oid: str) -> Answer:
        self.uploaded[oid] = asked.body
        return Answer(200)

    def _commit(self, asked: Asked, repository: str, revision: str) -> Answer:
        lines = [json.loads(line) for line in asked.body.splitlines()]
        header = lines.pop(0)["value"]
        if header.get("parentCommit") != sha_of(len(self.commits[repository]) - 1):
            return Answer(412, headers={"X-Error-Message": "The branch has moved"})
        files = dict(self.files(repository))
        for line in lines:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.uploaded[line["value"]["oid"]]
            else:
                assert line["key"] == "deletedFile"
                self.deleted.append(path)
                del files[path]
        self.commits[repository].append(files)
        oid = sha_of(len(self.commits[repository]) - 1)
        url = f"{self.origin}/{repository}/commit/{oid}"
        return as_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, asked: Asked, repository: str, revision: str, path: str) -> Answer:
        if hidden := self._hidden(asked, repository):
            return hidden
        if repository in self.gated:
            return Answer(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        content = self.commits[repository][int(revision, 16)][path]
        if len(content) > 1000:
            return Answer(302, headers={"Location": f"{self.downloads}/download/{hashlib.sha256(content).hexdigest()}"})
        return Script.ranged(asked, content)

    def _download(self, asked: Asked, oid: str) -> Answer:
        assert "authorization" not in asked.headers, "the token went to another host"
        return Script.ranged(asked, self.spoil(self.uploaded[oid]), self.cuts.pop(0) if self.cuts else None)

    _NAME = r"([^/]+/[^/]+)"
    _ROUTES = (
        (rf"GET /api/models/{_NAME}", _info),
        (rf"GET /api/models/{_NAME}/revision/(.+)", _info),
        (r"POST /api/repos/create", _create),
        (r"POST /api/validate-yaml", lambda self, asked: as_json({"errors": [], "warnings": []})),
        (rf"POST /api/models/{_NAME}/preupload/(.+)", _preupload),
        (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _batch),
        (r"PUT /lfs/([0-9a-f]{64})", _upload),
        (rf"POST /api/models/{_NAME}/commit/(.+)", _commit),
        (rf"GET /{_NAME}/resolve/([^/]+)/(.+)", _resolve),
        (r"GET /download/([0-9a-f]{64})", _download),
    )


def sha_of(number: int) -> str:
    return f"{number:040x}"


def as_json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def sibling(path: str, data: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {"rfilename": path, "size": len(data)}
    said["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if len(data) > 1000:
        said["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return said


@pytest.fixture
def hub(script: Script, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub on this machine, and a token for it; large files are downloaded from another host."""
    from huggingface_hub import constants

    # What the library read from the environment when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", script.origin)
    monkeypatch.setenv("HF_ENDPOINT", script.origin)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    state = Hub(script.origin, script.origin.replace("127.0.0.1", "localhost"))
    script.respond = state.respond
    return state
