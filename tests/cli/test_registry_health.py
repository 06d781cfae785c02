from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


@pytest.fixture
def registry() -> Registry:
    return Registry.default()


@pytest.fixture
def entry(registry: Registry) -> Entry:
    return publish(registry)


def publish(registry: Registry, name: str = "coco-mwa", data: bytes = b"tensors") -> Entry:
    return registry.publish(name, kind="adapter", files={"adapter.safetensors": data}, facts={}, verb="train")


def rot(path: Path, data: bytes = b"rot") -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def blob(registry: Registry, digest: str) -> Path:
    return registry.root / "blobs/sha256" / digest[:2] / digest


def age(registry: Registry) -> None:
    then = time.time() - 3 * 24 * 3600
    for path in registry.root.rglob("*"):
        os.utime(path, (then, then))


# -- verify --------------------------------------------------------------------------------------------------------


def test_a_healthy_registry_is_one_line(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    publish(registry, data=b"other")
    result = mwactl_cli("registry", "verify")
    assert result.code == 0
    assert re.fullmatch(r"2 versions, 4 blobs, \d+ B in \d+\.\d s\n", result.stdout)
    assert "next: mwactl registry gc" in result.stderr


def test_an_empty_registry_is_healthy(mwactl_cli: Cli, registry: Registry) -> None:
    result = mwactl_cli("registry", "verify")
    assert (result.code, result.stdout) == (0, "0 versions, 0 blobs, 0 B in 0.0 s\n")
    assert not registry.root.exists()


def test_each_fault_is_one_line_with_file_expectation_finding_and_command(
    mwactl_cli: Cli, registry: Registry, entry: Entry
) -> None:
    digest = entry.manifest["files"][0]["sha256"]
    rot(blob(registry, digest))
    rot(registry.root / "refs/coco-mwa/versions/1")
    publish(registry, "healthy", b"other")
    result = mwactl_cli("registry", "verify")
    assert result.code == 5
    lines = result.stdout.splitlines()
    assert len(lines) == 3, "the counts, and a line a fault"
    pointer, content = lines[1:]
    assert pointer.startswith("coco-mwa@1  refs/coco-mwa/versions/1  expected sha256:")
    assert "found 'rot'   repair: mwactl registry verify --repair" in pointer
    assert content.startswith(f"coco-mwa@1 adapter.safetensors  blobs/sha256/{digest[:2]}/{digest}  expected sha256:")
    assert "repair: mwactl registry unpack FILE.tar" in content
    assert "error: 2 faults" in result.stderr
    assert "fix: mwactl registry verify --repair" in result.stderr


def test_repair_says_what_is_healed_and_what_is_not(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    digest = entry.manifest["files"][0]["sha256"]
    rot(blob(registry, digest))
    rot(registry.root / "refs/coco-mwa/versions/1")
    result = mwactl_cli("registry", "verify", "--repair")
    assert result.code == 5
    assert "healed  coco-mwa@1  refs/coco-mwa/versions/1" in result.stdout.splitlines()
    assert "found no file   repair: mwactl registry unpack FILE.tar" in result.stdout
    assert "fix: mwactl registry unpack FILE.tar" in result.stderr
    assert len(list((registry.root / "quarantine").iterdir())) == 2
    publish(registry)
    assert mwactl_cli("registry", "verify", "--repair").code == 0


def test_the_commands_it_names_exist_and_end_the_fault(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    publish(registry, "healthy", b"other")
    rot(blob(registry, entry.manifest["files"][0]["sha256"]))
    said = mwactl_cli("registry", "verify", "--repair").stdout.splitlines()[-1]
    command = re.search(r"mwactl (registry rm coco-mwa@1)$", said)
    assert command
    assert mwactl_cli(*command[1].split(), "--yes").code == 0
    assert mwactl_cli("registry", "verify").code == 0


def test_verify_as_json_and_quiet(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    healthy = mwactl_cli("registry", "verify", "--json").json
    assert (healthy["schema"], healthy["versions"], healthy["blobs"], healthy["faults"]) == (1, 1, 2, [])
    rot(registry.root / "refs/coco-mwa/versions/1")
    broken = mwactl_cli("registry", "verify", "--json")
    assert broken.code == 5
    (fault,) = broken.json["faults"]
    assert fault["file"] == "refs/coco-mwa/versions/1"
    assert fault.keys() == {"what", "file", "expected", "found", "repair", "healable"}
    assert fault["healable"] is True
    quiet = mwactl_cli("registry", "verify", "-q")
    assert (quiet.code, quiet.stdout) == (5, "refs/coco-mwa/versions/1\n")
    healed = mwactl_cli("registry", "verify", "--repair", "--json")
    assert (healed.code, len(healed.json["healed"]), healed.json["faults"]) == (0, 1, [])


def test_references_limit_what_is_verified(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    other = publish(registry, "flickr", b"other")
    rot(blob(registry, other.digest))
    assert mwactl_cli("registry", "verify", "coco-mwa").code == 0
    assert mwactl_cli("registry", "verify", "coco-mwa@1", "flickr@1").code == 5
    assert mwactl_cli("registry", "verify", "absent").code == 3
    assert mwactl_cli("registry", "verify", "../x").code == 2


# -- gc ------------------------------------------------------------------------------------------------------------


def test_gc_says_what_would_go_and_deletes_nothing(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    registry.attach(entry, "evaluation", {"rsum": 1})
    registry.remove(entry)
    (registry.root / "tmp/left.part").write_bytes(b"x" * 2_000_000)
    before = sorted(registry.root.rglob("*"))
    result = mwactl_cli("registry", "gc", "--grace", "0")
    assert result.code == 0
    assert result.stdout.splitlines() == [
        "would delete 2.0 MB: 3 unreferenced blobs, 1 stale upload, 1 pointer to a result of a removed version",
        "coco-mwa@1 can then no longer be restored",
    ]
    assert "next: mwactl registry gc --apply --grace 0" in result.stderr
    assert sorted(registry.root.rglob("*")) == before


def test_gc_applied_deletes_that_and_then_nothing_is_left(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    registry.remove(publish(registry, data=b"other"))
    result = mwactl_cli("registry", "gc", "--apply", "--grace", "0")
    assert (result.code, result.stdout.splitlines()[0][:7]) == (0, "deleted")
    assert "coco-mwa@2 cannot be restored any more" in result.stdout
    assert mwactl_cli("registry", "gc", "--grace", "0").stdout == "would delete nothing\n"
    assert mwactl_cli("registry", "verify").code == 0
    assert registry.read(registry.resolve("coco-mwa"), "adapter.safetensors") == b"tensors"


def test_a_day_is_the_grace_period_unless_said(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    registry._blobs.put(b"old")
    age(registry)
    registry._blobs.put(b"young")
    result = mwactl_cli("registry", "gc")
    assert result.stdout == "would delete 3 B: 1 unreferenced blob; keeping 1 younger than 24 h\n"
    assert result.stderr.endswith("next: mwactl registry gc --apply\n")
    assert "keeping" not in mwactl_cli("registry", "gc", "--grace", "0").stdout


def test_gc_names_every_reference_in_doubt_and_deletes_nothing(
    mwactl_cli: Cli, registry: Registry, entry: Entry
) -> None:
    other = publish(registry, "flickr", b"other")
    registry._blobs.put(b"orphan")
    rot(blob(registry, other.digest))
    rot(registry.root / "refs/coco-mwa/versions/1")
    before = sorted(registry.root.rglob("*"))
    for options in ([], ["--apply"]):
        result = mwactl_cli("registry", "gc", "--grace", "0", *options)
        assert result.code == 5
        assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["coco-mwa@1", "flickr@1 manifest"]
        assert "2 references cannot be followed; nothing was deleted" in result.stderr
        assert "fix: mwactl registry verify --repair" in result.stderr
        assert sorted(registry.root.rglob("*")) == before
    assert mwactl_cli("registry", "gc", "--json").json["applied"] is False


def test_gc_shows_the_quarantine(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    rot(blob(registry, entry.digest))
    publish(registry)
    assert "quarantine/ holds 1 file, 3 B; gc never touches it" in mwactl_cli("registry", "gc").stdout.splitlines()


def test_gc_as_json_and_quiet(mwactl_cli: Cli, registry: Registry, entry: Entry) -> None:
    digest, _ = registry._blobs.put(b"orphan")
    file = f"blobs/sha256/{digest[:2]}/{digest}"
    document = mwactl_cli("registry", "gc", "--grace", "0", "--json").json
    assert (document["schema"], document["applied"], document["size_bytes"]) == (1, False, 6)
    assert document["blobs"] == [{"file": file, "size_bytes": 6}]
    assert mwactl_cli("registry", "gc", "--grace", "0", "-q").stdout == f"{file}\n"
    applied = mwactl_cli("registry", "gc", "--grace", "0", "--apply", "--json").json
    assert (applied["applied"], len(applied["blobs"])) == (True, 1)
    assert not (registry.root / file).exists()


@pytest.mark.parametrize("grace", ["-1", "soon"])
def test_a_grace_period_that_is_none_is_wrong_usage(mwactl_cli: Cli, registry: Registry, grace: str) -> None:
    assert mwactl_cli("registry", "gc", "--grace", grace).code == 2


def test_help_ends_with_an_example_and_the_next_command(mwactl_cli: Cli) -> None:
    for command in ("verify", "gc"):
        stdout = " ".join(mwactl_cli("registry", command, "--help").stdout.split())
        assert f"Example: mwactl registry {command}" in stdout
        assert "Next: mwactl registry" in stdout


def test_verifying_imports_nothing_heavy_and_no_lock(registry: Registry, entry: Entry) -> None:
    program = (
        "import sys; from mwactl.cli.registry import app; app(['verify'], standalone_mode=False);"
        "app(['gc'], standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'yaml', 'httpx', 'huggingface_hub', 'filelock'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("[]\n")
