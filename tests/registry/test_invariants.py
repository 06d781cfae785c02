"""What holds whatever happens: kills, several writers, rot, a registry that may only be read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, VerificationError
from mwactl.registry import BrokenEntry, Entry, Registry
from mwactl.registry.verify import verify

Publish = Callable[..., Entry]
Drive = Callable[..., str]


@pytest.mark.parametrize(("scenario", "fewest_calls"), [("first", 60), ("next", 40), ("attach", 25)])
def test_a_kill_at_any_system_call_loses_nothing_old_and_shows_nothing_half_made(
    memory_disk: Path, drive: Drive, scenario: str, fewest_calls: int
) -> None:
    report = json.loads(drive("crash_driver.py", memory_disk, scenario))
    assert report["failures"] == []
    assert report["calls"] >= fewest_calls
    assert report["kills"] > 2 * report["calls"], "before and after every call, and within every write"


def test_the_kill_test_finds_a_pointer_written_in_place(memory_disk: Path, drive: Drive) -> None:
    report = json.loads(drive("crash_driver.py", memory_disk, "next", "sabotage"))
    assert any("half-made" in failure for failure in report["failures"])


@pytest.mark.parametrize("lock", ["locked", "unlocked"])
def test_eight_writers_at_once_lose_and_repeat_no_version(memory_disk: Path, drive: Drive, lock: str) -> None:
    root = memory_disk / "registry"
    drive("writers_driver.py", root, "8", "15", lock)
    registry = Registry(root)
    entries = [entry for entry in registry.entries() if isinstance(entry, Entry)]
    assert [entry.version for entry in entries] == list(range(120, 0, -1))
    contents = {registry.read(entry, "adapter.safetensors") for entry in entries}
    assert contents == {f"writer {i}, version {j}".encode() for i in range(8) for j in range(15)}


def faults(registry: Registry) -> list[str]:
    """Everything a full read of a registry complains about."""
    found = []
    for entry in registry.entries():
        if isinstance(entry, BrokenEntry):
            found.append(entry.problem)
            continue
        for file in entry.manifest["files"]:
            try:
                registry.read(entry, file["path"])
            except VerificationError as error:
                found.append(str(error))
        found += [item["problem"] for item in registry.attachments(entry) if "problem" in item]
        found += [item["problem"] for item in registry.history(entry.name) if "problem" in item]
    return found


REFERENCES = ("coco", "coco@1", "coco@2", "coco:prod")


def what_it_reads(registry: Registry, reference: str) -> tuple[str, bytes, list[Any]] | None:
    """The digest, content and results behind a reference; None where it is refused."""
    try:
        entry = registry.resolve(reference)
        content = registry.read(entry, "adapter.safetensors")
    except MwactlError:
        return None
    return entry.digest, content, [item for item in registry.attachments(entry) if "problem" not in item]


def test_every_flipped_bit_in_every_file_is_found_and_leads_to_nothing_else(
    registry: Registry, publish: Publish
) -> None:
    first = publish()
    second = publish(data=b"other tensors", parents=(first.digest,))
    registry.attach(second, "evaluation", {"text_to_image": {"R@1": 60.5}})
    removed = publish(data=b"removed")
    registry.attach(removed, "evaluation", {"text_to_image": {"R@1": 61.5}})
    registry.remove(removed)
    registry.alias("coco", "prod", 1)
    registry.tag(first, {"split": "val"})
    assert verify(registry).faults == []
    right = {reference: what_it_reads(registry, reference) for reference in REFERENCES}
    assert None not in right.values()
    dice, flips = random.Random(0), 0
    for path in sorted(path for path in registry.root.rglob("*") if path.is_file() and path.stat().st_size):
        good = path.read_bytes()
        path.chmod(0o644)
        for bit in dice.sample(range(8 * len(good)), min(200, 8 * len(good))):
            rotten = bytearray(good)
            rotten[bit // 8] ^= 1 << bit % 8
            path.write_bytes(rotten)
            assert path in [fault.file for fault in verify(registry).faults], f"bit {bit} of {path}"
            for reference in REFERENCES:
                read = what_it_reads(registry, reference)
                if read is not None:
                    assert read[:2] == right[reference][:2], f"bit {bit} of {path}: {reference} is something else"
                    assert all(item["document"] in [x["document"] for x in right[reference][2]] for item in read[2])
            flips += 1
        path.write_bytes(good)
    assert verify(registry).faults == []
    assert flips > 2000


SAVE_TENSORS = """
import sys
from pathlib import Path
import torch
from mwactl.adapter.serialise import to_bytes
from mwactl.registry import Registry

forwards = sys.argv[2] == "forwards"
tensors = {f"site.{n}.down.weight": torch.arange(12.0).reshape(3, 4) / (n + 1) for n in range(20)}
facts = {"method": {"name": "mwa", "bottleneck": 64}, "base": {"backbone": "tiny"}}
if not forwards:
    tensors, facts = dict(reversed(tensors.items())), dict(reversed(facts.items()))
files = {"adapter.safetensors": to_bytes(tensors, facts), "recipe.yaml": b"seed: 0"}
files = files if forwards else dict(reversed(files.items()))
print(Registry(Path(sys.argv[1])).publish("coco", kind="adapter", files=files, facts=facts, verb="train").digest)
"""


def test_the_same_tensors_have_the_same_digest_in_two_processes(memory_disk: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE_TENSORS, memory_disk / order, order],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        for order, seed in (("forwards", "1"), ("backwards", "2"))
    ]
    digests = [process.communicate()[0].strip() for process in started]
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


def test_a_corrupt_manifest_hides_no_other_entry(registry: Registry, publish: Publish) -> None:
    for name in ("coco", "flickr", "zebra"):
        publish(name, data=name.encode())
    manifest = registry._blobs.path(registry.resolve("flickr").digest)
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-5])
    listed = registry.entries()
    assert [entry.reference for entry in listed] == ["coco@1", "flickr@1", "zebra@1"]
    broken = listed[1]
    assert isinstance(broken, BrokenEntry)
    assert "manifest of flickr@1 is corrupt" in broken.problem
    with pytest.raises(VerificationError, match="flickr@1"):
        registry.resolve("flickr")


def test_a_rotten_blob_heals_when_the_same_content_is_published_again(registry: Registry, publish: Publish) -> None:
    entry = publish()
    for digest in (entry.manifest["files"][0]["sha256"], entry.digest):
        path = registry._blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)
        assert faults(registry)
        assert publish() == entry, "the same version, not a new one"
        assert faults(registry) == []
    assert len(list((registry.root / "quarantine").iterdir())) == 2


def test_reading_writes_nothing(
    registry: Registry, publish: Publish, snapshot: Callable[[Path], Any], mwactl_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    publish()
    entry = publish(data=b"other")
    registry.attach(entry, "evaluation", {"rsum": 500.0})
    monkeypatch.setenv("MWACTL_REGISTRY", str(registry.root))
    before = snapshot(registry.root)
    reader = Registry(registry.root)
    assert len(reader.entries()) == 2
    assert reader.read(reader.resolve(None), "adapter.safetensors") == b"other"
    assert reader.attachments(entry) and reader.lineage(entry) and reader.references() and reader.history("coco")
    assert mwactl_cli("registry", "list").code == 0
    assert mwactl_cli("registry", "show", "coco@1").code == 0
    assert snapshot(registry.root) == before


def test_looking_at_a_registry_that_is_not_there_makes_none(registry: Registry) -> None:
    assert registry.entries() == []
    assert registry.names() == []
    with pytest.raises(MwactlError, match="empty"):
        registry.resolve(None)
    assert not registry.root.exists()


def test_the_registry_imports_no_torch_and_reads_without_the_lock() -> None:
    program = (
        "import sys; from mwactl.registry import Registry; Registry.default().entries();"
        "print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'safetensors', 'rich', 'filelock'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
