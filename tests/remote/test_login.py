from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError
from mwactl.progress import Silent
from mwactl.remote.client import RefusedError
from mwactl.remote.login import OciIdentity, config_path, stored_credentials

HOST = "registry.example.org:5000"
SECRET = base64.b64encode(b"reader:secret").decode()


def docker(config: dict[str, Any] | str) -> None:
    config_path().parent.mkdir(exist_ok=True)
    config_path().write_text(config if isinstance(config, str) else json.dumps(config))


def identity(*, plain_http: bool = True) -> OciIdentity:
    return OciIdentity(HOST, plain_http=plain_http, reporter=Silent())


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"auths": {HOST: {"auth": SECRET}}}, SECRET),
        ({"auths": {f"https://{HOST}": {"auth": SECRET}}}, SECRET),
        ({"auths": {"registry.example.org": {"auth": SECRET}}}, None),
        ({"auths": {HOST: {}}, "credsStore": "nowhere-to-be-found"}, None),
        ({}, None),
    ],
)
def test_a_login_is_found_under_its_host(config: dict[str, Any], found: str | None) -> None:
    docker(config)
    assert stored_credentials(HOST) == found
    assert identity().is_known is (found is not None)


def test_no_file_is_no_login() -> None:
    assert stored_credentials(HOST) is None


def test_docker_hub_has_another_name_in_the_file() -> None:
    docker({"auths": {"https://index.docker.io/v1/": {"auth": SECRET}}})
    assert stored_credentials("registry-1.docker.io") == SECRET


def test_a_helper_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-mine"
    program.write_text('#!/bin/sh\nread server\n[ "$1 $server" = "get registry.example.org:5000" ] || exit 1\n'
                       'echo \'{"Username": "reader", "Secret": "secret"}\'\n')  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    docker({"credHelpers": {HOST: "mine"}})
    assert stored_credentials(HOST) == SECRET
    docker({"credsStore": "mine"})
    assert stored_credentials(HOST) == SECRET
    assert stored_credentials("elsewhere.example.org") is None
    docker({"credsStore": "../mine"})
    assert stored_credentials(HOST) is None


@pytest.mark.parametrize("config", ["{", "[]", '{"auths": {"registry.example.org:5000": {"auth": "%%"}}}'])
def test_a_damaged_file_says_so(config: str) -> None:
    docker(config)
    with pytest.raises(MwactlError, match=r"Docker's logins cannot be used.*docker login registry.example.org:5000"):
        stored_credentials(HOST)


def test_nothing_is_said_before_the_registry_asks() -> None:
    docker({"auths": {HOST: {"auth": SECRET}}})
    who = identity()
    assert who.header() is None
    assert who.challenged('Basic realm="tests"')
    assert who.header() == f"Basic {SECRET}"
    assert not who.challenged('Basic realm="tests"'), "the same answer is not given twice"


def test_without_a_login_a_password_cannot_be_given() -> None:
    assert not identity().challenged('Basic realm="tests"')


@pytest.mark.parametrize("logged_in", [True, False])
def test_a_token_is_fetched_from_where_the_challenge_says(script: Any, logged_in: bool) -> None:
    if logged_in:
        docker({"auths": {HOST: {"auth": SECRET}}})
    script.plain((200, b'{"token": "t1"}'), (200, b'{"access_token": "t2"}'))
    who = identity()
    scope = "repository:coco:pull,push"
    assert who.challenged(f'Bearer realm="{script.origin}/token",service=tests,scope="{scope}"')
    assert who.header() == "Bearer t1"
    assert script.asked[0].path == "/token?service=tests&scope=repository%3Acoco%3Apull%2Cpush"
    assert script.asked[0].headers.get("authorization") == (f"Basic {SECRET}" if logged_in else None)
    assert who.challenged(f'Bearer realm="{script.origin}/token?x=y",service="tests"')
    assert who.header() == "Bearer t2"
    assert script.asked[1].path == "/token?x=y&service=tests"


def test_a_password_is_never_sent_to_an_unsafe_place(script: Any) -> None:
    docker({"auths": {HOST: {"auth": SECRET}}})
    with pytest.raises(MwactlError, match="not safe"):
        identity(plain_http=False).challenged(f'Bearer realm="{script.origin}/token"')
    with pytest.raises(MwactlError, match="not safe"):
        identity().challenged('Bearer realm="file:///etc/passwd"')
    assert not script.asked


@pytest.mark.parametrize(
    "answer", [b"no json", b"{}", b"[]", b'{"token": 3}', b'{"token": "a\\nHost: b"}', b"[" * 100_000]
)
def test_a_token_that_is_none_says_so(script: Any, answer: bytes) -> None:
    script.plain((200, answer))
    with pytest.raises(MwactlError, match=r"no token that can be read.*fix: "):
        identity().challenged(f'Bearer realm="{script.origin}/token"')


@pytest.mark.parametrize("realm", ["http://[", "http://\xe9/", "http://h:99999/", "http://" + "a" * 70])
def test_a_place_for_tokens_that_is_no_address_says_so(realm: str) -> None:
    with pytest.raises(MwactlError, match="cannot be used"):
        identity().challenged(f'Bearer realm="{realm}"')


def test_a_token_that_is_refused_is_a_refusal(script: Any) -> None:
    script.plain((401,))
    with pytest.raises(RefusedError):
        identity().challenged(f'Bearer realm="{script.origin}/token"')
