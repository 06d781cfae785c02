"""The four calls of the README, word for word and in order, on a BEiT-3 of full size and on real photographs.

    python benchmarks/four_calls.py --photographs dataset_coco_subset.json images --tokenizer beit3.spm

No trained weights are needed: the official file (`beit3_large_itc_patch16_224.pth`: half precision, official names,
with an optimizer and the run's options in it) is made with random values, so the recall means nothing. The photographs
(a Karpathy JSON and its folder) are laid out as COCO and as Flickr30k are. Prints each call with its time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

COCO_SPLITS = {"train": 12, "restval": 4, "val": 8, "test": 8}
FLICKR30K_SPLITS = {"train": 4, "val": 4, "test": 16}
CALLS = (
    "inject --backbone beit3-large",
    "train coco.yaml",
    "eval --zero-shot flickr30k",
)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        place = Path(folder)
        os.environ["MWACTL_HOME"] = str(place / "home")
        # In a process of its own: a child's peak memory is never below its parent's at the fork.
        maker = get_context("spawn").Process(
            target=make_official_file, args=(place / "home" / "weights", arguments.tokenizer)
        )
        maker.start()
        maker.join()
        annotations, images = map(Path, arguments.photographs)
        lay_out(annotations, images, place)
        for data in ("coco", "flickr30k"):
            file, pictures = f"dataset_{data}.json", {"coco": "coco", "flickr30k": "flickr30k-images"}[data]
            call(place, f"data add {data} --format karpathy --annotations {file} --images {pictures}")
        write_recipe(place)
        for words in CALLS:
            call(place, words)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", nargs=2, required=True, metavar=("JSON", "FOLDER"))
    parser.add_argument("--tokenizer", type=Path, required=True, help="the official beit3.spm")
    parser.add_argument("--scratch", type=Path, help="a folder with 8 GB free (default: the system's)")
    return parser.parse_args()


def make_official_file(folder: Path, tokenizer: Path) -> None:
    """A training checkpoint of beit3-large as its authors save it, with random values."""
    import torch

    from mwactl_beit3.model import Beit3Retrieval, initialise
    from mwactl_beit3.sizes import LARGE

    torch.manual_seed(0)
    with torch.device("meta"):
        model = Beit3Retrieval(LARGE)
    initialise(model.to_empty(device="cpu"))
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    options = argparse.Namespace(model="beit3_large_patch16_224_retrieval", input_size=224, lr=5e-5)
    moments = {0: {"step": 1, "exp_avg": torch.zeros(1024), "exp_avg_sq": torch.zeros(1024)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 5e-5, "params": [0]}]}
    folder.mkdir(parents=True)
    torch.save(
        {"model": state, "optimizer": optimizer, "epoch": 3, "scaler": {"scale": 65536.0}, "args": options},
        folder / "beit3_large_itc_patch16_224.pth",
    )
    shutil.copy(tokenizer, folder / "beit3.spm")


def lay_out(annotations: Path, images: Path, place: Path) -> None:
    """The first photographs as COCO (a folder a year and split), the next ones as Flickr30k (one folder)."""
    photographs = iter(json.loads(annotations.read_text())["images"])
    coco = [
        {**copied(next(photographs), images, place / "coco" / (folder := f"{split_folder(split)}2014"), number)}
        | {"split": split, "filepath": folder}
        for split, count in COCO_SPLITS.items()
        for number in range(count)
    ]
    flickr = [
        copied(next(photographs), images, place / "flickr30k-images", number) | {"split": split}
        for split, count in FLICKR30K_SPLITS.items()
        for number in range(count)
    ]
    (place / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": coco}))
    (place / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": flickr}))


def split_folder(split: str) -> str:
    return "train" if split == "train" else "val"


def copied(entry: dict[str, Any], images: Path, folder: Path, number: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(images / entry["filename"], folder / entry["filename"])
    return {"filename": entry["filename"], "imgid": number, "sentences": entry["sentences"]}


def write_recipe(place: Path) -> None:
    """The packaged coco.yaml with a batch and a number of epochs for two cores."""
    from mwactl.config import packaged_recipe

    text = packaged_recipe("coco").text
    for setting, value in {"epochs": "1", "batch_size": "8"}.items():
        lines = [f"  {setting}: {value}" if line.startswith(f"  {setting}:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (place / "coco.yaml").write_text(text)


def call(place: Path, words: str) -> None:
    """One command in a process of its own."""
    print(f"$ mwactl {words}", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-c", "from mwactl.cli import main; main()", *words.split()]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"mwactl {words} ended with {os.waitstatus_to_exitcode(status)}")
    print(f"  [{time.monotonic() - began:.0f} s, {usage.ru_maxrss * 1024 / 1e9:.1f} GB]\n", flush=True)


if __name__ == "__main__":
    main()
