"""What docs/data.md tells people to type works, in a folder that has what it names."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 pictures in every layout that the page has a command for."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "annotations", "train2017", "val2017", "data", "saved/train", "shards"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    known = []
    for number in range(30):
        picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 32))
        picture.save(tmp_path / "photos" / f"{number}.png")
        known.append((f"{number}.png", (tmp_path / "photos" / f"{number}.png").read_bytes(), f"picture {number}"))
    with Path("captions.csv").open("w", newline="") as file:
        rows = [(name, caption, "train", "odd") for name, _, caption in known]
        csv.writer(file).writerows([("image", "caption", "split", "tag"), *rows])
    table = pa.table({
        "image": [{"bytes": data, "path": name} for name, data, _ in known], "caption": [text for *_, text in known],
    })  # fmt: skip
    parquet.write_table(table, "data/train-00000-of-00001.parquet")
    with pa.OSFile("saved/train/data-00000-of-00001.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    for start, split, shard in ((0, "train", 0), (10, "train", 1), (20, "val", 0), (25, "val", 1)):
        own = known[start : start + (10 if split == "train" else 5)]
        images = [{"id": index, "file_name": name} for index, (name, *_) in enumerate(own)]
        captions = [{"image_id": index, "caption": text} for index, (*_, text) in enumerate(own)]
        if shard == 0:
            document = json.dumps({"images": images, "annotations": captions})
            Path(f"annotations/captions_{split}2017.json").write_text(document)
        with tarfile.open(f"shards/{split}-{shard:03}.tar", "w") as tar:
            for name, data, text in own:
                Path(f"{split}2017", name).write_bytes(data)
                for member, content in ((name, data), (name.replace(".png", ".txt"), text.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path


def test_every_command_of_the_page_works(folder: Path, mwactl_cli) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line.removeprefix("$ mwactl ") for block in blocks for line in block.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        result = mwactl_cli(*shlex.split(line))
        assert result.code == 0, (line, result.stderr)
        assert "warning" not in result.stderr
    shown = mwactl_cli("data", "show", "shards", "--json").json
    assert {split: counts["images"] for split, counts in shown["splits"].items()} == {"train": 20, "val": 10}


def test_the_python_of_the_page_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # the page's own example
    assert capsys.readouterr().out == "30 picture 0 ('odd',)\n"
    assert isinstance(names["picture"], Image.Image)
