"""What a bundle needs where it is deployed: a fresh environment, its size, and ten lines that answer as torch did.

    python benchmarks/runtime_environment.py BUNDLE [--scratch FOLDER]

Makes a virtual environment, downloads the wheels of the bundle's requirements.txt (pip's configured index), installs
them alone, copies the bundle's folder away from everything else and runs a small program in it. Prints what was
downloaded and installed, the largest first, and how far the embeddings are from those of the export. Exit code 1 if
they are beyond the bundle's tolerance or the wheels together are larger than 80 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LARGEST_WHEELS_BYTES = 80_000_000
DEPLOYMENT = """
import json, sys, time
began = time.perf_counter()
import numpy as np
from PIL import Image
from runtime import load

model = load(".", device="cpu")
golden = np.load("golden.npz")
images = model.encode_images([Image.fromarray(golden["picture"])])
texts = model.encode_texts(golden["captions"].tolist())
first_s = time.perf_counter() - began
model.verify()
print(json.dumps({
    "image": float(abs(images - golden["image_embeddings"]).max()),
    "text": float(abs(texts - golden["text_embeddings"]).max()),
    "first_s": first_s,
    "foreign": sorted({"torch", "mwactl", "transformers", "open_clip"} & set(sys.modules)),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--scratch", type=Path, help="Where the environment is made (default: the system's).")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runtime-", dir=arguments.scratch) as folder:
        place = Path(folder)
        bundle = Path(shutil.copytree(arguments.bundle, place / "bundle"))
        wheels = download(bundle / "requirements.txt", place / "wheels")
        packages = install(bundle / "requirements.txt", place)
        found = deploy(bundle, place / "environment")
    tolerance = json.loads((arguments.bundle / "manifest.json").read_bytes())["tolerance"]["max_abs"]
    total = sum(wheels.values())
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    print_table("wheels", wheels)
    print_table("installed", packages)
    print(f"image {found['image']:.1e} and text {found['text']:.1e} from the export, tolerated {tolerance:.1e};")
    print(f"first embeddings {found['first_s']:.1f} s after the start; imported of the toolkit: {found['foreign']}")
    return int(max(found["image"], found["text"]) > tolerance or total > LARGEST_WHEELS_BYTES or bool(found["foreign"]))


def download(requirements: Path, folder: Path) -> dict[str, int]:
    """The wheels' sizes in bytes."""
    pip(sys.executable, "download", "--only-binary=:all:", "-r", requirements, "-d", folder)
    return {wheel.name.partition("-")[0]: wheel.stat().st_size for wheel in folder.iterdir()}


def install(requirements: Path, place: Path) -> dict[str, int]:
    """Install from the downloaded wheels alone; the sizes of what was added, by its folder."""
    subprocess.run([sys.executable, "-m", "venv", place / "environment"], check=True)
    packages = next((place / "environment").glob("lib/python*/site-packages"))
    before = {path.name for path in packages.iterdir()}
    python = place / "environment" / "bin" / "python"
    pip(python, "install", "--no-index", "--find-links", place / "wheels", "-r", requirements)
    return {path.name: size(path) for path in packages.iterdir() if path.name not in before}


def pip(python: Path | str, *arguments: str | Path) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(list(map(str, command)), check=True)


def deploy(bundle: Path, environment: Path) -> dict[str, float]:
    """Run the deployment program in the bundle's folder; what it says."""
    (bundle / "deploy.py").write_text(DEPLOYMENT)
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MWACTL"))}
    command = [str(environment / "bin" / "python"), "deploy.py"]
    done = subprocess.run(command, cwd=bundle, env=alone, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def print_table(what: str, sizes: dict[str, int], most: int = 8) -> None:
    print(f"| {what} | MB |\n|---|---:|")
    print(f"| **together** | **{sum(sizes.values()) / 1e6:.1f}** |")
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    for name, size_bytes in ordered[:most]:
        print(f"| {name} | {size_bytes / 1e6:.1f} |")
    if rest := ordered[most:]:
        print(f"| {len(rest)} more | {sum(size_bytes for _, size_bytes in rest) / 1e6:.1f} |")
    print()


if __name__ == "__main__":
    raise SystemExit(main())
