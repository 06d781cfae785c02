"""Time of the registry's everyday verbs with ten versions and with ten thousand.

    python benchmarks/registry.py [--versions 10000] [--names 100]

Publishes tiny adapters, spread over that many names (1: all under one), in a temporary directory, and ten under one
name beside it. Then `list`, `show` and `publish` are timed, the first two as commands of their own, with the start of
Python; the best of some runs counts, for other work on the machine only ever adds. Prints a Markdown table, in which
the ratio is what many versions cost against ten. Exit code 1 if `list` takes a second or more, `show` 0.3 s or more, or
`publish` 20 ms longer than with ten versions.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mwactl import __version__
from mwactl.registry import Registry

RUNS = 5
FEW = 10
LIST_S, SHOW_S, PUBLISH_LATER_S = 1.0, 0.3, 0.02


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--names", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mwactl-") as directory:
        few, many = Registry(Path(directory) / "few"), Registry(Path(directory) / "many")
        fill(few, FEW, 1)
        fill(many, arguments.versions, arguments.names)
        seconds = {
            "list": (command_s(few, "list"), command_s(many, "list")),
            "list --json": (command_s(few, "list", "--json"), command_s(many, "list", "--json")),
            "show": (command_s(few, "show", "adapter-0@1"), command_s(many, "show", "adapter-0@1")),
            "publish": (publish_s(few), publish_s(many)),
        }
    names = "1 name" if arguments.names == 1 else f"{arguments.names:,} names"
    print(f"mwactl {__version__}, Python {platform.python_version()}; the best of {RUNS}\n")
    print(f"| | {FEW} versions, ms | {arguments.versions:,} versions in {names}, ms | ratio |")
    print("|---|---:|---:|---:|")
    for verb, (with_few, with_many) in seconds.items():
        print(f"| {verb} | {1000 * with_few:.1f} | {1000 * with_many:.1f} | {with_many / with_few:.1f} |")
    few_s, many_s = seconds["publish"]
    late = [seconds["list"][1] >= LIST_S, seconds["show"][1] >= SHOW_S, many_s - few_s >= PUBLISH_LATER_S]
    sys.exit(int(any(late)))


def fill(registry: Registry, versions: int, names: int) -> None:
    """Publish as everybody does, but without the syncs: nobody needs these versions after a power cut."""
    real, os.fsync = os.fsync, lambda _: None
    try:
        for number in range(versions):
            publish(registry, f"adapter-{number % names}", number)
    finally:
        os.fsync = real


def publish(registry: Registry, name: str, number: int) -> None:
    facts = {"base": {"backbone": "clip-vit-b-32"}, "method": {"name": "mwa", "config": {"bottleneck": 64}}}
    content = f"adapter {number}".encode()
    registry.publish(name, kind="adapter", files={"adapter.safetensors": content}, facts=facts, verb="train")


def command_s(registry: Registry, *arguments: str) -> float:
    """Seconds of a command with its answer thrown away."""
    command = [sys.executable, "-m", "mwactl", "registry", *arguments]
    environment = {**os.environ, "MWACTL_REGISTRY": str(registry.root)}

    def run() -> None:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return best_s(run)


def publish_s(registry: Registry) -> float:
    numbers = iter(range(1_000_000, 1_000_000 + RUNS))
    return best_s(lambda: publish(Registry(registry.root), "adapter-0", next(numbers)))


def best_s(action: Callable[[], None]) -> float:
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
