"""`mwactl registry pack` and `mwactl registry unpack`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mwactl.files import sha256_bytes
from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


@pytest.fixture
def family(empty_home: Path) -> Entry:
    """base@1 → coco@1, evaluated."""
    registry = Registry.default()
    facts = {"base": {"backbone": "tiny", "fingerprint": "sha256:ab"}, "method": {"name": "mwa"}}
    base = registry.publish("base", kind="adapter", files={"a.json": b"[1]"}, facts=facts, verb="train")
    entry = registry.publish(
        "coco", kind="adapter", files={"a.json": b"[2]"}, facts=facts, parents=[base.digest], verb="train"
    )
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    return entry


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """From the call on, the command line is that of another machine."""

    def go() -> Path:
        monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "another-home"))
        return tmp_path / "another-home"

    return go


def test_an_adapter_goes_from_one_machine_to_another(
    mwactl_cli: Cli, family: Entry, elsewhere: Callable[[], Path], tmp_path: Path
) -> None:
    file = tmp_path / "coco.tar"
    result = mwactl_cli("registry", "pack", "coco", "-o", file, "--with-parents")
    assert result.code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:3] for row in rows[:2]] == [["base@1", "3 B", "0"], ["coco@1", "3 B", "1"]]
    assert f"sha256:{sha256_bytes(file.read_bytes())}" in rows[2][0]
    assert f"next: mwactl registry unpack {file}" in result.stderr

    home = elsewhere()
    result = mwactl_cli("registry", "unpack", file)
    assert result.code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:3] for row in rows] == [["base@1", "published", "base@1"], ["coco@1", "published", "coco@1"]]
    assert "next: mwactl registry show coco@1" in result.stderr
    again = mwactl_cli("registry", "unpack", file)
    assert [line.split("\t")[1] for line in again.stdout.splitlines()] == 2 * ["was here already"]

    assert (home / "registry").is_dir()
    shown = mwactl_cli("registry", "show", "coco", "--json").json
    assert shown["digest"] == family.digest
    assert [manifest.get("references") for manifest in shown["lineage"]] == [["coco@1"], ["base@1"]]
    assert shown["attachments"][0]["document"] == {"text_to_image": {"R@1": 60.5}}
    assert "60.5" in mwactl_cli("registry", "list").stdout


def test_a_dry_run_of_pack_prints_the_plan_and_writes_nothing(mwactl_cli: Cli, family: Entry, tmp_path: Path) -> None:
    file = tmp_path / "my coco.tar"
    planned = mwactl_cli("registry", "pack", "coco", "-o", file, "--with-parents", "--dry-run")
    assert "nothing written (dry run)" in planned.stdout
    assert f"next: mwactl registry pack coco -o '{file}' --with-parents" in planned.stderr
    document = mwactl_cli("registry", "pack", "coco", "-o", file, "--with-parents", "--dry-run", "--json").json
    assert not file.exists()
    assert (document["dry_run"], document["sha256"]) == (True, None)
    written = mwactl_cli("registry", "pack", "coco", "-o", file, "--with-parents", "--json").json
    assert written | {"dry_run": True, "sha256": None} == document
    assert written["sha256"] == sha256_bytes(file.read_bytes())
    assert written["size_bytes"] == file.stat().st_size
    assert written["schema"] == 1
    assert written["entries"][1] == {
        "reference": "coco@1", "name": "coco", "version": 1, "digest": family.digest, "size_bytes": 3,
        "attachments": 1,
    }  # fmt: skip


def test_a_dry_run_of_unpack_prints_the_plan_and_writes_nothing(
    mwactl_cli: Cli, family: Entry, elsewhere: Callable[[], Path], tmp_path: Path
) -> None:
    file = tmp_path / "coco.tar"
    assert mwactl_cli("registry", "pack", "coco", "-o", file, "-q").stdout == f"{file}\n"
    home = elsewhere()
    planned = mwactl_cli("registry", "unpack", file, "--name", "ann", "--dry-run")
    assert planned.stdout.splitlines()[0].split("\t")[:3] == ["ann", "to be published", "coco@1"]
    assert planned.stdout.splitlines()[-1] == "nothing written (dry run)"
    assert f"next: mwactl registry unpack {file} --name ann" in planned.stderr
    document = mwactl_cli("registry", "unpack", file, "--dry-run", "--json").json
    assert document["entries"][0]["reference"] is None
    assert not home.exists()
    done = mwactl_cli("registry", "unpack", file, "--json").json
    (row,) = done["entries"]
    assert (done["schema"], done["dry_run"]) == (1, False)
    assert row["digest"] == family.digest
    assert (row["reference"], row["packed_as"], row["was_here"]) == ("coco@1", "coco@1", False)
    assert mwactl_cli("registry", "unpack", file, "--dry-run", "--json").json["entries"][0]["was_here"]
    assert mwactl_cli("registry", "unpack", file, "--name", "ann", "-q").stdout == "ann@1\n"


def test_pack_does_not_write_over_a_file_unless_asked(mwactl_cli: Cli, family: Entry, tmp_path: Path) -> None:
    file = tmp_path / "coco.tar"
    file.write_bytes(b"precious")
    for more in ([], ["--dry-run"]):
        result = mwactl_cli("registry", "pack", "coco", "-o", file, *more)
        assert result.code == 2
        assert "--force" in result.stderr
    assert file.read_bytes() == b"precious"
    assert mwactl_cli("registry", "pack", "coco", "-o", file, "--force").code == 0
    assert file.read_bytes() != b"precious"


def test_pack_says_which_ancestors_are_not_there(mwactl_cli: Cli, family: Entry, tmp_path: Path) -> None:
    Registry.default().publish("orphan", kind="adapter", files={}, facts={}, parents=["ab" * 32], verb="train")
    arguments = ("registry", "pack", "orphan", "-o", tmp_path / "o.tar", "--with-parents", "--dry-run")
    assert (
        f"warning: an ancestor is not in this registry and not packed: sha256:{'ab' * 32}"
        in mwactl_cli(*arguments).stderr
    )
    assert mwactl_cli(*arguments, "--json").json["missing_ancestors"] == ["ab" * 32]


def test_every_failure_has_its_exit_code_and_a_next_step(
    mwactl_cli: Cli, family: Entry, elsewhere: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "coco.tar"
    assert mwactl_cli("registry", "pack", "coco").code == 2, "-o is missing"
    assert mwactl_cli("registry", "pack", "nothing", "-o", file).code == 3
    assert mwactl_cli("registry", "pack", "coco", "-o", file).code == 0
    home = elsewhere()
    assert mwactl_cli("registry", "unpack", tmp_path / "nothing.tar").code == 3
    assert mwactl_cli("registry", "unpack", file, "--name", "../x").code == 2
    (tmp_path / "bad.tar").write_bytes(file.read_bytes().replace(b"[2]", b"[3]"))
    result = mwactl_cli("registry", "unpack", tmp_path / "bad.tar")
    assert result.code == 5
    assert "not what its digest says" in result.stderr and "fix:" in result.stderr
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        assert mwactl_cli("registry", "unpack", file).code == 6
    assert not home.exists()
