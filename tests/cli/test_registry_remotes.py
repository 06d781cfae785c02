"""`registry push` and `registry pull`, with the servers that the tests of `mwactl.remote` use."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("remote_servers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


servers = module_at(Path(__file__).parents[1] / "remote" / "conftest.py")
nobody_is_logged_in, script, hub, oci_host = (
    servers.nobody_is_logged_in,
    servers.script,
    servers.hub,
    servers.oci_host,
)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def entry() -> Entry:
    entry: Entry = servers.publish_adapter(Registry.default(), size=20_000)
    return entry


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Registry]:
    """elsewhere(): from now on this is another machine."""

    def move() -> Registry:
        monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "other-machine"))
        return Registry.default()

    return move


def test_push_and_pull_say_what_they_did(
    mwactl_cli: Cli, oci_host: str, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    address = f"oci://{oci_host}/cli/said:v1"
    pushed = mwactl_cli("registry", "push", "coco-mwa", address)
    assert pushed.code == 0
    lines = pushed.stdout.splitlines()
    assert lines[0] == f"coco-mwa@1 → {address}"
    assert any(line.startswith("  adapter.safetensors  20.0 kB  sha256:") and line.endswith("  sent") for line in lines)
    assert lines[-1].startswith(f"pushed oci://{oci_host}/cli/said@sha256:")
    assert f"next: mwactl registry pull {address}" in pushed.stderr
    registry = elsewhere()
    pulled = mwactl_cli("registry", "pull", address)
    assert pulled.code == 0
    assert pulled.stdout.splitlines()[-1] == "pulled coco-mwa@1"
    assert "  2 attached" in pulled.stdout
    assert "next: mwactl registry show coco-mwa@1" in pulled.stderr
    assert registry.resolve("coco-mwa").digest == entry.digest
    again = mwactl_cli("registry", "pull", address)
    assert "it is here already: coco-mwa@1" in again.stdout and "here already" in again.stdout
    assert [entry.version for entry in registry.entries()] == [1]


def test_json_is_one_document_and_quiet_the_identifier(
    mwactl_cli: Cli, oci_host: str, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    address = f"oci://{oci_host}/cli/json:v1"
    pushed = mwactl_cli("registry", "push", "coco-mwa@1", address, "--json").json
    assert (pushed["schema"], pushed["reference"], pushed["dry_run"]) == (1, "coco-mwa@1", False)
    assert pushed["digest"] == entry.digest and pushed["pinned"].startswith(f"oci://{oci_host}/cli/json@sha256:")
    assert {item["what"] for item in pushed["items"]} >= {"adapter.safetensors", "recipe.yaml", "manifest"}
    quiet = mwactl_cli("registry", "push", "coco-mwa@1", address, "-q")
    assert (quiet.stdout, quiet.stderr) == (pushed["pinned"] + "\n", "")
    elsewhere()
    pulled = mwactl_cli("registry", "pull", address, "--name", "theirs", "--json").json
    assert (pulled["schema"], pulled["reference"], pulled["held_before"]) == (1, "theirs@1", [])
    assert pulled["attachments"] == 2 and pulled["fetched_bytes"] == entry.size_bytes
    quiet = mwactl_cli("registry", "pull", address, "--name", "theirs", "-q")
    assert (quiet.stdout, quiet.stderr) == ("theirs@1\n", "")


def test_a_dry_run_changes_nothing_on_either_side(
    mwactl_cli: Cli, oci_host: str, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    address = f"oci://{oci_host}/cli/dry:v1"
    dry = mwactl_cli("registry", "push", "coco-mwa", address, "--dry-run")
    assert dry.code == 0 and dry.stdout.splitlines()[-1] == "nothing sent (dry run)"
    assert "to be sent" in dry.stdout
    assert mwactl_cli("registry", "pull", address).code == 3
    mwactl_cli("registry", "push", "coco-mwa", address)
    registry = elsewhere()
    dry = mwactl_cli("registry", "pull", address, "--dry-run")
    assert dry.code == 0 and dry.stdout.splitlines()[-1] == "nothing written (dry run)"
    assert not registry.root.exists() and not (registry.root.parent / "cache").exists()


def test_a_dry_run_names_the_very_command_and_a_push_the_pull_that_works(
    mwactl_cli: Cli, oci_host: str, entry: Entry, hub: Any
) -> None:
    address = f"oci://{oci_host}/cli/hints:v1"
    for arguments in (
        ("push", "coco-mwa", address, "--plain-http"),
        ("push", "coco-mwa", "hf://my-group/coco-mwa", "--public"),
    ):
        dry = mwactl_cli("registry", *arguments, "--dry-run")
        assert f"next: mwactl registry {' '.join(arguments)}\n" in dry.stderr
    pushed = mwactl_cli("registry", "push", "coco-mwa", address, "--plain-http")
    assert f"next: mwactl registry pull {address} --plain-http   (anywhere)" in pushed.stderr
    arguments = ("pull", address, "--name", "theirs", "--plain-http")
    dry = mwactl_cli("registry", *arguments, "--dry-run")
    assert f"next: mwactl registry {' '.join(arguments)}\n" in dry.stderr


def test_a_file_that_is_no_bundle_is_said_so(mwactl_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "hostname").write_text("machine\n")
    result = mwactl_cli("registry", "unpack", str(tmp_path / "hostname"))
    assert result.code == 5 and "this is no tar" in result.stderr


def test_the_hub_gets_the_model_card(mwactl_cli: Cli, hub: Any, entry: Entry) -> None:
    pushed = mwactl_cli("registry", "push", "coco-mwa", "hf://my-group/coco-mwa")
    assert pushed.code == 0, pushed.stderr
    files = hub.files("my-group/coco-mwa")
    assert files["README.md"].startswith(b"---\n") and b"library_name: mwactl" in files["README.md"]
    assert hub.private == {"my-group/coco-mwa"}
    assert "warning: the model card is incomplete (mwactl card coco-mwa@1 --check)" in pushed.stderr
    assert pushed.stdout.splitlines()[-1] == f"pushed hf://my-group/coco-mwa@{1:040x}"
    public = mwactl_cli("registry", "push", "coco-mwa", "hf://my-group/shown", "--public", "-q")
    assert public.code == 0 and hub.private == {"my-group/coco-mwa"}


def test_what_comes_from_the_hub_is_the_same(
    mwactl_cli: Cli, hub: Any, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    mwactl_cli("registry", "push", "coco-mwa", "hf://my-group/coco-mwa")
    registry = elsewhere()
    assert mwactl_cli("registry", "pull", "hf://my-group/coco-mwa", "-q").stdout == "coco-mwa@1\n"
    assert registry.resolve("coco-mwa").digest == entry.digest


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("push", "coco-mwa", "somewhere"), 2, "is no address of a remote"),
        (("push", "nobody", "oci://127.0.0.1:9/coco:v1"), 3, "there is no 'nobody'"),
        (("push", "coco-mwa", "oci://127.0.0.1:9/coco:v1"), 1, "127.0.0.1:9 cannot be reached"),
        (("push", "coco-mwa", "hf://a/b", "--plain-http"), 2, "leave out --plain-http"),
        (("push", "coco-mwa", "oci://127.0.0.1:9/coco:v1", "--public"), 2, "leave out --public"),
        (("pull", "coco-mwa"), 2, "is no address of a remote"),
        (("pull", "oci://127.0.0.1:9/coco:v1"), 1, "127.0.0.1:9 cannot be reached"),
        (("pull", "oci://127.0.0.1:9/coco:v1", "--name", "con"), 2, "is a device on Windows"),
    ],
)
def test_every_mistake_has_its_exit_code_and_a_next_step(
    mwactl_cli: Cli, entry: Entry, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = mwactl_cli("registry", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert says in result.stderr and "fix: " in result.stderr


def test_wrong_bytes_are_exit_code_5(
    mwactl_cli: Cli, hub: Any, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    mwactl_cli("registry", "push", "coco-mwa", "hf://my-group/coco-mwa")
    hub.spoil = lambda content: b"?" + content[1:]
    elsewhere()
    result = mwactl_cli("registry", "pull", "hf://my-group/coco-mwa")
    assert (result.code, result.stdout) == (5, "")
    assert "adapter.safetensors is not what its manifest says" in result.stderr


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_an_interruption_names_the_command_that_goes_on(
    mwactl_cli: Cli, script: Any, hub: Any, entry: Entry, elsewhere: Callable[[], Registry], verb: str
) -> None:
    address = "hf://my-group/coco-mwa"
    if verb == "pull":
        mwactl_cli("registry", "push", "coco-mwa", address)
        elsewhere()
    step = "/lfs/" if verb == "push" else "/download/"

    def interrupt(asked: Any) -> Any:
        if asked.path.startswith(step):
            os.kill(os.getpid(), signal.SIGINT)
        return hub.respond(asked)

    script.respond = interrupt
    arguments = ("pull", address, "--name", "theirs") if verb == "pull" else ("push", "coco-mwa", address, "--public")
    result = mwactl_cli("registry", *arguments)
    assert (result.code, result.stdout) == (130, "")
    assert f"go on: mwactl registry {' '.join(arguments)}" in result.stderr
    script.respond = hub.respond
    assert mwactl_cli("registry", *arguments).code == 0


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_help_ends_with_an_example_and_the_next_command(mwactl_cli: Cli, verb: str) -> None:
    result = mwactl_cli("registry", verb, "--help")
    assert result.code == 0
    said = " ".join(result.stdout.split())
    assert f"Example: mwactl registry {verb} " in said and "Next: mwactl registry " in said


def test_a_document_is_still_json_when_something_is_tried_again(
    mwactl_cli: Cli, hub: Any, entry: Entry, elsewhere: Callable[[], Registry]
) -> None:
    mwactl_cli("registry", "push", "coco-mwa", "hf://my-group/coco-mwa")
    hub.cuts = [100]
    elsewhere()
    result = mwactl_cli("registry", "pull", "hf://my-group/coco-mwa", "--json")
    assert json.loads(result.stdout)["reference"] == "coco-mwa@1"
    assert "trying again" in result.stderr
