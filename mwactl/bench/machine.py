"""The machine a comparison runs on: what it is, and how much memory it has left."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, threads and GPU, for the record."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": None,
    }
    if device.type == "cuda":
        facts["gpu"] = {
            "name": torch.cuda.get_device_name(device),
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "driver_and_clocks": _nvidia_smi(device),
        }
    return facts


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def _processor() -> str:
    unknown = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return unknown
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), unknown)


def _nvidia_smi(device: torch.device) -> str | None:
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def give_back_memory(device: torch.device) -> None:
    """Let other processes have the memory that this one has freed but still holds."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def available_memory() -> int | None:
    """Bytes of the machine's memory that are free or can be freed; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
