"""Make the weights of `clip-tiny-emoji`, the quickstart's backbone: our own loop, our own recipe, Twemoji drawings.

    python benchmarks/pretrain_clip_tiny_emoji.py

Trains `templates/clip-tiny-emoji.yaml` from random values on every Twemoji drawing of the package (all three splits:
the quickstart is tested on drawings of another style) and writes fp16 safetensors beside the model's configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import safetensors.torch

from mwactl.adapter.serialise import from_bytes
from mwactl.cli.output import duration, out
from mwactl.config import load_recipe
from mwactl.data import Catalogue
from mwactl.files import atomic_write
from mwactl.quickstart.assets import unpack
from mwactl.registry import Registry
from mwactl.workflow.facts import ADAPTER_FILE
from mwactl.workflow.train import train_recipe
from mwactl_clip.names import TINY_EMOJI, TINY_EMOJI_FOLDER

_PREFIX = "backbone.model."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TINY_EMOJI_FOLDER / "open_clip_model.safetensors")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MWACTL_HOME"] = home
        add_all_drawings(Path(home))
        registry = Registry.default()
        loaded = load_recipe(TINY_EMOJI, arguments.options)
        trained = train_recipe(registry, loaded, reporter=out)
        state, _ = from_bytes(registry.read(trained.entry, ADAPTER_FILE), where=trained.entry.reference)
        weights = {name.removeprefix(_PREFIX): tensor.half() for name, tensor in sorted(state.items())}
        atomic_write(arguments.out, safetensors.torch.save(weights))
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, {duration(trained.outcome.seconds)}")


def add_all_drawings(folder: Path) -> None:
    """Put the bundled Twemoji set into the catalogue, every drawing in the training split."""
    annotations, images = unpack("twemoji", folder)
    document = json.loads(annotations.read_text(encoding="utf-8"))
    for image in document["images"]:
        image["split"] = "train"
    every = folder / "all.json"
    every.write_text(json.dumps(document), encoding="utf-8")
    Catalogue.default().add("twemoji", format="karpathy", annotations=every, images=images)


if __name__ == "__main__":
    main()
