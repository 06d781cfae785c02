"""A bundle's folder needs nothing of the toolkit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "mwactl", "open_clip", "transformers", "safetensors",
                                      "timm", "onnx", "pydantic", "typer", "mwactl_clip"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
from PIL import Image
from runtime import load

model = load(".", device="cpu", threads=1)
report = model.verify()
images = model.encode_images([Image.new("RGB", (60, 40), "red")])
texts = model.encode_texts(["a dog", "two dogs run in the snow"])
print(images.shape, texts.shape, max(apart["max_abs"] for apart in report.values() if "max_abs" in apart) < 1e-5)
"""


def test_a_bundle_runs_from_its_folder_without_torch_or_the_toolkit(own_bundle: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=own_bundle, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "(1, 16) (2, 16) True\n"


def test_the_runtime_in_a_bundle_is_the_toolkits_own(tiny_bundle: Path):
    from mwactl.runtime import bundle

    assert (tiny_bundle / "runtime.py").read_bytes() == Path(bundle.__file__).read_bytes()
