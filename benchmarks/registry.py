"""Time of the registry's everyday verbs with ten versions and with ten thousand.

    python benchmarks/registry.py [--versions 10000] [--names 100]

Publishes tiny adapters, spread over that many names, in a temporary directory. Then `list`, `show` and `publish` are
timed, the first two as commands of their own, with the start of Python. Prints one JSON document. Exit code 1 if `list`
takes a second or more, `show` 0.3 s or more, or `publish` 20 ms longer than with ten versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mwactl import __version__
from mwactl.registry import Registry

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--names", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mwactl-") as directory:
        few, many = Registry(Path(directory) / "few"), Registry(Path(directory) / "many")
        fill(few, 10, 1)
        fill(many, arguments.versions, arguments.names)
        report = {
            "versions": arguments.versions,
            "names": arguments.names,
            "list_s": command_s(many, "list"),
            "list_json_s": command_s(many, "list", "--json"),
            "show_s": command_s(many, "show", "adapter-0@1"),
            "show_of_ten_s": command_s(few, "show", "adapter-0@1"),
            "publish_ms": publish_ms(many),
            "publish_of_ten_ms": publish_ms(few),
            "mwactl": __version__,
            "python": platform.python_version(),
        }
    print(json.dumps(report, indent=2))
    late_ms = report["publish_ms"] - report["publish_of_ten_ms"]
    sys.exit(int(report["list_s"] >= 1 or report["show_s"] >= 0.3 or late_ms >= 20))


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
    """Seconds of a command with its answer thrown away; the median of some runs."""
    command = [sys.executable, "-m", "mwactl", "registry", *arguments]
    environment = {**os.environ, "MWACTL_REGISTRY": str(registry.root)}

    def run() -> None:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return median_s(run)


def publish_ms(registry: Registry) -> float:
    numbers = iter(range(1_000_000, 1_000_000 + RUNS))
    seconds = median_s(lambda: publish(Registry(registry.root), "adapter-0", next(numbers)))
    return round(1000 * seconds, 1)


def median_s(action: Callable[[], None]) -> float:
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds), 4)


if __name__ == "__main__":
    main()
