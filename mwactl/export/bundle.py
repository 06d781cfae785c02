"""The folder to deploy: two graphs, the tokenizer, the preprocessing, the runtime, and the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from mwactl.backbone.portable import Portable
from mwactl.errors import VerificationError
from mwactl.export.golden import FILE as GOLDEN_FILE
from mwactl.export.graph import TowerName
from mwactl.export.parity import TOLERANCES, Parity, Tolerance
from mwactl.export.storage import copy_with_facts
from mwactl.files import canonical_json, naming_write_errors, sha256_file
from mwactl.runtime import BundleError, RetrievalModel, bundle, load

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
#: The key of a graph's metadata under which the bundle's facts stand.
METADATA = "mwactl"
RUNTIME_FILE = "runtime.py"
#: The newest operators that onnxruntime 1.20 knows, the oldest that is asked for.
_OPSET_OF_OLDEST = 21
#: Before anything is measured: whatever is a unit vector.
_ANY = Tolerance(max_abs=2.0, min_cosine=-1.0)


@dataclass(frozen=True)
class Content:
    """All that is in a bundle besides its graphs.

    Args:
        facts: What the manifest says, but for what is measured and the list of files.
        portable: The preprocessing.
        golden: The bytes of `golden.npz`.
    """

    facts: Mapping[str, Any]
    portable: Portable
    golden: bytes = field(repr=False)


def write_bundle(
    folder: Path,
    content: Content,
    graphs: Mapping[TowerName, Path],
    *,
    parity: Parity | None = None,
    tolerance: Tolerance = _ANY,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle into a new folder.

    Args:
        folder: Is made.
        content: All but the graphs.
        graphs: Without facts; they are copied, the facts added.
        parity: What was measured; None: nothing yet.
        tolerance: What the bundle must hold to, wherever it is verified.
        more: Further facts that are known only after measuring.

    Raises:
        ResourceError: The disk is full.
    """
    measured = {
        "parity": None if parity is None else parity.as_dict(),
        "tolerance": tolerance.as_dict(),
    }
    facts = {**content.facts, **measured, **(more or {})}
    portable = content.portable
    requirements = [*_requirements(facts["opset"]), *sorted(portable.requirements)]
    with naming_write_errors(folder):
        folder.mkdir()
        for tower, graph in graphs.items():
            copy_with_facts(graph, folder / f"{tower}.onnx", {METADATA: canonical_json(facts).decode()})
        files = {
            **portable.files,
            "preprocess.json": canonical_json(portable.preprocess()),
            GOLDEN_FILE: content.golden,
            RUNTIME_FILE: Path(bundle.__file__).read_bytes(),
            "requirements.txt": "\n".join([*requirements, ""]).encode(),
            "README.md": _readme(facts).encode(),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        listed = {
            path.name: {"sha256": sha256_file(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())
        }
        manifest = json.dumps({**facts, "files": listed}, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST_FILE).write_text(manifest + "\n", encoding="utf-8")


def open_unmeasured(folder: Path, threads: int) -> RetrievalModel:
    """A bundle of this process, as its runtime opens it."""
    return load(folder, device="cpu", threads=threads, check_files=False)


def prove(folder: Path, threads: int) -> dict[str, Any]:
    """Let the bundle verify itself as it will elsewhere: every digest, ids, pixels, embeddings.

    Raises:
        VerificationError: It does not.
    """
    try:
        return load(folder, device="cpu", threads=threads).verify()
    except BundleError as error:
        raise VerificationError(
            "the exported bundle does not hold what it promises; nothing was written",
            why=str(error).replace(f"{folder}/", ""),
            fix="report the backbone's name and this line",
        ) from error


def widened(parity: Parity, report: Mapping[str, Mapping[str, float]]) -> Tolerance:
    """What an int8 bundle must hold to: twice as far from torch as the worst that was found here, or as fp32 may be.

    Its rows depend a little on what else is in a batch, since a batch shares the scale that its numbers are rounded by.
    """
    rows = [values for values in report.values() if "min_cosine" in values]
    cosine = min(parity.image.min_cosine, parity.text.min_cosine, *(row["min_cosine"] for row in rows))
    apart = max(parity.image.max_abs, parity.text.max_abs, *(row["max_abs"] for row in rows))
    least = TOLERANCES["fp32"]
    return Tolerance(
        max_abs=max(least.max_abs, 2 * apart), min_cosine=max(-1.0, min(least.min_cosine, 1 - 2 * (1 - cosine)))
    )


def _requirements(opset: int) -> list[str]:
    """What the runtime imports. For newer operators nothing older than what has run the graphs is trusted."""
    oldest = "1.20" if opset <= _OPSET_OF_OLDEST else onnxruntime.__version__
    return ["numpy>=1.26", f"onnxruntime>={oldest}", "pillow>=10.3"]


def _readme(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    return f"""\
# {model["reference"]} as ONNX ({facts["dtype"]})

Pictures and captions to embeddings of {facts["embedding_width"]} numbers, without torch:

    pip install -r requirements.txt

```python
from runtime import load                                # runtime.py of this folder

model = load(".")                                       # device="cuda" with onnxruntime-gpu
pictures = model.encode_images(["a.jpg", "b.jpg"])      # unit rows
captions = model.encode_texts(["two dogs on a beach"])
print(captions @ pictures.T)                            # cosines: the nearest picture scores highest
```

`python -c "from runtime import load; print(load('.').verify())"` computes again what torch computed at the export.
`manifest.json` says what this is and how near it is to torch. Made with mwactl from {model["backbone"]["name"]}.
"""
