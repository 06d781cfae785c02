"""A machine that has a bundle and the embeddings, and neither torch nor a registry, embeds and searches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "open_clip", "timm", "transformers"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Without())
from mwactl.cli import main
main()
"""


def without_torch(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *map(str, arguments)],
        env=os.environ | {"MWACTL_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def bundle(mwactl_cli, traced_once, tiny_clip: Path, tmp_path: Path) -> Path:
    assert mwactl_cli("inject", "--backbone", f"clip:local-dir:{tiny_clip}", "--name", "tiny").code == 0
    result = mwactl_cli("export", "tiny@1", "--onnx", "-o", tmp_path / "bundle")
    assert result.code == 0, result.stderr
    return tmp_path / "bundle"


@pytest.mark.filterwarnings("ignore")  # of the exporter's libraries
def test_a_bundle_embeds_and_searches_and_its_embeddings_are_those_of_torch(
    mwactl_cli, bundle: Path, tiny_pictures: Path, tmp_path: Path
):
    pictures, elsewhere = tiny_pictures / "images", tmp_path / "another-home"
    by_torch, by_bundle = tmp_path / "by-torch", tmp_path / "by-bundle"
    assert mwactl_cli("embed", "tiny@1", pictures, "-o", by_torch).code == 0
    assert without_torch(elsewhere, "embed", "tiny@1", pictures, "-o", by_bundle).returncode == 3
    done = without_torch(elsewhere, "embed", bundle, pictures, "-o", by_bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["reference"] == str(bundle)

    query = ["a square of colour 96", "-k", "5", "--json"]
    own = without_torch(elsewhere, "search", by_bundle, *query)
    moved = without_torch(elsewhere, "search", by_torch, *query, "--model", bundle)
    torch = mwactl_cli("search", by_torch, *query)
    found = [json.loads(answer.stdout)["results"] for answer in (own, moved, torch)]
    for other in found[1:]:
        assert [row["id"] for row in other] == [row["id"] for row in found[0]]
        assert [row["score"] for row in other] == pytest.approx([row["score"] for row in found[0]], abs=1e-3)
    lost = without_torch(elsewhere, "search", by_torch, *query)
    assert (lost.returncode, lost.stdout) == (3, "")
    assert "--model BUNDLE" in lost.stderr
