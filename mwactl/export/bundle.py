"""The folder to deploy: two graphs, the tokenizer, the preprocessing, the runtime, and the proof."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mwactl.backbone.portable import Portable
from mwactl.errors import VerificationError
from mwactl.export.golden import FILE as GOLDEN_FILE
from mwactl.export.graph import TowerName
from mwactl.export.parity import Parity, Tolerance
from mwactl.export.storage import copy_with_facts
from mwactl.files import canonical_json, naming_write_errors, sha256_file
from mwactl.runtime import BundleError, RetrievalModel, bundle, load

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
#: The key of a graph's metadata under which the bundle's facts stand.
METADATA = "mwactl"
RUNTIME_FILE = "runtime.py"
_REQUIREMENTS = ("numpy>=1.26", "onnxruntime>=1.20", "pillow>=10.3")
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
    with naming_write_errors(folder):
        folder.mkdir()
        for tower, graph in graphs.items():
            copy_with_facts(graph, folder / f"{tower}.onnx", {METADATA: canonical_json(facts).decode()})
        files = {
            **portable.files,
            "preprocess.json": canonical_json(portable.preprocess()),
            GOLDEN_FILE: content.golden,
            RUNTIME_FILE: Path(bundle.__file__).read_bytes(),
            "requirements.txt": "\n".join([*_REQUIREMENTS, *sorted(portable.requirements), ""]).encode(),
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
    """What an int8 bundle must hold to: twice the worst that was found here.

    Its rows depend a little on what else is in a batch, since a batch shares the scale that its numbers are rounded by.
    """
    rows = [values for values in report.values() if "min_cosine" in values]
    worst = min(parity.image.min_cosine, parity.text.min_cosine, *(row["min_cosine"] for row in rows))
    # Rows of this cosine are at most this far apart, in any number.
    cosine = max(-1.0, 1 - 2 * (1 - worst))
    return Tolerance(max_abs=math.sqrt(2 - 2 * cosine), min_cosine=cosine)


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
