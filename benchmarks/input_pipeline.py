"""Pictures a second that training's loader gives, from the files and from the picture cache, against what a step needs.

    mwactl data add flickr8k --format karpathy --annotations dataset_flickr8k.json --images images
    python benchmarks/input_pipeline.py --data flickr8k --backbone beit3-base --step-pairs-per-second 1.9 40

Loads batches of the training split as `mwactl train` does (the captions, which cost little, are not tokenised), in
rounds that alternate between the ways and that all come from warm files; the median of the rounds counts. The rows:

* `none`: as an evaluation shows the pictures. From the cache these are the same pixels, which is checked.
* `crop`: random resized crops. From the cache they are cut from pictures that were made smaller before.

Then what the second interpolation of `crop` changes, where it changes anything: random crops of the data set's pictures
at `--small` pixels, cut from the picture and from what the cache keeps for that size, and beside it what bilinear
instead of bicubic interpolation changes. Prints Markdown; the exit code is 1 if pixels differ that must not, or if the
cache gives less than five times what the fastest step needs. The cache is made where it is missing (MWACTL_HOME).
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from mwactl import __version__
from mwactl.backbone import find_spec
from mwactl.backbone.contract import Backbone
from mwactl.config.recipe import DataConfig
from mwactl.data import open_image
from mwactl.data.geometry import for_random_crops
from mwactl.data.loader import PairBatch, Row, pair_batches
from mwactl.progress import Silent
from mwactl.workflow.picture_source import PictureSource, training_source
from mwactl.workflow.splits import CheckedSplit, checked_split

TIMES_THE_NEED = 5
ASPECT = (3 / 4, 4 / 3)


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    plugin, spec = find_spec(arguments.backbone)
    backbone = plugin.build_without_weights(spec)
    split = checked_split(arguments.data, "train", on_error="skip", reporter=Silent())
    sources = {
        (augment, cache): source(backbone, split, augment, cache, arguments.crop_min_scale)
        for augment in ("none", "crop")
        for cache in ("off", "on")
    }
    rates: dict[tuple[str, str, int], list[float]] = {}
    for number in range(arguments.rounds):
        for (augment, cache), shown in sources.items():
            for workers in arguments.workers:
                rate = pictures_a_second(split, shown, arguments, workers, seed=number)
                rates.setdefault((augment, cache, workers), []).append(rate)
    costs = {key: processor_ms(split, shown, 500) for key, shown in sources.items()}
    print(f"{arguments.data} train, {len(split.dataset.images):,} pictures, {backbone.image_size[0]} pixels a side;")
    print(f"mwactl {__version__}, torch {torch.__version__}, Pillow {PIL.__version__}, {len(os.sched_getaffinity(0))}")
    print(f"cores ({platform.machine()}); median of {arguments.rounds} rounds of {arguments.pictures} pictures\n")
    enough = print_rates(rates, costs, arguments.step_pairs_per_second)
    equal = same_pixels(split, sources["none", "off"], sources["none", "on"])
    print(f"\n`none` gives the same pixels from the cache: {'yes' if equal else 'NO'}")
    print_approximation(split, arguments.small, arguments.crop_min_scale)
    sys.exit(int(not (equal and enough)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="beit3-base")
    parser.add_argument("--step-pairs-per-second", type=float, nargs="+", default=[], metavar="RATE")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crop-min-scale", type=float, default=0.7)
    parser.add_argument("--small", type=int, default=64)
    return parser.parse_args()


def source(backbone: Backbone, split: CheckedSplit, augment: str, cache: str, share: float) -> PictureSource:
    data = DataConfig(name=split.dataset.name, augment=augment, cache=cache, crop_min_scale=share)  # type: ignore[arg-type]
    return training_source(backbone, split, data, Silent())


def batches(split: CheckedSplit, shown: PictureSource, rows: list[list[Row]], workers: int) -> Iterator[PairBatch]:
    def no_tokens(captions: Sequence[str]) -> Tensor:
        return torch.zeros(len(captions), 1, dtype=torch.int64)

    return pair_batches(
        split.dataset, split.digests, iter(rows), transform=shown.transform, pictures=shown.pictures,
        flip=False, tokenize=no_tokens, seed=0, workers=workers,
    )  # fmt: skip


def pictures_a_second(
    split: CheckedSplit, shown: PictureSource, arguments: argparse.Namespace, workers: int, *, seed: int
) -> float:
    """The rate once the workers run: the clock starts when as many batches have come as they prepare ahead."""
    size = arguments.batch_size
    ahead = 2 * workers
    order = np.random.default_rng(seed).permutation(len(split.dataset.images))
    order = np.resize(order, ahead * size + arguments.pictures)
    rows: list[Row] = [(seed, int(image), 0) for image in order]
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    began, counted = 0.0, 0
    for number, batch in enumerate(batches(split, shown, chunks, workers)):
        if number == ahead:
            began = time.perf_counter()
        elif number > ahead:
            counted += len(batch.pixels)
    return counted / (time.perf_counter() - began)


def processor_ms(split: CheckedSplit, shown: PictureSource, count: int) -> float:
    """Processor time a picture in one process, which other programs on the machine change least."""
    rows: list[list[Row]] = [[(0, image, 0)] for image in range(min(count, len(split.dataset.images)))]
    began = time.process_time()
    shown_count = sum(len(batch.pixels) for batch in batches(split, shown, rows, 0))
    return 1000 * (time.process_time() - began) / shown_count


def print_rates(
    rates: dict[tuple[str, str, int], list[float]], costs: dict[tuple[str, str], float], needs: Sequence[float]
) -> bool:
    """The table; whether the cache gives enough for every step with the most workers."""
    titles = "".join(f" × {need:g} pairs/s |" for need in needs)
    print(f"| augment | pictures from | processor ms/picture | workers | pictures/s |{titles}")
    print("|---|---|---:|---:|---:|" + "---:|" * len(needs))
    enough = True
    most = max(workers for _, _, workers in rates)
    for (augment, cache, workers), found in rates.items():
        rate = statistics.median(found)
        ratios = "".join(f" {rate / need:,.0f} |" for need in needs)
        kind, cost = "cache" if cache == "on" else "files", costs[augment, cache]
        print(f"| {augment} | {kind} | {cost:.2f} | {workers} | {rate:,.0f} |{ratios}")
        if cache == "on" and workers == most:
            enough &= all(rate >= TIMES_THE_NEED * need for need in needs)
    return enough


def same_pixels(split: CheckedSplit, one: PictureSource, other: PictureSource) -> bool:
    rows: list[list[Row]] = [[(0, image, 0) for image in range(0, len(split.dataset.images), 20)]]
    [first], [second] = (list(batches(split, shown, rows, 0)) for shown in (one, other))
    return torch.equal(first.pixels, second.pixels)


def print_approximation(split: CheckedSplit, size: int, share: float) -> None:
    """What a second interpolation changes, over pictures that it concerns."""
    geometry = for_random_crops((size, size), share)
    random.seed(0)
    torch.manual_seed(0)
    cached, bilinear = [], []
    for path in random.sample(split.dataset.images, min(300, len(split.dataset.images))):
        picture = open_image(path)
        kept = geometry(picture)
        if kept is picture:
            continue
        top, left, height, width = RandomResizedCrop.get_params(picture, [share, 1.0], list(ASPECT))  # type: ignore[arg-type]
        box = (left, top, left + width, top + height)
        exact = crop(picture, box, size, Image.Resampling.BICUBIC)
        scale = kept.width / picture.width, kept.height / picture.height
        scaled = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
        cached.append(crop(kept, scaled, size, Image.Resampling.BICUBIC) - exact)
        bilinear.append(crop(picture, box, size, Image.Resampling.BILINEAR) - exact)
    if not cached:
        print(f"no picture is large enough to be made smaller for {size} pixels: nothing is lost")
        return
    print(f"\nrandom crops of {len(cached)} pictures at {size} pixels, {geometry.description}:\n")
    print("| against the crop of the whole picture, bicubic | mean difference, of 255 levels | PSNR, dB |")
    print("|---|---:|---:|")
    for name, differences in (("cut from the cached picture", cached), ("bilinear instead", bilinear)):
        values = np.stack(differences)
        psnr = 10 * math.log10(255**2 / float((values**2).mean()))
        print(f"| {name} | {np.abs(values).mean():.2f} | {psnr:.1f} |")


def crop(
    picture: Image.Image, box: tuple[float, float, float, float], size: int, filter: Image.Resampling
) -> NDArray[np.float64]:
    return np.asarray(picture.resize((size, size), filter, box=box)).astype(np.float64)  # [size, size, 3]


if __name__ == "__main__":
    main()
