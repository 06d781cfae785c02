from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, NotFoundError, UsageError
from mwactl.progress import Progress, Silent
from mwactl.registry import Entry, Registry
from mwactl.registry.blobs import BlobStore
from mwactl.remote import open_remote, plan_pull, plan_push, pull, push, transfer


class Bars(Silent):
    """A reporter that keeps what was counted."""

    def __init__(self) -> None:
        self.totals: dict[str, list[int]] = {}

    def progress(self, label: str, total: int, *, done: int = 0) -> Progress:
        counts = self.totals[label] = [total, done]

        class Bar:
            def advance(self, steps: int = 1, *, note: str = "") -> None:
                counts[1] += steps

            def close(self) -> None:
                pass

        return Bar()


def test_a_pull_that_is_killed_anywhere_shows_nothing_half_made_and_can_be_repeated(
    oci_host: str, registry: Registry, memory_disk: Path
) -> None:
    content = b"".join(number.to_bytes(4, "big") for number in range(25_000))
    files: dict[str, Path | bytes] = {"adapter.safetensors": content}
    entry = registry.publish("coco-mwa", kind="adapter", files=files, facts={}, verb="train")
    registry.attach(entry, "evaluation", {"rsum": 500.0})
    address = f"oci://{oci_host}/killed/coco:v1"
    push(registry, entry, open_remote(address))
    driver = Path(__file__).with_name("crash_driver.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(driver), str(memory_disk), address, entry.digest],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["kills"] > 60


def test_progress_counts_every_byte_once(oci_host: str, registry: Registry, other: Registry, entry: Entry) -> None:
    bars = Bars()
    address = f"oci://{oci_host}/counted/coco:v1"
    push(registry, entry, open_remote(address), reporter=bars)
    remote = open_remote(address)
    pull(other, remote, plan_pull(other, remote), reporter=bars)
    total, done = bars.totals["pulling coco-mwa"]
    assert done == total == entry.size_bytes
    total, done = bars.totals["pushing coco-mwa@1"]
    assert total <= done < total + 2000, "documents are not in the total"


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("hf://a/b", {"plain_http": True}, "never spoken to without encryption"),
        ("oci://localhost/coco:v1", {"public": True}, "leave out --public"),
        ("ftp://a/b", {}, "is no address of a remote"),
    ],
)
def test_an_option_has_to_go_with_its_address(address: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_remote(address, **options)


def test_a_registry_on_another_machine_is_spoken_to_in_the_clear_only_if_told_to() -> None:
    assert open_remote("oci://10.1.2.3:5000/coco:v1").http.origin == "https://10.1.2.3:5000"
    assert open_remote("oci://10.1.2.3:5000/coco:v1", plain_http=True).http.origin == "http://10.1.2.3:5000"
    assert open_remote("oci://LocalHost.example:5000/coco:v1").http.origin == "https://localhost.example:5000"
    assert open_remote("oci://localhost:5000/coco:v1").http.origin == "http://localhost:5000"
    assert open_remote("oci://docker.io/me/coco:v1").http.origin == "https://registry-1.docker.io"


def test_a_folder_is_not_pushed(oci_host: str, registry: Registry, entry: Entry, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(BlobStore(registry.root).read(entry.digest, where=""))
    for file in entry.manifest["files"]:
        (folder / file["path"]).write_bytes(registry.read(entry, file["path"]))
    found = registry.resolve(str(folder))
    remote = open_remote(f"oci://{oci_host}/folder/coco:v1")
    for action in (plan_push, push):
        with pytest.raises(UsageError, match=r"is a folder, not an entry.*fix: mwactl registry add '"):
            action(registry, found, remote)
    with pytest.raises(NotFoundError):
        plan_pull(registry, remote)


def test_room_is_looked_for_on_both_disks(
    oci_host: str, registry: Registry, entry: Entry, memory_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"oci://{oci_host}/room/coco:v1"
    push(registry, entry, open_remote(address))
    there = Registry(memory_disk / "registry")
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr(transfer, "check_space", lambda path, need: asked.append((path, need)))
    remote = open_remote(address)
    pull(there, remote, plan_pull(there, remote))
    size = entry.size_bytes
    if memory_disk.stat().st_dev == registry.root.stat().st_dev:
        assert asked == [(there.root, 2 * size)]
    else:
        assert [need for _, need in asked] == [size, size] and asked[1][0] == there.root


def test_a_registry_that_is_not_there_is_said_so(registry: Registry, entry: Entry) -> None:
    with pytest.raises(MwactlError, match=r"127.0.0.1:9 cannot be reached.*check the network"):
        push(registry, entry, open_remote("oci://127.0.0.1:9/coco:v1"))


def test_importing_the_registry_and_the_command_line_loads_no_network() -> None:
    program = (
        "import sys, mwactl.cli, mwactl.registry\n"
        "found = {'mwactl.remote', 'huggingface_hub', 'httpx', 'http.client'} & set(sys.modules)\n"
        "assert not found, found\n"
        "import mwactl.remote\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
