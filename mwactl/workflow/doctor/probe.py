"""Trying what may take the process down: in another process, which says of each thing at once what it found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mwactl.workflow.doctor import probe_program
from mwactl.workflow.doctor.finding import in_one_line

CUDA = "cuda"
PROVIDERS = "onnxruntime providers"
_SECONDS = 120.0

Probed = Mapping[str, Mapping[str, Any]]
"""Module, or question → what was found: `version`, or `error`, or the answer."""


def probe(names: Sequence[str]) -> Probed:
    """Try each module and question. What takes its process down is noted, and the rest is tried in a fresh one."""
    found: dict[str, Mapping[str, Any]] = {}
    remaining = list(names)
    while remaining:
        lines, end = _run(remaining)
        found.update({line["name"]: line for line in lines})
        untried = [name for name in remaining if name not in found]
        if untried:
            found[untried[0]] = {"error": end}
        remaining = untried[1:]
    return found


def _run(names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """What the program said, and, where it did not come to its end, how it ended."""
    # -P: the program's folder is not where modules are looked for.
    command = [sys.executable, "-P", str(Path(probe_program.__file__)), *names]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        return _lines(error.stdout), f"no answer in {_SECONDS:g} s"
    except OSError as error:
        return [], f"{sys.executable} cannot be run: {error.strerror}"
    said = in_one_line("\n".join(reversed(done.stderr.decode(errors="replace").splitlines())))
    how = signal.strsignal(-done.returncode) if done.returncode < 0 else f"exit code {done.returncode}"
    return _lines(done.stdout), f"it ends Python ({how})" + (f": {said}" if said else "")


def _lines(output: bytes | None) -> list[dict[str, Any]]:
    """The documents; a last line that was cut off is none."""
    return [json.loads(line) for line in (output or b"").splitlines(keepends=True) if line.endswith(b"\n")]
