from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from mwactl.data import Catalogue, CatalogueEntry, catalogue
from mwactl.errors import DataError, IncompatibleError, NotFoundError, ResourceError, UsageError
from mwactl.home import catalogue_path
from mwactl.progress import Reporter, Silent

Painter = Callable[[Path], Path]
Writer = Callable[..., Path]


class Warned(Silent):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def images(tmp_path: Path, picture: Painter) -> Path:
    """A folder with a.png, b.png and c.png."""
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


@pytest.fixture
def annotations(karpathy: Writer) -> Path:
    """Two pictures to train on, one to test with."""
    return karpathy([("a.png", "train", ["x", "y"]), ("b.png", "train", ["z"]), ("c.png", "test", ["w"])])


def add(name: str, annotations: Path, images: Path, **options: object) -> CatalogueEntry:
    return Catalogue.default().add(name, format="karpathy", annotations=annotations, images=images, **options)  # type: ignore[arg-type]


def test_what_was_added_is_there_for_the_next_process(annotations: Path, images: Path) -> None:
    entry = add("tiny", annotations, images)
    assert Catalogue(catalogue_path()).get("tiny") == entry
    assert Catalogue.default().entries() == [entry]
    assert (entry.annotations, entry.images) == (annotations, images)


def test_load_gives_one_split(annotations: Path, images: Path) -> None:
    dataset = add("tiny", annotations, images).load("train")
    assert (dataset.name, dataset.split) == ("tiny", "train")
    assert dataset.images == (images / "a.png", images / "b.png")
    assert dataset.captions == ("x", "y", "z")
    assert dataset.pairs.tolist() == [[0, 0], [0, 1], [1, 2]]


def test_an_absent_split_names_those_there_are(annotations: Path, images: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no split 'val'.*its splits are: train, test"):
        add("tiny", annotations, images).load("val")


def test_splits_are_counted(annotations: Path, images: Path) -> None:
    splits = add("tiny", annotations, images).splits()
    assert {split: (counts.images, counts.captions) for split, counts in splits.items()} == {
        "train": (2, 3), "test": (1, 1),
    }  # fmt: skip


def test_relative_paths_are_kept_absolute(annotations: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(annotations.parent)
    add("tiny", Path(annotations.name), Path("images"))
    monkeypatch.chdir("/")
    assert Catalogue.default().get("tiny").load("test").images == (images / "c.png",)


def test_an_unknown_name_shows_the_command_and_close_names(annotations: Path, images: Path) -> None:
    add("flickr8k", annotations, images)
    with pytest.raises(NotFoundError) as caught:
        Catalogue.default().get("flicker8k")
    assert caught.value.fix == "mwactl data add flicker8k --format karpathy --annotations FILE --images DIR"
    assert caught.value.why == "did you mean flickr8k?"


def test_an_unknown_name_lists_all_when_none_is_close(annotations: Path, images: Path) -> None:
    add("flickr8k", annotations, images)
    with pytest.raises(NotFoundError, match="added so far: flickr8k"):
        Catalogue.default().get("zzz")


def test_adding_the_same_again_changes_nothing(annotations: Path, images: Path) -> None:
    add("tiny", annotations, images)
    before = catalogue_path().stat().st_mtime_ns, catalogue_path().read_bytes()
    add("tiny", annotations, images)
    assert (catalogue_path().stat().st_mtime_ns, catalogue_path().read_bytes()) == before


def test_a_name_stands_for_one_data_set_unless_replaced(annotations: Path, images: Path, tmp_path: Path) -> None:
    add("tiny", annotations, images)
    other = tmp_path / "other.json"
    other.write_bytes(annotations.read_bytes())
    with pytest.raises(UsageError, match="--replace"):
        add("tiny", other, images)
    assert Catalogue.default().get("tiny").annotations == annotations
    add("tiny", other, images, replace=True)
    assert Catalogue.default().get("tiny").annotations == other


def test_a_dry_run_checks_all_and_writes_nothing(annotations: Path, images: Path, empty_home: Path) -> None:
    assert add("tiny", annotations, images, dry_run=True).splits()["train"].images == 2
    assert not empty_home.exists()
    annotations.write_text("{")
    with pytest.raises(DataError):
        add("tiny", annotations, images, dry_run=True)


def test_what_cannot_be_read_is_not_added(annotations: Path, images: Path) -> None:
    annotations.write_text("{")
    with pytest.raises(DataError):
        add("tiny", annotations, images)
    assert Catalogue.default().entries() == []


def test_missing_pictures_are_a_warning(annotations: Path, images: Path) -> None:
    (images / "b.png").unlink()
    listener = Warned()
    add("tiny", annotations, images, reporter=listener)
    assert listener.warnings == [f"1 of 3 pictures are missing: {images / 'b.png'}"]
    assert len(Catalogue.default().get("tiny").load("train").images) == 2


def test_a_folder_without_one_of_the_pictures_is_an_error(annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    with pytest.raises(NotFoundError, match=r"not one of the 3 pictures is there.*check --images"):
        add("tiny", annotations, tmp_path / "wrong")
    assert Catalogue.default().entries() == []


def test_pictures_in_two_splits_are_a_warning(karpathy: Writer, images: Path) -> None:
    listener = Warned()
    add("tiny", karpathy([("a.png", "train", ["x"]), ("a.png", "test", ["x"])]), images, reporter=listener)
    assert listener.warnings == [f"1 pictures are in more than one split: {images / 'a.png'}"]


def test_an_absent_folder_or_file_is_not_found(annotations: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="picture folder"):
        add("tiny", annotations, tmp_path / "absent")
    with pytest.raises(NotFoundError, match="annotation file"):
        add("tiny", tmp_path / "absent.json", images)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", ".x", "a b", "x" * 65, "ä"])
def test_a_name_that_is_no_name_is_refused(annotations: Path, images: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        add(name, annotations, images)


def test_an_unknown_format_lists_the_formats(images: Path) -> None:
    with pytest.raises(UsageError, match="karpathy, coco, csv, tsv, jsonl, parquet, webdataset, folder"):
        Catalogue.default().add("tiny", format="xml", annotations=None, images=images)


def test_the_format_is_told_by_the_files(images: Path, tmp_path: Path, karpathy: Writer) -> None:
    (tmp_path / "t.csv").write_text("image,caption\na.png,a cat\n")
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (tmp_path / "c.json").write_text(json.dumps(coco))
    add = Catalogue.default().add
    assert add("one", annotations=karpathy([("a.png", "all", ["a cat"])]), images=images).format == "karpathy"
    assert add("two", annotations=tmp_path / "t.csv", images=images).format == "csv"
    assert add("three", annotations=tmp_path / "c.json", images=images).format == "coco"
    for name in "abc":
        (images / f"{name}.txt").write_text("a cat\n")
    assert add("four", images=images).format == "folder"
    for entry in Catalogue.default().entries():
        dataset = entry.load("all")
        assert (dataset.images[0], dataset.captions[0]) == (images / "a.png", "a cat")


def test_pictures_lie_beside_the_annotations_unless_it_is_said(images: Path) -> None:
    (images / "t.csv").write_text("image,caption\na.png,a cat\n")
    assert Catalogue.default().add("beside", annotations=images / "t.csv").images == images


def test_files_of_no_layout_or_of_two_are_refused(images: Path, tmp_path: Path) -> None:
    add = Catalogue.default().add
    (tmp_path / "x.json").write_text('{"images": [{"name": "a.png"}]}')
    (tmp_path / "x.xml").write_text("<x/>")
    for annotations in (tmp_path / "x.json", tmp_path / "x.xml"):
        with pytest.raises(UsageError, match=r"none of the layouts that are known.*--format"):
            add("tiny", annotations=annotations, images=images)
    with pytest.raises(UsageError, match="none of the layouts"):
        add("tiny", images=images)  # pictures alone
    for name in ("a.tar", "a.parquet"):
        (images / name).touch()
    with pytest.raises(UsageError, match="it looks like parquet and webdataset"):
        add("tiny", images=images)
    with pytest.raises(UsageError, match="nothing was given"):
        add("tiny")


def test_remove_forgets_the_name_alone(annotations: Path, images: Path) -> None:
    for name in ("one", "two"):
        add(name, annotations, images)
    Catalogue.default().remove("one")
    assert [entry.name for entry in Catalogue.default().entries()] == ["two"]
    assert annotations.exists()
    with pytest.raises(NotFoundError):
        Catalogue.default().remove("one")


def test_annotations_that_vanished_are_not_found(annotations: Path, images: Path) -> None:
    add("tiny", annotations, images)
    annotations.unlink()
    with pytest.raises(NotFoundError, match="annotation file"):
        Catalogue.default().get("tiny").load("train")
    with pytest.raises(NotFoundError, match="annotation file"):
        Catalogue.default().get("tiny").annotations_digest()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"schema": 1}', b'{"schema": 1, "datasets": {"x": {"format": "karpathy"}}}',
     b'{"schema": 1, "datasets": {"x": {"format": "xml", "annotations": null, "images": "/"}}}'],
)  # fmt: skip
def test_a_damaged_catalogue_is_an_error_and_is_kept(annotations: Path, images: Path, content: bytes) -> None:
    catalogue_path().parent.mkdir(parents=True)
    catalogue_path().write_bytes(content)
    with pytest.raises(DataError, match="catalogue is damaged"):
        Catalogue.default().entries()
    with pytest.raises(DataError, match="catalogue is damaged"):
        add("tiny", annotations, images)
    assert catalogue_path().read_bytes() == content


def test_a_catalogue_of_a_later_version_is_incompatible() -> None:
    catalogue_path().parent.mkdir(parents=True)
    catalogue_path().write_text(json.dumps({"schema": 2, "datasets": {}}))
    with pytest.raises(IncompatibleError, match="schema 2"):
        Catalogue.default().entries()


def test_adding_at_the_same_time_loses_nothing(annotations: Path, images: Path) -> None:
    names = [f"set{i}" for i in range(8)]
    threads = [threading.Thread(target=add, args=(name, annotations, images)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.name for entry in Catalogue.default().entries()] == names


def test_a_name_taken_while_the_annotations_were_read_is_not_overwritten(
    annotations: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(annotations.read_bytes())
    check = CatalogueEntry.check

    def slow_check(entry: CatalogueEntry, reporter: Reporter) -> None:
        if entry.annotations == annotations:
            add("tiny", other, images)
        check(entry, reporter)

    monkeypatch.setattr(CatalogueEntry, "check", slow_check)
    with pytest.raises(UsageError, match="--replace"):
        add("tiny", annotations, images)
    assert Catalogue.default().get("tiny").annotations == other


def test_a_held_lock_is_told(annotations: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_LOCK_SECONDS", 0.05)
    catalogue_path().parent.mkdir(parents=True)
    with FileLock(str(catalogue_path()) + ".lock"), pytest.raises(ResourceError, match="locked"):
        add("tiny", annotations, images)
    add("tiny", annotations, images)


def test_a_failed_write_keeps_the_previous_catalogue(
    annotations: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("one", annotations, images)
    before = catalogue_path().read_bytes()
    with monkeypatch.context() as context:
        context.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            add("two", annotations, images)
    assert catalogue_path().read_bytes() == before
    assert [path.name for path in catalogue_path().parent.glob("*.part")] == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("annotations", "images", "sizes"),
    [
        ("flickr8k/dataset_flickr8k.json", "flickr8k/images",
         {"train": (6000, 30_000), "val": (1000, 5000), "test": (1000, 5000)}),
        ("coco/dataset_coco_subset.json", "coco/images", {"train": (1540, 1540), "val": (200, 200)}),
        ("emoji/google/dataset_emoji_google.json", "emoji/google/images",
         {"train": (676, 1487), "val": (100, 220), "test": (250, 561)}),
    ],
)  # fmt: skip
def test_real_data_has_its_official_sizes(
    shared: Path, annotations: str, images: str, sizes: dict[str, tuple[int, int]]
) -> None:
    listener = Warned()
    data = shared / "data"
    splits = add("real", data / annotations, data / images, reporter=listener).splits()
    assert {split: (counts.images, counts.captions) for split, counts in splits.items()} == sizes
    assert listener.warnings == []
