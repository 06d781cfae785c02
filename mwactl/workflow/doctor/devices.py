"""What can compute: cores, memory, cards, and the providers of onnxruntime."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mwactl.workflow.doctor.finding import Finding, State, gigabytes, in_one_line
from mwactl.workflow.doctor.probe import CUDA, PROVIDERS, Probed

_SECONDS = 20.0


def find_machine() -> Iterator[Finding]:
    """Cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    sizes = [f"{gigabytes(size)} {what}" for what, size in memory.items()]
    detail = ", ".join([f"{cores} cores", platform.machine(), *sizes])
    facts = {"cores": cores, **{f"memory_{what}_bytes": size for what, size in memory.items()}}
    yield Finding("cpu", State.OK, detail, facts=facts)


def find_cards(probed: Probed) -> Iterator[Finding]:
    """NVIDIA's driver, and each card that torch can compute on."""
    seen, asked = _driver(), probed.get(CUDA, {})
    cards: list[Mapping[str, Any]] = asked.get("cards", [])
    if seen is None and not cards:
        yield Finding("cuda", State.MISSING, "no NVIDIA card is seen; everything works on the CPU, more slowly")
        return
    if seen is not None:
        yield Finding("driver", State.OK, f"NVIDIA {seen['version']} with {', '.join(seen['cards'])}", facts=seen)
    if not cards:
        built_for = asked.get("built_for")
        why = in_one_line(asked["error"]) if "error" in asked else f"its CUDA is {built_for or 'left out'}"
        fix = "update the driver, or install another torch: https://pytorch.org/get-started/locally"
        yield Finding("cuda", State.MISSING, f"torch sees no card: {why}", fix, facts=asked)
    for index, card in enumerate(cards):
        works = card.get("computes", False)
        sizes = f"{gigabytes(card.get('memory_bytes', 0))}, {gigabytes(card.get('free_bytes', 0))} free"
        name, wrong = card.get("name", "a card"), in_one_line(card.get("error", "its products are wrong"))
        yield Finding(
            f"cuda:{index}",
            State.OK if works else State.BROKEN,
            f"{name}, {sizes}, CUDA {asked['built_for']}" if works else f"{name}: {wrong}",
            None if works else "nvidia-smi; then another torch: https://pytorch.org/get-started/locally",
            facts=card,
        )


def find_providers(probed: Probed) -> Iterator[Finding]:
    """What an exported model can run on."""
    asked = probed.get(PROVIDERS, {})
    usable = [name.removesuffix("ExecutionProvider") for name in asked.get("usable", [])]
    unusable = [name.removesuffix("ExecutionProvider") for name in asked.get("unusable", [])]
    lacking = f"; built in, not usable here: {', '.join(unusable)}" if unusable else ""
    if "CPU" not in usable:
        why = in_one_line(asked.get("error", "it opens no model on the CPU"))
        fix = "pip install --force-reinstall onnxruntime"
        yield Finding("onnxruntime providers", State.BROKEN, why, fix, required=True, facts=asked)
    elif "CUDA" not in usable and _driver() is not None:
        fix = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        yield Finding("onnxruntime providers", State.MISSING, f"{', '.join(usable)}{lacking}", fix, facts=asked)
    else:
        yield Finding("onnxruntime providers", State.OK, f"{', '.join(usable)}{lacking}", facts=asked)


def _memory() -> dict[str, int]:
    """Bytes of memory in all, and of it available (each where the system says)."""
    found: dict[str, int] = {}
    with suppress(OSError, ValueError, AttributeError):
        found["total"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        found["available"] = 1024 * int(available.split()[1])
    return found


def _driver() -> dict[str, Any] | None:
    """What NVIDIA's own program says; None where there is no driver, or no card."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(", ", 1) for line in said.splitlines() if ", " in line]
    return {"version": rows[0][0], "cards": [name for _, name in rows]} if rows else None
