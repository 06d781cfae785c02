from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Callable
from email.message import Message
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mwactl
from mwactl.registry import Registry
from mwactl.workflow.doctor import Finding, State, devices, models, software, storage
from mwactl.workflow.doctor import probe as probing
from mwactl.workflow.doctor.probe import CUDA, PROVIDERS, probe

PROJECT = Path(mwactl.__file__).parents[1] / "pyproject.toml"


@pytest.fixture
def nothing_probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """No process is started: every module is fine, and what the test puts here is what was found."""
    found: dict[str, dict[str, Any]] = {
        CUDA: {"built_for": None, "cards": []},
        PROVIDERS: {"usable": ["CPUExecutionProvider"], "unusable": []},
    }
    monkeypatch.setattr(probing, "probe", lambda names: found)
    monkeypatch.setattr(devices, "_driver", lambda: None)
    return found


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """installed(requirements, extras): what the package's metadata says."""

    def say(requirements: list[str], extras: tuple[str, ...] = (), python: str = ">=3.11") -> None:
        metadata = Message()
        metadata["Requires-Python"] = python
        for extra in extras:
            metadata["Provides-Extra"] = extra
        monkeypatch.setattr(software, "_installed", lambda: SimpleNamespace(requires=requirements, metadata=metadata))

    return say


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for findings in document["sections"].values() for found in findings}


def test_here_everything_that_every_job_needs_is_fine(mwactl_cli, empty_home):
    result = mwactl_cli("doctor", "--json")
    assert (result.code, result.json["schema"], result.json["ok"]) == (0, 1, True), result.stderr
    found = by_name(result.json)
    for name in ("mwactl", "python", "torch", "open-clip-torch", "beit3", "clip", "vlmo", "home", "registry content"):
        assert found[name]["state"] == "ok", found[name]
    assert found["torch"]["facts"]["version"] == found["torch"]["detail"]
    assert "CPUExecutionProvider" in found["onnxruntime providers"]["facts"]["usable"]
    assert found["cpu"]["facts"]["cores"] >= 1
    assert not empty_home.exists(), "looking writes nothing"


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "OSError: libcudart.so.12: cannot open"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os; os.abort()", "it ends Python (Aborted)"),
        ("import os; os._exit(3)", "it ends Python (exit code 3)"),
        ("raise SystemExit(0)", "SystemExit"),
        ("print('{'); __version__ = 'noisy'", None),
    ],
)
def test_a_module_that_breaks_in_any_way_is_one_finding_and_the_next_is_tried(tmp_path, monkeypatch, program, says):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe(["torch", "filelock"])
    assert found["filelock"]["version"]
    if says is None:
        assert found["torch"]["version"] == "noisy"
    else:
        assert says in found["torch"]["error"]


def test_one_that_never_answers_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(probing, "_SECONDS", 0.3)
    assert probe(["torch"]) == {"torch": {"error": "no answer in 0.3 s"}}


def test_a_broken_torch_is_exit_code_1_with_the_command_that_mends_it(mwactl_cli, nothing_probed):
    nothing_probed["torch"] = {"error": "OSError: libcudart.so.12: cannot open\nmore"}
    result = mwactl_cli("doctor")
    assert result.code == 1
    assert "  broken   torch " in result.stdout
    assert "cannot be imported: OSError: libcudart.so.12: cannot open\n" in result.stdout
    first, *_, fix = result.stderr.splitlines()
    assert (first, fix) == ("error: torch: broken", "  fix: pip install --force-reinstall 'torch>=2.6'")
    quiet = mwactl_cli("doctor", "-q")
    assert (quiet.code, quiet.stdout) == (1, "torch\n")


def test_packages_that_are_missing_or_too_old_are_told_apart(installed):
    installed(["no-such-package>=2", "filelock>=999", "numpy", "absent; python_version < '3'"])
    found = {finding.name: finding for finding in software.find_packages({})}
    assert found.keys() == {"numpy", "no-such-package", "filelock"}
    assert (found["no-such-package"].state, found["filelock"].state) == (State.MISSING, State.BROKEN)
    assert found["no-such-package"].fix == "pip install 'no-such-package>=2'"
    assert [name for name, finding in found.items() if finding.is_trouble] == ["no-such-package", "filelock"]


def test_what_a_feature_lacks_is_named_with_its_pip_command_and_is_no_trouble(installed):
    installed(
        ["numpy", "no-such-package>=2; extra == 'lora'", "filelock; extra == 'hf-text'", "ruff; extra == 'dev'"],
        ("lora", "hf-text", "dev"),
    )
    lacks, has = sorted(software.find_features(), key=lambda finding: finding.state.value)
    assert (lacks.name, lacks.fix, lacks.is_trouble) == ("lora", "pip install 'mwactl[lora]'", False)
    assert lacks.detail == "the baseline `method.name: lora`; lacks no-such-package>=2"
    assert (has.name, has.state) == ("hf-text", State.OK)


def test_every_extra_is_said_to_be_for_something():
    if not PROJECT.is_file():
        pytest.skip("not a checkout")
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras) <= software._FEATURES.keys() | software._NOT_FOR_USERS


def test_a_python_that_does_not_fit_is_broken(installed):
    installed([], python="<3")
    *_, python = software.find_python()
    assert (python.state, python.is_trouble) == (State.BROKEN, True)


@pytest.mark.parametrize(
    ("asked", "driver", "states"),
    [
        ({"built_for": None, "cards": []}, None, {"cuda": State.MISSING}),
        ({"built_for": None, "cards": []}, {"version": "555", "cards": ["H100"]},
         {"driver": State.OK, "cuda": State.MISSING}),
        ({"built_for": "12.8", "cards": [{"name": "H100", "memory_bytes": 8e10, "free_bytes": 7e10, "computes": True}]},
         {"version": "555", "cards": ["H100"]}, {"driver": State.OK, "cuda:0": State.OK}),
        ({"built_for": "12.8", "cards": [{"name": "K80", "error": "no kernel image is available"}]},
         {"version": "470", "cards": ["K80"]}, {"driver": State.OK, "cuda:0": State.BROKEN}),
    ],
)  # fmt: skip
def test_a_card_that_torch_cannot_compute_on_is_told_from_no_card(monkeypatch, asked, driver, states):
    monkeypatch.setattr(devices, "_driver", lambda: driver)
    found = list(devices.find_cards({CUDA: asked}))
    assert {finding.name: finding.state for finding in found} == states
    assert all(finding.fix for finding in found if driver and finding.state is not State.OK)


@pytest.mark.parametrize(
    ("asked", "driver", "state"),
    [
        ({"usable": ["CPUExecutionProvider"], "unusable": ["CUDAExecutionProvider"]}, None, State.OK),
        ({"usable": ["CPUExecutionProvider"], "unusable": []}, {"version": "555", "cards": ["H100"]}, State.MISSING),
        ({"error": "ImportError: no"}, None, State.BROKEN),
    ],
)
def test_providers_are_those_that_a_session_gets(monkeypatch, asked, driver, state):
    monkeypatch.setattr(devices, "_driver", lambda: driver)
    (found,) = devices.find_providers({PROVIDERS: asked})
    assert found.state is state


def test_a_home_that_cannot_be_and_a_full_disk_are_trouble(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("MWACTL_REGISTRY", str(tmp_path / "registry"))
    places = {finding.name: finding for finding in storage.find_places()}
    assert (places["home"].state, places["registry"].state) == (State.BROKEN, State.OK)
    assert places["home"].fix == "MWACTL_HOME=/a/folder/of/yours"
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    *_, closed = storage.find_places()
    assert (closed.state, closed.fix) == (State.BROKEN, "MWACTL_REGISTRY=/a/folder/of/yours")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5e8))
    assert all(finding.is_trouble and "0.5 GB free" in finding.detail for finding in storage.find_places())


@pytest.mark.usefixtures("nothing_probed")
def test_a_damaged_registry_is_found_without_reading_the_adapters(mwactl_cli):
    registry = Registry.default()
    entry = registry.publish("coco", kind="adapter", files={"a": b"x" * 1000}, facts={}, verb="train")
    assert by_name(mwactl_cli("doctor", "--json").json)["registry content"]["detail"].startswith(
        "1 version, nothing lost"
    )
    blob = registry.verified_path(entry, "a")
    blob.unlink()
    result = mwactl_cli("doctor", "--json")
    found = by_name(result.json)["registry content"]
    assert (result.code, found["state"], found["fix"]) == (1, "broken", "mwactl registry verify")
    assert found["facts"]["faults"] == ["coco@1 a"]


def test_a_plugin_that_does_not_load_is_named_with_its_error_and_hides_no_other(monkeypatch):
    points = [*models.entry_points(group=models.GROUP), EntryPoint("bad", "no_such_module:plugin", models.GROUP)]
    points.append(EntryPoint("clip", "another:plugin", models.GROUP))
    monkeypatch.setattr(models, "entry_points", lambda group: points)
    found = list(models.find_backbones())
    states = [(finding.name, finding.state) for finding in found]
    assert ("bad", State.BROKEN) in states and ("clip", State.OK) in states and ("clip", State.BROKEN) in states
    assert "No module named 'no_such_module'" in next(finding.detail for finding in found if finding.name == "bad")
    assert [finding.name for finding in models.find_weights()] == ["weights"]


def test_no_plugin_at_all_is_trouble(monkeypatch):
    monkeypatch.setattr(models, "entry_points", lambda group: [])
    (found,) = models.find_backbones()
    assert found.is_trouble and list(models.find_weights()) == []


@pytest.mark.usefixtures("nothing_probed")
def test_a_check_that_fails_is_a_finding_and_the_others_are_made(mwactl_cli, monkeypatch):
    def fail() -> list[Finding]:
        raise RuntimeError("unforeseen\nand long")

    monkeypatch.setattr(storage, "find_registry", fail)
    result = mwactl_cli("doctor", "--json")
    found = by_name(result.json)
    assert (result.code, found["places"]["detail"]) == (1, "RuntimeError: unforeseen")
    assert found["home"]["state"] == "ok" and found["clip"]["state"] == "ok"


def test_help_ends_with_an_example(mwactl_cli):
    assert "Example: mwactl doctor" in mwactl_cli("doctor", "--help").stdout
