"""Run in a process of its own: import each module named in the arguments, and ask torch and onnxruntime what they see.

Prints one JSON document a line, each as soon as it is known, so that whoever listens knows at which of them it died.
It must not import anything of mwactl, nor anything else at the top: what is broken may be that.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main(modules: list[str]) -> None:
    """Try each: a module, or one of the questions."""
    # What a library prints goes where errors go: the lines on the real stdout are ours alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**document: Any) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    for name in modules:
        try:
            found = _QUESTIONS[name]() if name in _QUESTIONS else _imported(name)
        except BaseException as error:  # a broken installation raises anything, SystemExit too
            say(name=name, error=f"{type(error).__name__}: {error}")
        else:
            say(name=name, **found)


def _imported(module: str) -> dict[str, Any]:
    return {"version": str(getattr(importlib.import_module(module), "__version__", ""))}


def _cuda() -> dict[str, Any]:
    """What torch was built for, and each card that it can compute on."""
    import torch

    cards = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card: dict[str, Any] = {}
        cards.append(card)
        try:
            facts = torch.cuda.get_device_properties(index)
            card["name"] = facts.name
            card["memory_bytes"] = facts.total_memory
            card["capability"] = f"{facts.major}.{facts.minor}"
            card["free_bytes"] = torch.cuda.mem_get_info(index)[0]
            ones = torch.ones(16, 16, device=f"cuda:{index}")
            card["computes"] = float((ones @ ones).sum()) == 16**3
        except RuntimeError as error:
            card["error"] = str(error)
    return {"built_for": torch.version.cuda, "threads": torch.get_num_threads(), "cards": cards}


def _providers() -> dict[str, Any]:
    """Which of onnxruntime's providers a session really gets; the others are built in, and lack a library or a card."""
    onnxruntime = importlib.import_module("onnxruntime")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    usable: list[str] = []
    unusable: list[str] = []
    for provider in onnxruntime.get_available_providers():
        try:
            session = onnxruntime.InferenceSession(_IDENTITY, options, providers=[provider])
            works = session.get_providers()[0] == provider
        except Exception:
            works = False
        (usable if works else unusable).append(provider)
    return {"usable": usable, "unusable": unusable}


_QUESTIONS = {"cuda": _cuda, "onnxruntime providers": _providers}
#: An ONNX model of one node, `y = Identity(x)`.
_IDENTITY = bytes.fromhex(
    "08073a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)

if __name__ == "__main__":
    main(sys.argv[1:])
