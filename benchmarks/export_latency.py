"""How long a picture and a caption take: torch with the adapter, torch merged, the bundle in fp32 and in int8.

    python benchmarks/export_latency.py coco-mwa@3 --data coco --rounds 9 --out latency.json

Every REF is exported twice (fp32, and int8 within `--gate`) into a temporary folder. All four then get the same pixels
and the same token ids, in alternation, so that a busy machine is busy for all. Figures are medians over rounds of the
milliseconds a call takes, and of how many times faster than torch with the adapter it is in the same round, with the
quartiles of that ratio. Captions are those of the data (or of the packaged drawings): once without padding that none of
the batch needs, once padded to the model's full length. With `--data` the recall of each is reported on the same
pictures. Prints a table and writes all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from mwactl.adapter import AdaptedModel, MergedModel, fold
from mwactl.backbone.contract import unit_rows
from mwactl.cli.output import out
from mwactl.export.gate import parse_gates
from mwactl.export.graph import without_padding
from mwactl.quickstart.samples import samples
from mwactl.registry import Entry, Registry
from mwactl.runtime import open_picture
from mwactl.workflow.export import ExportOptions, export_onnx
from mwactl.workflow.load import load_model
from mwactl.workflow.splits import CheckedSplit, checked_split

CONTESTANTS = ("torch adapted", "torch merged", "onnx fp32", "onnx int8")
Model = AdaptedModel | MergedModel
Call = Callable[[], object]


def main() -> None:
    arguments = parse_arguments()
    registry = Registry.default(reporter=out)
    split = None
    if arguments.data:
        split = checked_split(arguments.data, arguments.split, on_error="stop", reporter=out)
    figures: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds, "models": {}}
    for reference in arguments.references:
        entry = registry.resolve(reference)
        with tempfile.TemporaryDirectory() as folder:
            figures["models"][entry.reference] = measure(registry, entry, split, Path(folder), arguments)
        arguments.out.write_text(json.dumps(figures, indent=2))
    for reference, found in figures["models"].items():
        print(table(reference, found))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", nargs="+", metavar="REF")
    parser.add_argument("--data", default=None, help="a data set of the catalogue, for captions and recall")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=1000, help="pictures that recall is measured on")
    parser.add_argument("--gate", action="append", help="of int8, such as top10=90; default: whatever it costs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="about how long each contestant runs in a round")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 0], help="0: one a core")
    parser.add_argument("--out", type=Path, default=Path("export_latency.json"))
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def measure(
    registry: Registry, entry: Entry, split: CheckedSplit | None, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Sizes, recall and latencies of one entry."""
    options = {
        "onnx fp32": ExportOptions(),
        "onnx int8": ExportOptions(dtype="int8", bounds=parse_gates(arguments.gate or ["top10=0"])),
    }
    documents = {
        name: export_onnx(registry, entry, folder / name, chosen, split=split, limit=arguments.limit, reporter=out)
        for name, chosen in options.items()
    }
    adapted = load_model(registry, entry)
    merged = load_model(registry, entry)
    merged = fold(merged) if isinstance(merged, AdaptedModel) else merged
    found: dict[str, Any] = {
        name: {key: document[key] for key in ("sizes", "parity", "int8", "measured_on")}
        for name, document in documents.items()
    }
    found["latency"] = []
    for threads in arguments.threads:
        count = threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(count)
        sessions = {
            (name, tower): session(folder / name, tower, count) for name in options for tower in ("image", "text")
        }
        for batch in arguments.batches:
            for what, given in inputs(adapted, split, batch).items():
                calls = contestants(what, given, {"torch adapted": adapted, "torch merged": merged}, sessions)
                figures = race(calls, arguments.rounds, arguments.seconds)
                found["latency"].append(
                    {"what": what, "batch": batch, "threads": count, "shape": list(given.shape), **figures}
                )
    return found


def inputs(model: Model, split: CheckedSplit | None, batch: int) -> dict[str, torch.Tensor]:
    """A batch of pixels, and one of captions without and with padding: those in the middle of all lengths."""
    backbone = model.backbone
    drawings = samples(64)
    pictures: list[Any] = [sample.picture for sample in drawings]
    captions = [sample.caption for sample in drawings]
    if split is not None:
        pictures, captions = list(split.dataset.images), list(split.dataset.captions)
    transform = backbone.image_transform()
    pixels = torch.stack([transform(open_picture(picture)) for picture in pictures[:batch]])
    by_length = sorted(captions, key=len)
    start = (len(by_length) - batch) // 2
    tokens = backbone.tokenize(by_length[start : start + batch])
    text = backbone.portable().text
    found = {"image": pixels, f"text padded to {tokens.shape[1]}": tokens}
    if text["trim"]:
        found["text"] = without_padding(tokens, int(text["padding"]))
    return found


def contestants(
    what: str, given: torch.Tensor, models: dict[str, Model], sessions: dict[tuple[str, str], Any]
) -> dict[str, Call]:
    """What is timed: from pixels or ids in memory to unit rows in memory."""
    tower, name = ("image", "pixels") if what == "image" else ("text", "tokens")
    array = given.numpy()

    def by_torch(model: Model) -> Call:
        encode = {"image": model.encode_image, "text": model.encode_text}.get(what, model.encode_padded_text)
        return lambda: unit_rows(encode(given))

    def by_onnx(chosen: Any) -> Call:
        return lambda: chosen.run(["embeddings"], {name: array})

    calls = {contestant: by_torch(model) for contestant, model in models.items()}
    return calls | {
        contestant: by_onnx(sessions[contestant, tower]) for contestant in CONTESTANTS if contestant not in models
    }


@torch.inference_mode()
def race(calls: dict[str, Call], rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds a call and ratios to the first contestant, in alternation."""
    repeats = {name: max(1, round(seconds / max(timed(call, 3), 1e-6))) for name, call in calls.items()}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        order = list(calls) if number % 2 == 0 else list(calls)[::-1]
        for name in order:
            took[name].append(timed(calls[name], repeats[name]))
    first = took[next(iter(calls))]
    return {
        name: {
            "ms": 1000 * statistics.median(times),
            "times_faster": spread([base / own for base, own in zip(first, times, strict=True)]),
        }
        for name, times in took.items()
    }


def timed(call: Call, repeats: int) -> float:
    """Seconds a call."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def spread(ratios: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    return {"median": middle, "q1": low, "q3": high}


def session(bundle: Path, tower: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(bundle / f"{tower}.onnx", options, providers=["CPUExecutionProvider"])


def table(reference: str, found: dict[str, Any]) -> str:
    lines = [f"\n## {reference}\n", "| | batch | threads | " + " | ".join(CONTESTANTS) + " |", "|---" * 7 + "|"]
    for row in found["latency"]:
        cells = []
        for name in CONTESTANTS:
            ratio = row[name]["times_faster"]
            cells.append(f"{row[name]['ms']:.2f} ms ({ratio['median']:.2f}×, {ratio['q1']:.2f} to {ratio['q3']:.2f})")
        lines.append(f"| {row['what']} | {row['batch']} | {row['threads']} | " + " | ".join(cells) + " |")
    for name in ("onnx fp32", "onnx int8"):
        megabytes = sum(found[name]["sizes"].values()) / 1e6
        parity = found[name]["parity"]
        told = f"{name}: {megabytes:.1f} MB"
        if parity["top10"] is not None:  # on fewer than 100 pictures it says nothing
            told += f", top-10 agreement {parity['top10']:.2f} %"
        if parity["recall"]:
            told += "".join(
                f", {metric} {parity['recall'][metric]['torch']:.2f} → {parity['recall'][metric]['exported']:.2f}"
                for metric in ("i2t.R@1", "t2i.R@1", "rsum")
            )
        lines.append(f"\n{told}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


if __name__ == "__main__":
    main()
