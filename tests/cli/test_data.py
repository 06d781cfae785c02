from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mwactl.files import sha256_file
from mwactl.home import cache_path, catalogue_path

Cli = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name a tiny data set."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    images = []
    for name, split, captions in (("a", "train", 3), ("b", "train", 1), ("c", "test", 2)):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}.png")
        sentences = [{"raw": f"{name} {i}", "sentid": i} for i in range(captions)]
        images.append({"filename": f"{name}.png", "split": split, "sentences": sentences})
    (tmp_path / "d.json").write_text(json.dumps({"images": images}))
    return ["--format", "karpathy", "--annotations", str(tmp_path / "d.json"), "--images", str(tmp_path / "images")]


def test_add_prints_counts_and_the_next_command(mwactl_cli: Cli, files: list[str]) -> None:
    result = mwactl_cli("data", "add", "tiny", *files)
    assert result.code == 0
    assert result.stdout.splitlines() == ["added tiny", "train\t2\t4\t1\t2.00\t3", "test\t1\t2\t2\t2.00\t2"]
    assert result.stderr == "next: mwactl data show tiny\n"


def test_show_json_has_the_promised_keys(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    result = mwactl_cli("data", "show", "tiny", "--json")
    assert result.json == {
        "schema": 1,
        "name": "tiny",
        "format": "karpathy",
        "annotations": str(tmp_path / "d.json"),
        "annotations_sha256": sha256_file(tmp_path / "d.json"),
        "images": str(tmp_path / "images"),
        "splits": {
            "train": {"images": 2, "captions": 4, "captions_per_image": {"min": 1, "mean": 2.0, "max": 3}},
            "test": {"images": 1, "captions": 2, "captions_per_image": {"min": 2, "mean": 2.0, "max": 2}},
        },
    }
    assert result.stderr == ""


def test_show_tells_a_person_the_same(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    lines = mwactl_cli("data", "show", "tiny").stdout.splitlines()
    assert f"annotations_sha256\t{sha256_file(tmp_path / 'd.json')}" in lines
    assert "train\t2\t4\t1\t2.00\t3" in lines


def test_list_names_every_data_set(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    for name in ("two", "one"):
        mwactl_cli("data", "add", name, *files)
    assert mwactl_cli("data", "list", "-q").stdout == "one\ntwo\n"
    document = mwactl_cli("data", "list", "--json").json
    assert document["schema"] == 1
    assert document["datasets"][0] == {
        "name": "one",
        "format": "karpathy",
        "annotations": str(tmp_path / "d.json"),
        "images": str(tmp_path / "images"),
    }
    assert mwactl_cli("data", "list").stdout.splitlines()[1] == f"two\tkarpathy\t{tmp_path / 'images'}"


def test_an_empty_list_says_how_to_begin(mwactl_cli: Cli) -> None:
    result = mwactl_cli("data", "list")
    assert (result.code, result.stdout) == (0, "")
    assert "next: mwactl data add NAME --format karpathy --annotations FILE --images DIR" in result.stderr
    assert mwactl_cli("data", "list", "--json").json == {"schema": 1, "datasets": []}


def test_dry_run_counts_and_adds_nothing(mwactl_cli: Cli, files: list[str]) -> None:
    result = mwactl_cli("data", "add", "tiny", *files, "--dry-run")
    assert result.code == 0
    assert result.stdout.splitlines()[0] == "would add tiny"
    assert mwactl_cli("data", "add", "tiny", *files, "--dry-run", "--json").json["splits"]["train"]["images"] == 2
    assert not catalogue_path().exists()


def test_another_data_set_of_the_name_needs_replace(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    (tmp_path / "e.json").write_bytes((tmp_path / "d.json").read_bytes())
    files[3] = str(tmp_path / "e.json")
    result = mwactl_cli("data", "add", "tiny", *files)
    assert result.code == 2
    assert "--replace" in result.stderr
    assert mwactl_cli("data", "add", "tiny", *files, "--replace", "-q").stdout == "tiny\n"
    assert mwactl_cli("data", "show", "tiny", "--json").json["annotations"] == str(tmp_path / "e.json")


def test_missing_pictures_are_told_on_stderr_alone(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "images" / "a.png").unlink()
    result = mwactl_cli("data", "add", "tiny", *files, "--json")
    assert result.code == 0
    assert result.json["name"] == "tiny"
    assert "warning: 1 of 3 pictures are missing" in result.stderr


def test_an_unknown_name_exits_3_with_the_command(mwactl_cli: Cli) -> None:
    result = mwactl_cli("data", "show", "coco", "--json")
    assert (result.code, result.stdout) == (3, "")
    assert "fix: mwactl data add coco --format karpathy --annotations FILE --images DIR" in result.stderr


@pytest.mark.parametrize(
    ("position", "value", "code"),
    [(1, "xml", 2), (3, "absent.json", 3), (5, "absent", 3)],
)
def test_wrong_arguments_have_their_exit_codes(
    mwactl_cli: Cli, files: list[str], position: int, value: str, code: int
) -> None:
    files[position] = value
    result = mwactl_cli("data", "add", "tiny", *files)
    assert result.code == code
    assert "fix: " in result.stderr


def test_damaged_annotations_exit_1_in_at_most_four_lines(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    document = json.loads((tmp_path / "d.json").read_text())
    for image in document["images"]:
        image["sentences"][0]["raw"] = ""
    (tmp_path / "d.json").write_text(json.dumps(document))
    result = mwactl_cli("data", "add", "tiny", *files)
    assert result.code == 1
    assert "3 mistakes" in result.stderr
    assert len(result.stderr.splitlines()) <= 4


@pytest.mark.parametrize("command", ["add", "list", "show", "remove"])
def test_help_ends_with_an_example(mwactl_cli: Cli, command: str) -> None:
    result = mwactl_cli("data", command, "--help")
    assert f"Example: mwactl data {command}" in " ".join(result.stdout.split())


def test_importing_the_commands_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'pydantic', 'yaml'}"
    program = f"import mwactl.cli.data, sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_library_imports_no_torch() -> None:
    program = "import mwactl.data, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# -- mwactl data cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_backbone(tiny_clip: Path) -> str:
    return f"clip:local-dir:{tiny_clip}"


def test_cache_makes_every_split_and_says_what_it_did(mwactl_cli: Cli, tiny_data: str, tiny_backbone: str) -> None:
    result = mwactl_cli("data", "cache", tiny_data, "--backbone", tiny_backbone)
    assert result.code == 0
    first, *splits = result.stdout.splitlines()
    assert first.startswith("tiny: Resize(size=32")
    assert splits == ["train\t24\t24\t73.7 kB\t24", "val\t8\t8\t24.6 kB\t8", "test\t8\t8\t24.6 kB\t8"]
    assert result.stderr == "next: mwactl eval --data tiny\n"


def test_cache_json_has_the_promised_keys(mwactl_cli: Cli, tiny_data: str, tiny_backbone: str) -> None:
    arguments = ["data", "cache", tiny_data, "--backbone", tiny_backbone, "--split", "val", "--json"]
    planned = mwactl_cli(*arguments, "--dry-run").json
    assert not (cache_path() / "pictures").exists()
    made = mwactl_cli(*arguments).json
    again = mwactl_cli(*arguments).json
    assert planned.keys() == made.keys()
    assert (made["schema"], made["name"], made["exact"], made["dry_run"]) == (1, "tiny", True, False)
    missing = {"pictures": 8, "were_missing": 8, "missing_bytes": 8 * 32 * 32 * 3}
    assert planned["splits"] == {"val": missing | {"made": 0}}
    assert made["splits"] == {"val": missing | {"made": 8}}
    assert again["splits"] == {"val": {"pictures": 8, "were_missing": 0, "missing_bytes": 0, "made": 0}}
    assert sum(path.stat().st_size for path in Path(made["folder"]).glob("*.rgb")) == 8 * 32 * 32 * 3


def test_cache_for_random_crops_says_that_it_approximates(mwactl_cli: Cli, tiny_data: str, tiny_backbone: str) -> None:
    arguments = ["data", "cache", tiny_data, "--backbone", tiny_backbone, "--crop-min-scale", "0.7"]
    assert "shortest side at most 45, bicubic   (an approximation)" in mwactl_cli(*arguments).stdout
    assert mwactl_cli(*arguments, "--json").json["exact"] is False


def test_cache_remove_deletes_it(mwactl_cli: Cli, tiny_data: str, tiny_backbone: str) -> None:
    folder = mwactl_cli("data", "cache", tiny_data, "--backbone", tiny_backbone, "-q").stdout.strip()
    assert list(Path(folder).glob("*.rgb"))
    result = mwactl_cli("data", "cache", tiny_data, "--remove", "--json")
    assert result.json == {"schema": 1, "name": "tiny", "removed_bytes": 40 * 32 * 32 * 3}
    assert not list(Path(folder).glob("*.rgb"))
    assert mwactl_cli("data", "cache", tiny_data, "--remove").stdout == "removed 0 B of cached pictures of tiny\n"
    assert mwactl_cli("data", "cache", "never", "--remove").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "one of the two is needed"),
        (["--backbone", "BACKBONE", "--remove"], 2, "one of the two is needed"),
        (["--remove", "--dry-run"], 2, "cannot be tried"),
        (["--backbone", "BACKBONE", "--on-error", "ignore"], 2, "--on-error ignore: unknown"),
        (["--backbone", "BACKBONE", "--split", "valid"], 3, "valid"),
        (["--backbone", "nothing-like-it"], 3, "nothing-like-it"),
    ],
)
def test_cache_refuses_what_it_cannot_do(
    mwactl_cli: Cli, tiny_data: str, tiny_backbone: str, arguments: list[str], code: int, said: str
) -> None:
    result = mwactl_cli("data", "cache", tiny_data, *[part.replace("BACKBONE", tiny_backbone) for part in arguments])
    assert result.code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_a_cache_without_space_is_exit_code_6_with_the_figures(
    mwactl_cli: Cli, tiny_data: str, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=70_000))
    result = mwactl_cli("data", "cache", tiny_data, "--backbone", tiny_backbone)
    assert result.code == 6
    assert "0.1 MB are needed" in result.stderr
    assert not list((cache_path() / "pictures").rglob("*.rgb"))


def test_check_prints_findings_and_exits_5_for_errors(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    result = mwactl_cli("data", "check", "tiny")  # three pictures of one colour, with the same bytes
    assert result.code == 5
    lines = result.stdout.splitlines()
    assert lines[:2] == ["train: 2 pictures, 4 captions", "test: 1 pictures, 2 captions"]
    assert lines[2] == "error: pictures in two splits, 1: pictures that are in more than one split, to the byte"
    assert result.stderr.splitlines()[-1] == "  fix: divide it anew: mwactl data split tiny"
    document = mwactl_cli("data", "check", "tiny", "--json").json
    assert (document["schema"], document["passed"], document["strict"]) == (1, False, False)
    assert [(each["check"], each["level"], each["count"]) for each in document["findings"]] == [
        ("pictures in two splits", "error", 1), ("duplicate pictures", "warning", 1),
    ]  # fmt: skip


def test_check_of_one_split_warns_and_strict_fails(mwactl_cli: Cli, files: list[str]) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    result = mwactl_cli("data", "check", "tiny", "--split", "train")
    assert result.code == 0
    assert result.stdout.splitlines()[1].startswith("warning: duplicate pictures, 1: ")
    assert result.stderr == "next: mwactl data show tiny --sheet tiny.png\n"
    assert mwactl_cli("data", "check", "tiny", "--split", "train", "--strict").code == 5
    assert mwactl_cli("data", "check", "tiny", "--split", "val").code == 3


def test_split_makes_a_data_set_and_touches_no_file(mwactl_cli: Cli, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a caption\nanother")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    assert mwactl_cli("data", "add", "photos", "--images", tmp_path).stdout.splitlines()[0] == "added photos (folder)"
    dry = mwactl_cli("data", "split", "photos", "--test", "0.2", "--dry-run")
    assert dry.stdout.splitlines()[0] == "would divide photos into photos-split"
    result = mwactl_cli("data", "split", "photos", "--test", "0.2")
    assert result.stdout.splitlines() == ["divided photos into photos-split", "train\t7\t14", "val\t1\t2", "test\t2\t4"]
    assert result.stderr == "next: mwactl data check photos-split\n"
    document = mwactl_cli("data", "split", "photos", "--test", "0.2", "--json").json
    assert document["splits"]["test"] == {"images": 2, "captions": 4}
    shown = mwactl_cli("data", "show", "photos-split", "--json").json
    assert {split: counts["images"] for split, counts in shown["splits"].items()} == {"train": 7, "val": 1, "test": 2}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert mwactl_cli("data", "split", "photos", "--seed", "1").code == 2
    assert mwactl_cli("data", "split", "photos", "--val", "0.7", "--test", "0.3").code == 2


def test_a_sheet_shows_pictures_and_names_what_it_cannot(mwactl_cli: Cli, files: list[str], tmp_path: Path) -> None:
    from PIL import Image

    mwactl_cli("data", "add", "tiny", *files)
    result = mwactl_cli("data", "show", "tiny", "--sheet", tmp_path / "sheet.png", "--json")
    assert result.json["sheet"] == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as whole:
        assert whole.getpixel((12 + 120, 12 + 120)) == (0, 0, 0)  # the first picture, black
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    mwactl_cli("data", "show", "tiny", "--sheet", tmp_path / "broken.png", "--split", "train")
    with Image.open(tmp_path / "broken.png") as broken:
        assert broken.getpixel((12 + 120, 12 + 30)) == (255, 255, 255)
    assert mwactl_cli("data", "show", "tiny", "--split", "train").code == 2
    refused = mwactl_cli("data", "show", "tiny", "--sheet", tmp_path / "sheet.jpg")
    assert (refused.code, (tmp_path / "sheet.jpg").exists()) == (2, False)
    assert f"--sheet {tmp_path / 'sheet.png'}" in refused.stderr


def test_addresses_need_download(mwactl_cli: Cli, tmp_path: Path, no_network: None) -> None:
    (tmp_path / "web.csv").write_text("image,caption\nhttp://example.org/a.png,a cat\n")
    result = mwactl_cli("data", "add", "web", "--annotations", tmp_path / "web.csv")
    assert result.code == 2
    assert "1 pictures of 'web' are addresses on the web; nothing was fetched" in result.stderr
    assert "fix: add --download" in result.stderr


def test_removing_forgets_the_name_and_touches_no_picture(mwactl_cli: Cli, tmp_path: Path, files: list[str]) -> None:
    from PIL import Image

    from mwactl.data.made_split import index_path

    for number in range(10):
        Image.new("RGB", (4 + number, 4)).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,a caption\n" for number in range(10))
    (tmp_path / "d.csv").write_text("image,caption\n" + rows)
    mwactl_cli("data", "add", "photos", "--annotations", tmp_path / "d.csv")
    mwactl_cli("data", "split", "photos")
    refused = mwactl_cli("data", "remove", "photos")
    assert refused.code == 2
    assert "fix: mwactl data remove photos-split first, or add --yes" in refused.stderr
    assert mwactl_cli("data", "remove", "photos-split", "--dry-run").stdout.startswith("would forget photos-split")
    assert index_path("photos-split").is_file()
    assert mwactl_cli("data", "remove", "photos-split", "--json").json == {
        "schema": 1, "name": "photos-split", "format": "split", "images": str(tmp_path), "divided": [],
        "dry_run": False,
    }  # fmt: skip
    assert not index_path("photos-split").exists()
    mwactl_cli("data", "split", "photos")
    assert mwactl_cli("data", "remove", "photos", "--yes").stderr == "next: mwactl data list\n"
    assert mwactl_cli("data", "list", "-q").stdout == "photos-split\n"
    assert mwactl_cli("data", "show", "photos-split").code == 0
    assert mwactl_cli("data", "remove", "photos").code == 3
    assert (tmp_path / "d.csv").is_file()


def test_what_did_not_pass_is_mended_where_a_division_does_not_help(
    mwactl_cli: Cli, files: list[str], tmp_path: Path
) -> None:
    mwactl_cli("data", "add", "tiny", *files)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    lines = mwactl_cli("data", "check", "tiny", "--split", "train").stderr.splitlines()
    assert lines[-1] == "  fix: mend or remove what is named above (all of it: mwactl data check tiny --json)"
    assert "--json), then divide it anew: mwactl data split tiny" in mwactl_cli("data", "check", "tiny").stderr
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "images" / "c.png").write_bytes(b"")
    refused = mwactl_cli("data", "split", "tiny")
    assert refused.code == 1
    assert "not one of the 3 pictures of 'tiny' can be read" in refused.stderr
