from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


@pytest.fixture
def registry() -> Registry:
    return Registry.default()


def publish(registry: Registry, name: str = "coco-mwa", data: bytes = b"tensors", **facts: Any) -> Entry:
    defaults = {"base": {"backbone": "beit3-large"}, "method": {"name": "mwa", "config": {"bottleneck": 64}}}
    return registry.publish(
        name, kind="adapter", files={"adapter.safetensors": data}, facts=defaults | facts, verb="train",
        parents=facts.pop("parents", ()),
    )  # fmt: skip


def rot(registry: Registry, digest: str) -> None:
    path = registry.root / "blobs/sha256" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"rot")


def test_list_prints_a_row_a_version_for_programs(mwactl_cli: Cli, registry: Registry) -> None:
    first = publish(registry)
    second = publish(registry, data=b"x" * 1_500_000)
    registry.attach(second, "evaluation", {"text_to_image": {"R@1": 60.54}})
    registry.alias("coco-mwa", "prod", 2), registry.alias("coco-mwa", "next", 2)
    registry.tag(second, {"split": "val"})
    result = mwactl_cli("registry", "list")
    assert result.code == 0
    assert result.stdout.splitlines() == [
        f"coco-mwa\t2\tnext, prod\tbeit3-large\tmwa\t1.5 MB\t60.5\t{second.created}\tsplit=val",
        f"coco-mwa\t1\t\tbeit3-large\tmwa\t7 B\t\t{first.created}\t",
    ]
    assert "next: mwactl registry show coco-mwa@2" in result.stderr


def test_list_prints_an_aligned_table_with_ages_on_a_terminal(
    mwactl_cli: Cli, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = mwactl_cli("registry", "list").stdout.splitlines()
    assert lines[0].split() == [
        "NAME", "VER", "ALIASES", "BASE", "METHOD", "SIZE", "t2i", "R@1", "CREATED", "TAGS",
    ]  # fmt: skip
    assert lines[1].endswith("just now")
    assert lines[0].index("CREATED") == lines[1].index("just now")


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=2, seconds=50), "2 min ago"),
        (timedelta(hours=23), "23 h ago"),
        (timedelta(days=400), "400 d ago"),
    ],
)
def test_ages_are_in_the_largest_whole_unit(monkeypatch: pytest.MonkeyPatch, age: timedelta, shown: str) -> None:
    from mwactl.cli.registry.facts import when

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert when((datetime.now(UTC) - age).isoformat()) == shown


def test_list_as_json_and_quiet(mwactl_cli: Cli, registry: Registry) -> None:
    entry = publish(registry)
    publish(registry, "flickr")
    document = mwactl_cli("registry", "list", "--json").json
    assert document["schema"] == 1
    assert [row["reference"] for row in document["entries"]] == ["coco-mwa@1", "flickr@1"]
    assert document["entries"][0]["created"] == entry.created
    quiet = mwactl_cli("registry", "list", "-q")
    assert (quiet.stdout, quiet.stderr) == ("coco-mwa@1\nflickr@1\n", "")


def test_an_empty_registry_is_no_error(mwactl_cli: Cli, registry: Registry) -> None:
    result = mwactl_cli("registry", "list")
    assert (result.code, result.stdout) == (0, "")
    assert "the registry is empty" in result.stderr
    assert mwactl_cli("registry", "list", "--json").json["entries"] == []
    assert not registry.root.exists()


def test_a_corrupt_version_is_listed_as_corrupt_beside_the_others(mwactl_cli: Cli, registry: Registry) -> None:
    publish(registry)
    rot(registry, publish(registry, "flickr", data=b"flickr").manifest["files"][0]["sha256"])
    rot(registry, publish(registry, "zebra", data=b"z").digest)
    result = mwactl_cli("registry", "list")
    rows = [[*line.split("\t")[:2], line.split("\t")[3]] for line in result.stdout.splitlines()]
    assert rows == [["coco-mwa", "1", "beit3-large"], ["flickr", "1", "corrupt"], ["zebra", "1", "corrupt"]]
    assert "warning: zebra@1: the manifest of zebra@1 is corrupt" in result.stderr
    statuses = {row["reference"]: row["status"] for row in mwactl_cli("registry", "list", "--json").json["entries"]}
    assert statuses["zebra@1"] == "corrupt"
    assert result.code == 0


def test_a_corrupt_evaluation_is_warned_about(mwactl_cli: Cli, registry: Registry) -> None:
    entry = publish(registry)
    rot(registry, registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}}))
    result = mwactl_cli("registry", "list")
    assert "warning: coco-mwa@1: evaluation 1 of coco-mwa@1 is corrupt" in result.stderr
    shown = mwactl_cli("registry", "show", "coco-mwa")
    assert shown.code == 0
    assert "evaluation 1 of coco-mwa@1 is corrupt" in shown.stderr


def test_show_prints_everything_that_is_known(mwactl_cli: Cli, registry: Registry) -> None:
    parent = publish(registry, "parent", data=b"old")
    gone = "0" * 64
    entry = registry.publish(
        "coco-mwa", kind="adapter", files={"adapter.safetensors": b"tensors"}, parents=[parent.digest, gone],
        facts={"base": {"backbone": "beit3-large", "parameters": 674_400_000}, "train": None, "layers": [1, 2],
               "data": [{"name": "coco", "split": "train"}]},
        verb="train",
    )  # fmt: skip
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    result = mwactl_cli("registry", "show", "coco-mwa@1")
    assert result.code == 0
    for line in (
        f"coco-mwa@1  adapter  sha256:{entry.digest}",
        f"created   {entry.created}",
        f"  adapter.safetensors  7 B  sha256:{entry.manifest['files'][0]['sha256'][:12]}",
        "  backbone  beit3-large",
        "  parameters  674,400,000",
        "train  none",
        "layers  1, 2",
        "data 1",
        "  name  coco",
        f"    parent@1  injected mwa  sha256:{parent.digest[:12]}",
        "    sha256:000000000000  no longer in this registry",
        "    R@1  60.5",
    ):
        assert line in result.stdout.splitlines()
    assert "next: mwactl eval coco-mwa@1" in result.stderr


def test_show_as_json_and_quiet(mwactl_cli: Cli, registry: Registry) -> None:
    parent = publish(registry, "parent", data=b"old")
    entry = registry.publish("coco", kind="adapter", files={}, facts={}, parents=[parent.digest], verb="train")
    digest = registry.attach(entry, "evaluation", {"rsum": 500.0})
    publish(registry, "coco", data=b"later")
    document = mwactl_cli("registry", "show", f"coco@sha256:{entry.digest[:10]}", "--json").json
    assert (document["schema"], document["reference"], document["digest"]) == (1, "coco@1", entry.digest)
    assert document["manifest"] == entry.manifest
    assert [item["references"] for item in document["lineage"]] == [["coco@1"], ["parent@1"]]
    assert [item["digest"] for item in document["attachments"]] == [digest]
    assert [line["verb"] for line in document["history"]] == ["train", "attach"]
    assert mwactl_cli("registry", "show", "coco", "-q").stdout == "coco@2\n"


def test_show_without_a_reference_shows_the_version_published_last(mwactl_cli: Cli, registry: Registry) -> None:
    publish(registry, "zebra")
    publish(registry, "coco")
    assert mwactl_cli("registry", "show", "-q").stdout == "coco@1\n"


def test_each_failure_has_its_exit_code_and_a_next_step(mwactl_cli: Cli, registry: Registry) -> None:
    entry = publish(registry)
    absent = mwactl_cli("registry", "show", "coco-mva")
    assert (absent.code, absent.stdout) == (3, "")
    assert "did you mean coco-mwa?" in absent.stderr
    assert "fix: mwactl registry list" in absent.stderr
    assert mwactl_cli("registry", "show", "a/b").code == 2
    assert mwactl_cli("registry", "show", "coco-mwa:prod").code == 3
    rot(registry, entry.digest)
    corrupt = mwactl_cli("registry", "show", "coco-mwa", "--json")
    assert (corrupt.code, corrupt.stdout) == (5, "")
    assert "corrupt" in corrupt.stderr


def test_log_follows_aliases_and_digests_to_their_version(mwactl_cli: Cli, registry: Registry) -> None:
    first, second = publish(registry), publish(registry, data=b"more")
    registry.alias("coco-mwa", "prod", 1)
    ours = ["coco-mwa@1", "coco-mwa@1"]
    for reference in ("coco-mwa:prod", f"coco-mwa@sha256:{first.digest[:10]}", "coco-mwa@1"):
        assert mwactl_cli("registry", "log", reference, "-q").stdout.split() == ours
    assert mwactl_cli("registry", "log", f"coco-mwa@sha256:{second.digest}", "-q").stdout.split() == ["coco-mwa@2"]
    registry.remove(second)
    assert mwactl_cli("registry", "log", "coco-mwa@2", "-q").stdout.split() == ["coco-mwa@2"] * 2


@pytest.mark.parametrize("reference", ["coco-mwa:nope", "coco-mwa@sha256:" + "0" * 64, "other:prod", "coco-mwa@7"])
def test_log_of_what_is_not_there_is_not_found(mwactl_cli: Cli, registry: Registry, reference: str) -> None:
    publish(registry)
    result = mwactl_cli("registry", "log", reference)
    assert (result.code, result.stdout) == (3, "")
    assert "fix: mwactl registry" in result.stderr


def test_help_ends_with_an_example(mwactl_cli: Cli) -> None:
    for command in ("list", "show", "add", "alias", "tag", "log", "rm"):
        assert f"Example: mwactl registry {command}" in mwactl_cli("registry", command, "--help").stdout


def test_the_commands_import_nothing_heavy(registry: Registry) -> None:
    publish(registry)
    program = (
        "import sys; from mwactl.cli.registry import app; app(['list'], standalone_mode=False);"
        "app(['show', 'coco-mwa'], standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'yaml', 'safetensors', 'filelock'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--from-authors"),
        (["--from-authors", "absent.pth"], 3, "absent.pth"),
        (["--from-authors", "absent.pth", "--name", "Not A Name"], 2, "Not A Name"),
        (["--from-authors", "absent.pth", "--layer-norm", "out"], 2, "on what they add cannot be expressed"),
        (["--from-authors", "absent.pth", "--layer-norm", "sideways"], 2, "--layer-norm in, or none"),
        (["--from-authors", "absent.pth", "--alpha", "much"], 2, "--alpha"),
        (["--from-authors", "empty.pth", "--backbone", "beit3-huge"], 3, "beit3-large"),
        (["--from-authors", "empty.pth"], 5, "empty.pth"),
    ],
)
def test_what_cannot_be_added_has_its_exit_code_and_writes_nothing(
    mwactl_cli: Cli, registry: Registry, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "empty.pth").touch()
    in_folder = [str(tmp_path / each) if each.endswith(".pth") else each for each in arguments]
    result = mwactl_cli("registry", "add", *in_folder)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr
    assert not registry.root.exists()
