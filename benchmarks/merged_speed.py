"""How long a bare backbone, the same with an adapter, and the two merged take to embed pictures and captions.

    python benchmarks/merged_speed.py --tokenizer beit3.spm clip:local-dir:FOLDER

Random weights serve where a backbone is not a folder: they change no time. The adapter is the preset `paper`, moved
away from zero. The three models take turns within every round; said are medians over the rounds, and medians of each
round's ratio to the bare backbone, so that a busy moment of the machine meets all three.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTS = ("beit3-base", "vlmo-base", "clip-vit-b-32")
WORDS = 14
"""Tokens of a caption, its two special ones included: about what captions of photographs have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", help=f"backbones besides {', '.join(HOSTS)}")
    parser.add_argument("--only", action="store_true", help="measure the named backbones alone")
    parser.add_argument("--tokenizer", type=Path, help="beit3.spm, without which no BEiT-3 is built")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    hosts = [*arguments.backbones] if arguments.only else [*HOSTS, *arguments.backbones]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MWACTL_HOME"] = home
        if arguments.tokenizer is not None:
            (Path(home) / "weights").mkdir()
            shutil.copy(arguments.tokenizer, Path(home) / "weights" / "beit3.spm")
        else:
            hosts = [host for host in hosts if not host.startswith("beit3")]
        found = [measure(host, arguments) for host in hosts]
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("threads", "rounds", "batch")}
        print(json.dumps({"schema": 1, **settings, "backbones": found}, indent=2))
    else:
        for each in found:
            report(each)


def measure(host: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The times of one backbone's three models."""
    import torch

    from mwactl.adapter import fold

    torch.set_num_threads(arguments.threads)
    print(f"building {host} three times", file=sys.stderr)
    bare, adapted = built(host), adapted_of(host)
    models: dict[str, Any] = {"bare": bare, "adapted": adapted, "merged": fold(adapted_of(host))}
    tokens = torch.randint(5, 90, (arguments.batch, WORDS), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[:, -1] = 3, int(tokens.max()) + 1  # where a tower pools at the highest id: the last
    pixels = torch.randn(arguments.batch, 3, *bare.image_size)
    check(models, pixels, tokens)
    return {
        "backbone": bare.spec.name.rpartition("/")[2],
        "parameters": {
            "bare": bare.count_parameters(),
            "adapted": bare.count_parameters() + adapted.trainable_count(),
            "merged": models["merged"].count_parameters(),
        },
        "kept": models["merged"].kept,
        "images": times({name: lambda m=model: m.encode_image(pixels) for name, model in models.items()}, arguments),
        "texts": times({name: lambda m=model: m.encode_text(tokens) for name, model in models.items()}, arguments),
    }


def built(host: str) -> Any:
    from mwactl.backbone import WeightsRequest, find_spec

    plugin, spec = find_spec(host)
    return plugin.build(spec, WeightsRequest(None if "local-dir:" in host else "random"))


def adapted_of(host: str) -> Any:
    import torch

    from mwactl.adapter import inject
    from mwactl.config.recipe import MethodConfig

    model = inject(built(host), MethodConfig())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def check(models: dict[str, Any], pixels: Any, tokens: Any) -> None:
    """What is timed must be what it is called: merged and adapted alike, and both unlike the bare backbone."""
    import torch

    from mwactl.backbone.contract import unit_rows

    with torch.inference_mode():
        for encode, batch in (("encode_image", pixels), ("encode_text", tokens)):
            rows = {name: unit_rows(getattr(model, encode)(batch)) for name, model in models.items()}
            same, moved = ((rows["adapted"] - rows[name]).abs().max().item() for name in ("merged", "bare"))
            if same > 1e-5 or moved < 1e-4:
                sys.exit(f"{encode}: merged differs from adapted by {same:.1e}, bare by {moved:.1e}")


def times(calls: dict[str, Callable[[], Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds a batch, in rounds of which each begins with another model."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.inference_mode():
        for number in range(-1, arguments.rounds):  # the first round warms up
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                calls[name]()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    ratios = {name: [each / bare for each, bare in zip(seconds[name], seconds["bare"], strict=True)] for name in calls}
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios[name]),
            "ratio_quartiles": statistics.quantiles(ratios[name], n=4)[::2] if arguments.rounds > 1 else None,
        }
        for name in calls
    }


def report(found: dict[str, Any]) -> None:
    sizes = found["parameters"]
    print(
        f"{found['backbone']}   {sizes['bare']:,} parameters, adapted {sizes['adapted']:,}, merged {sizes['merged']:,}"
    )
    for what in ("images", "texts"):
        parts = [
            f"{name} {each['seconds'] * 1000:.0f} ms" + ("" if name == "bare" else f" (× {each['ratio']:.3f})")
            for name, each in found[what].items()
        ]
        print(f"  {what}  {', '.join(parts)}")


if __name__ == "__main__":
    main()
