"""Every model that open_clip knows, by its name: where modules attach, or why they do not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import pytest
import timm
import transformers

REPOSITORY = Path(__file__).parents[2]
CONVOLUTIONAL = ("ModifiedResNet", "ConvNeXt", "FastVit")
#: Millions of parameters of towers built from published sizes, as open_clip's own profile of its models has them.
PROFILED = {
    "roberta-ViT-B-32": 124.87, "coca_roberta-ViT-B-32": 124.45, "xlm-roberta-base-ViT-B-32": 278.27,
    "xlm-roberta-large-ViT-H-14": 560.94, "mt5-base-ViT-B-32": 277.86, "mt5-xl-ViT-H-14": 1674.68,
    "nllb-clip-base": 414.04, "nllb-clip-large": 767.14,
}  # fmt: skip


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(path.stem, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


survey: Any = load(REPOSITORY / "benchmarks" / "open_clip_models.py")


def depths(model: str) -> tuple[int | None, int]:
    """How many blocks the configuration of a model asks for: of pictures (None: timm's matter), of captions."""
    config = open_clip.get_model_config(model)
    vision, text = config["vision_cfg"], config["text_cfg"]
    image = vision.get("layers") if "timm_model_name" not in vision else None
    if (name := text.get("hf_model_name")) is None:
        return image, text["layers"]
    published = survey.PUBLISHED[name]
    return image, getattr(published, "num_layers", None) or published.num_hidden_layers


@pytest.mark.parametrize("model", open_clip.list_models())
def test_every_block_of_each_tower_is_a_site_or_the_tower_is_a_convolutional_network(model: str) -> None:
    row = survey.row(model)
    image, text = depths(model)
    assert sum(count for count, _ in row.text.sites) == text
    if row.image.kind in CONVOLUTIONAL:
        assert row.image.sites == ()
    else:
        found = sum(count for count, _ in row.image.sites)
        assert found >= 12
        assert image in (None, found)


@pytest.mark.parametrize("model", PROFILED)
def test_towers_of_the_hub_have_the_size_that_open_clip_publishes(model: str) -> None:
    assert survey.row(model).text_parameters / 1e6 == pytest.approx(PROFILED[model], abs=0.006)


def test_the_page_says_what_the_plugin_does() -> None:
    page = (REPOSITORY / "docs" / "open_clip_models.md").read_text("utf-8")
    here = {library.__name__: library.__version__ for library in (open_clip, timm, transformers)}
    written = {library: f"{library} {version}" in page for library, version in here.items()}
    if not all(written.values()):
        pytest.skip(f"the page is of other versions than {here}; python benchmarks/open_clip_models.py writes it anew")
    assert page == survey.page(), "python benchmarks/open_clip_models.py > docs/open_clip_models.md"
