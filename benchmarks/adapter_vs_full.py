"""Head-only, MWA (also with trained heads) and full fine-tuning in the same loop, side by side.

Recall, transfer to other data, trained parameters, time and memory:

    python benchmarks/adapter_vs_full.py --backbone clip:local-dir:FOLDER --data flickr8k --transfer coco-subset

`--data` and `--transfer` are data sets of the catalogue (`mwactl data add`). Every method has the same data, epochs,
batch size, schedule and seed; its learning rate is its own (`--lr mwa=5e-4`). The validation split chooses the epoch,
the test split is reported once. Each method runs in a process of its own, so peak memory is its own. The steps are then
timed again, a few at a time in alternation, so that a busy machine is busy for all. Prints a Markdown table and writes
all figures as JSON.

`--only-steps` leaves training and evaluation out, for time and memory of models too large to train here, or without
their weights:

    python benchmarks/adapter_vs_full.py --only-steps --backbone beit3-base --data flickr8k --batch-size 16 \
        --methods mwa full --option backbone.weights=random
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

METHODS = ("head", "mwa", "mwa+head", "full")
LEARNING_RATES = {"head": 1e-3, "mwa": 5e-4, "mwa+head": 5e-4, "full": 5e-5}


def main() -> None:
    arguments = parse_arguments()
    if arguments.time_one:
        print(json.dumps(time_steps(arguments)))
        return
    figures: dict[str, Any] = {} if arguments.only_steps else {"baseline": baseline(arguments)}
    for method in arguments.methods:
        figures[method] = {} if arguments.only_steps else run_method(arguments, method)
        arguments.out.write_text(json.dumps(figures, indent=2))
    if arguments.rounds:
        rounds: dict[str, list[dict[str, float]]] = {method: [] for method in arguments.methods}
        for _ in range(arguments.rounds):
            for method in arguments.methods:
                rounds[method].append(steps_in_a_process(arguments, method))
        for method, results in rounds.items():
            figures[method]["seconds_per_step"] = statistics.median(result["seconds"] for result in results)
            figures[method]["step_peak_memory_bytes"] = max(result["peak_memory_bytes"] for result in results)
            figures[method]["trainable_parameters"] = int(results[0]["trainable_parameters"])
    figures["machine"] = machine()
    arguments.out.write_text(json.dumps(figures, indent=2))
    print(table_of_steps(figures, arguments) if arguments.only_steps else table(figures, arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--transfer", default=None, help="a data set whose val split is evaluated, never trained on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--lr", nargs="*", default=[], metavar="METHOD=RATE")
    parser.add_argument(
        "--option", nargs="*", default=[], metavar="OPTION=VALUE", help="recipe options for all methods"
    )
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of timed steps; 0: none")
    parser.add_argument("--steps", type=int, default=6, help="steps a round")
    parser.add_argument("--out", type=Path, default=Path("adapter_vs_full.json"))
    parser.add_argument("--only-steps", action="store_true", help="neither train nor evaluate")
    parser.add_argument("--time-one", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_steps and not arguments.rounds:
        parser.error("--only-steps needs --rounds")
    return arguments


def options(arguments: argparse.Namespace, method: str) -> list[str]:
    """The recipe options of one method."""
    rates = LEARNING_RATES | {name: float(rate) for name, _, rate in (item.partition("=") for item in arguments.lr)}
    return [
        f"name=bench-{method.replace('+', '-')}",
        f"backbone.name={arguments.backbone}",
        f"data.name={arguments.data}",
        f"method.name={method.removesuffix('+head')}",
        f"method.train_head={str(method == 'mwa+head').lower()}",
        "method.train_logit_scale=true",
        f"train.epochs={arguments.epochs}",
        f"train.batch_size={arguments.batch_size}",
        f"train.lr={rates[method]}",
        f"train.precision={arguments.precision}",
        f"train.seed={arguments.seed}",
        *arguments.option,
    ]


def mwactl(*words: str) -> dict[str, Any]:
    """A command's JSON answer; its progress goes to this process's stderr."""
    command = [sys.executable, "-c", "from mwactl.cli import main; main()", *words, "--json"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return answer


def baseline(arguments: argparse.Namespace) -> dict[str, Any]:
    """The backbone before any training."""
    results = {"test": mwactl("eval", "--backbone", arguments.backbone, "--data", arguments.data)}
    if arguments.transfer:
        results["transfer"] = mwactl(
            "eval", "--backbone", arguments.backbone, "--data", arguments.transfer, "--split", "val"
        )
    return results


def run_method(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """Train and evaluate one method."""
    trained = mwactl("train", "captions", *options(arguments, method), "--restart")
    results = {"train": trained, "test": mwactl("eval", trained["adapter"], "--data", arguments.data)}
    if arguments.transfer:
        results["transfer"] = mwactl("eval", trained["adapter"], "--zero-shot", arguments.transfer, "--split", "val")
    return results


def steps_in_a_process(arguments: argparse.Namespace, method: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--time-one", method]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return answer


def time_steps(arguments: argparse.Namespace) -> dict[str, float]:
    """The median step of one method on one real batch, and the process's peak memory; data loading is left out."""
    import torch

    from mwactl.adapter import inject
    from mwactl.backbone import WeightsRequest, find_spec
    from mwactl.backbone.contract import unit_rows
    from mwactl.backbone.precision import autocast, choose_device, choose_precision
    from mwactl.config import load_recipe
    from mwactl.data import Catalogue, open_image
    from mwactl.train.log import peak_memory_bytes
    from mwactl.train.loss import contrastive_loss
    from mwactl.train.optimiser import adamw

    recipe = load_recipe("captions", options(arguments, arguments.time_one)).recipe
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    plugin, spec = find_spec(recipe.backbone.name)
    model = inject(plugin.build(spec, WeightsRequest(recipe.backbone.weights)), recipe.method).to(device).train()
    parameters = model.trainable()
    optimiser = adamw(parameters, recipe.train)
    split = Catalogue.default().get(arguments.data).load(recipe.data.train_split)
    transform = model.backbone.image_transform()
    pictures = split.images[: arguments.batch_size]
    captions = [split.captions[own[0]] for own in split.captions_of()[: arguments.batch_size]]
    pixels = torch.stack([transform(open_image(path)) for path in pictures]).to(device)
    tokens = model.backbone.tokenize(captions).to(device)
    ids = torch.arange(len(captions), device=device)
    seconds = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        with autocast(device, precision):
            image, text = model.encode_image(pixels), model.encode_text(tokens)
        scale = model.backbone.logit_scale.exp()
        loss = contrastive_loss(unit_rows(image.float()), unit_rows(text.float()), scale, ids, ids)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(seconds[1:]),
        "peak_memory_bytes": peak_memory_bytes(device),
        "trainable_parameters": model.trainable_count(),
    }


def machine() -> dict[str, Any]:
    import torch

    from mwactl.workflow.facts import versions

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "gpu": gpu,
        "versions": versions(),
    }


def table(figures: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The figures as Markdown."""
    lines = [
        f"| | trained parameters | text→image R@1/5/10 | image→text R@1/5/10 | RSUM | {arguments.transfer} val RSUM "
        "| s a step | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ("baseline", *arguments.methods):
        result = figures[name]
        test, train = result["test"], result.get("train")
        cells = [
            name if train else "before training",
            f"{train['trainable_parameters']:,}" if train else "0",
            recalls(test["text_to_image"]),
            recalls(test["image_to_text"]),
            f"{test['rsum']:.1f}",
            f"{result['transfer']['rsum']:.1f}" if "transfer" in result else "",
            f"{result['seconds_per_step']:.2f}" if "seconds_per_step" in result else "",
            f"{result['step_peak_memory_bytes'] / 1e9:.2f} GB" if "step_peak_memory_bytes" in result else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_of_steps(figures: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Time and memory as Markdown."""
    lines = ["| | trained parameters | s a step | peak memory |", "|---|---:|---:|---:|"]
    for method in arguments.methods:
        result = figures[method]
        memory = f"{result['step_peak_memory_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {method} | {result['trainable_parameters']:,} | {result['seconds_per_step']:.2f} | {memory} |")
    return "\n".join(lines)


def recalls(metrics: dict[str, float]) -> str:
    return " / ".join(f"{metrics[f'R@{k}']:.1f}" for k in (1, 5, 10))


if __name__ == "__main__":
    main()
