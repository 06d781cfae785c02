"""The same fifty photographs in every layout: the same digests, the same batches, the same recall."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from mwactl.backbone import WeightsRequest
from mwactl.data import READERS, Catalogue
from mwactl.data.cache import PictureCache
from mwactl.data.geometry import Geometry, Steps
from mwactl.data.loader import PairBatch, pair_batches
from mwactl.progress import Silent
from mwactl.workflow.evaluate import EvaluationOptions, evaluate_backbone
from mwactl.workflow.facts import data_facts
from mwactl.workflow.load import build_backbone
from mwactl.workflow.splits import checked_split

# Where there is one core, torch warns of two loader processes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@dataclass(frozen=True)
class Photograph:
    name: str
    split: str
    captions: list[str]
    tag: str


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photograph]]:
    """A folder of 50 JPEG files, and what is known of them: 30 to train, 20 to test; 1 to 3 captions each."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    known = []
    for number in range(50):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        name = f"{number:03}_photo.jpg"
        coarse.resize((40 + number % 7, 36), Image.Resampling.BICUBIC).save(folder / name)
        captions = [f"the {word} words, «{number}»" for word in ("first", "second", "third")[: 1 + number % 3]]
        split = "train" if number < 30 else "test"
        known.append(Photograph(name, split, captions, "even" if number % 2 == 0 else "odd"))
    return folder, known


Options = dict[str, Path]
Writer = Callable[[Path, Path, list[Photograph]], Options]


def karpathy(to: Path, folder: Path, known: list[Photograph]) -> Options:
    images = [
        {"filename": each.name, "split": each.split, "sentences": [{"raw": text} for text in each.captions]}
        for each in known
    ]
    (to / "d.json").write_text(json.dumps({"images": images}))
    return {"annotations": to / "d.json", "images": folder}


def coco(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """As COCO is published: a file and a picture folder a split, annotations in another order than the pictures."""
    for split in ("train", "test"):
        own = [(number, each) for number, each in enumerate(known) if each.split == split]
        (to / "pictures" / f"{split}2017").mkdir(parents=True)
        for _, each in own:
            (to / "pictures" / f"{split}2017" / each.name).write_bytes((folder / each.name).read_bytes())
        texts = [(number, text) for number, each in reversed(own) for text in each.captions]
        document = {
            "info": {"year": 2017},
            "images": [{"id": 1000 - number, "file_name": each.name, "tag": each.tag} for number, each in own],
            "annotations": [
                {"id": index, "image_id": 1000 - number, "caption": text} for index, (number, text) in enumerate(texts)
            ],
        }
        (to / f"captions_{split}2017.json").write_text(json.dumps(document))
        (to / f"instances_{split}2017.json").write_text("{}")  # lies beside them, and says nothing about captions
    return {"annotations": to, "images": to / "pictures"}


def rows_of(known: list[Photograph]) -> list[dict[str, str]]:
    return [
        {"image": each.name, "caption": text, "split": each.split, "tag": each.tag}
        for each in known
        for text in each.captions
    ]


def delimited(to: Path, folder: Path, known: list[Photograph], *, suffix: str, delimiter: str) -> Options:
    rows = rows_of(known)
    with (to / f"d.{suffix}").open("w", newline="", encoding="utf-8") as file:
        quoting: Any = csv.QUOTE_MINIMAL if suffix == "csv" else csv.QUOTE_NONE
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    return {"annotations": to / f"d.{suffix}", "images": folder}


def jsonl(to: Path, folder: Path, known: list[Photograph]) -> Options:
    (to / "d.jsonl").write_text("\n".join(map(json.dumps, rows_of(known))))
    return {"annotations": to / "d.jsonl", "images": folder}


def text_files(to: Path, folder: Path, known: list[Photograph]) -> Options:
    for each in known:
        (to / each.split).mkdir(exist_ok=True)
        (to / each.split / each.name).write_bytes((folder / each.name).read_bytes())
        (to / each.split / each.name).with_suffix(".txt").write_text("\n".join(each.captions), encoding="utf-8")
    return {"images": to}


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def tars_with_texts(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """Two shards a split, which their names tell."""
    for split in ("train", "test"):
        own = [each for each in known if each.split == split]
        for shard in range(2):
            members = []
            for each in own[shard * len(own) // 2 : (shard + 1) * len(own) // 2]:
                key = each.name.removesuffix(".jpg")
                members += [
                    (f"{key}.txt", "\n".join(each.captions).encode()),
                    (each.name, (folder / each.name).read_bytes()),
                ]
            write_tar(to / f"{split}-{shard:03}.tar", members)
    return {"images": to / "{train,test}-{000..001}.tar"}


def tar_with_json(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """One shard, whose JSON says the split; its members lie as they were listed, pictures first."""
    pictures = [(each.name, (folder / each.name).read_bytes()) for each in known]
    facts = [
        (
            each.name.replace(".jpg", ".json"),
            json.dumps({"caption": each.captions, "split": each.split, "tag": each.tag}).encode(),
        )
        for each in known
    ]
    write_tar(to / "all-of-it" / "000.tar", pictures + facts)
    return {"images": to / "all-of-it"}


def picture_column(folder: Path, known: list[Photograph]) -> list[dict[str, Any]]:
    return [{"bytes": (folder / each.name).read_bytes(), "path": each.name} for each in known]


def hub_parquet(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """As data sets lie on the Hub: a row a picture with a list of captions, shards named after their split."""
    (to / "data").mkdir()
    for split in ("train", "test"):
        own = [each for each in known if each.split == split]
        for shard, start in enumerate(range(0, len(own), 10)):
            some = own[start : start + 10]
            table = pa.table({
                "image": picture_column(folder, some), "captions": [each.captions for each in some],
                "tag": [each.tag for each in some],
            })  # fmt: skip
            name = f"{split}-{shard:05}-of-{len(own) // 10:05}.parquet"
            parquet.write_table(table, to / "data" / name, row_group_size=4)
    return {"images": to}


def row_a_caption_parquet(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """One file, the picture's bytes repeated in each of its rows."""
    rows = rows_of(known)
    bytes_of = {each.name: (folder / each.name).read_bytes() for each in known}
    columns = {key: [row[key] for row in rows] for key in ("caption", "split", "tag")}
    images = [{"bytes": bytes_of[row["image"]], "path": row["image"]} for row in rows]
    parquet.write_table(pa.table({"image": images, **columns}), to / "d.parquet", row_group_size=7, compression="zstd")
    return {"annotations": to / "d.parquet"}


def paths_in_parquet(to: Path, folder: Path, known: list[Photograph]) -> Options:
    parquet.write_table(pa.Table.from_pylist(rows_of(known)), to / "d.parquet")
    return {"annotations": to / "d.parquet", "images": folder}


def saved_arrow(to: Path, folder: Path, known: list[Photograph]) -> Options:
    """What `DatasetDict.save_to_disk` leaves: a folder a split, with streams of record batches."""
    (to / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        own = [each for each in known if each.split == split]
        table = pa.table({
            "image": picture_column(folder, own), "caption": [each.captions for each in own],
            "tag": [each.tag for each in own],
        })  # fmt: skip
        (to / split).mkdir()
        (to / split / "state.json").write_text("{}")
        for name in ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
            with pa.OSFile(str(to / split / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table, max_chunksize=6)
    return {"images": to}


LAYOUTS: dict[str, tuple[str, Writer]] = {
    "karpathy": ("karpathy", karpathy),
    "coco": ("coco", coco),
    "csv": ("csv", partial(delimited, suffix="csv", delimiter=",")),
    "tsv": ("tsv", partial(delimited, suffix="tsv", delimiter="\t")),
    "jsonl": ("jsonl", jsonl),
    "folder": ("folder", text_files),
    "tars with texts": ("webdataset", tars_with_texts),
    "tar with JSON": ("webdataset", tar_with_json),
    "Parquet of the Hub": ("parquet", hub_parquet),
    "Parquet, a row a caption": ("parquet", row_a_caption_parquet),
    "Parquet with paths": ("parquet", paths_in_parquet),
    "saved Arrow": ("parquet", saved_arrow),
}
WITHOUT_TAGS = {"karpathy", "folder", "tars with texts"}


def plain(picture: Image.Image) -> torch.Tensor:
    small = picture.resize((8, 8))
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float()


def noisy(picture: Image.Image) -> torch.Tensor:
    return plain(picture) + torch.rand(3, 8, 8)


def tokens(captions: Any) -> torch.Tensor:
    return torch.tensor([list(caption.encode().ljust(40)[:40]) for caption in captions])


def batches_of(split: Any, workers: int) -> list[PairBatch]:
    """Five shuffled batches of six pictures with their first captions."""
    owners = split.dataset.captions_of()
    order = np.random.default_rng(3).permutation(30)
    rows = [[(0, int(i), owners[i][0]) for i in order[start : start + 6]] for start in range(0, 30, 6)]
    return list(
        pair_batches(
            split.dataset, split.digests, iter(rows), transform=noisy, flip=True, tokenize=tokens, seed=5,
            workers=workers,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def expected(photographs: tuple[Path, list[Photograph]], tiny_clip: Path) -> Callable[[], Any]:
    """What the plainest layout gives, computed once: facts of both splits, batches, recall; and the backbone."""
    kept: list[Any] = []

    def compute(to: Path) -> Any:
        if not kept:
            backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
            Catalogue.default().add("expected", **csv_layout(to, photographs))
            kept.append((backbone, *found("expected", backbone, 0)))
        return kept[0]

    return compute


def csv_layout(to: Path, photographs: tuple[Path, list[Photograph]]) -> Any:
    (to / "expected").mkdir()
    return delimited(to / "expected", *photographs, suffix="csv", delimiter=",")


def found(name: str, backbone: Any, workers: int) -> tuple[Any, Any, Any]:
    splits = [checked_split(name, split, on_error="stop", reporter=Silent()) for split in ("train", "test")]
    facts = [data_facts(split) for split in splits]
    for fact in facts:
        fact.pop("name")
    options = EvaluationOptions(batch_size=8, device="cpu", workers=workers)
    recall = evaluate_backbone(backbone, splits[1], options, Silent()).document
    keys = ("image_to_text", "text_to_image", "rsum")
    return facts, batches_of(splits[0], workers), {key: recall[key] for key in keys}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_digests_batches_and_recall(
    layout: str, tmp_path: Path, photographs: tuple[Path, list[Photograph]], expected: Callable[[Path], Any]
) -> None:
    backbone, facts, batches, recall = expected(tmp_path)
    format, write = LAYOUTS[layout]
    (tmp_path / "d").mkdir()
    entry = Catalogue.default().add("same", **write(tmp_path / "d", *photographs))  # type: ignore[arg-type]
    assert entry.format == format  # which nobody said
    assert Catalogue.default().get("same") == entry
    packed = format in ("parquet", "webdataset")
    found_facts, found_batches, found_recall = found("same", backbone, 2 if packed else 0)
    assert found_facts == facts
    assert found_recall == recall
    for ours, theirs in zip(found_batches, batches, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.picture_ids, theirs.picture_ids)
    tags = entry.load("train").tags
    assert tags == (() if layout in WITHOUT_TAGS else ("even", "odd") * 15)


def test_every_format_has_a_layout_here() -> None:
    assert {format for format, _ in LAYOUTS.values()} == set(READERS)


@pytest.mark.parametrize("layout", ["tars with texts", "Parquet of the Hub", "saved Arrow"])
def test_pictures_inside_others_are_cached_as_files_are(
    layout: str, tmp_path: Path, photographs: tuple[Path, list[Photograph]]
) -> None:
    (tmp_path / "d").mkdir()
    Catalogue.default().add("same", **LAYOUTS[layout][1](tmp_path / "d", *photographs))  # type: ignore[arg-type]
    split = checked_split("same", "test", on_error="stop", reporter=Silent())
    cache = PictureCache(Geometry(Steps(()), "as they are"))
    assert cache.build("same", split.dataset.images, split.digests) == 20
    pictures = cache.open(split.dataset.images, split.digests)
    assert pictures.count == 20
    with Image.open(photographs[0] / "037_photo.jpg") as file:
        assert pictures(7).tobytes() == file.tobytes()
