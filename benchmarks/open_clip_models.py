"""Which of open_clip's models take a MultiWay-Adapter, and where: writes docs/open_clip_models.md.

    python benchmarks/open_clip_models.py > docs/open_clip_models.md

The plugin builds every model on the meta device (no weights, no network), in a quarter of a minute in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import transformers
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, M2M100Config, MT5Config, PretrainedConfig, RobertaConfig, XLMRobertaConfig

from mwactl.backbone import find_spec
from mwactl.backbone.contract import Modality, Site
from mwactl.errors import IncompatibleError
from mwactl_clip.backbone import ClipBackbone
from mwactl_clip.hugging_face_blocks import BertSite, M2M100Site, T5Site

_LIKE_ROBERTA = {
    "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "bos_token_id": 0, "pad_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_NLLB = {"vocab_size": 256206, "d_model": 1024, "encoder_attention_heads": 16}

#: The published sizes of the text towers whose configurations lie on the hub.
PUBLISHED: dict[str, PretrainedConfig] = {
    "roberta-base": RobertaConfig(vocab_size=50265, **_LIKE_ROBERTA),
    "xlm-roberta-base": XLMRobertaConfig(vocab_size=250002, **_LIKE_ROBERTA),
    "xlm-roberta-large": XLMRobertaConfig(vocab_size=250002, **_LIKE_ROBERTA, **_LARGE),
    "google/mt5-base": MT5Config(vocab_size=250112, d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/mt5-xl": MT5Config(vocab_size=250112, d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "facebook/nllb-200-distilled-600M": M2M100Config(encoder_layers=12, encoder_ffn_dim=4096, **_NLLB),
    "facebook/nllb-200-distilled-1.3B": M2M100Config(encoder_layers=24, encoder_ffn_dim=8192, **_NLLB),
}

_HEADER = """\
# Models of open_clip

What a MultiWay-Adapter attaches to in each of the {count} models of open_clip {open_clip} (with timm {timm} and
transformers {transformers}). `clip:NAME/TAG` is a model with the weights of one of its tags, as in
`mwactl inject --backbone clip:EVA02-B-16/merged2b_s8b_b131k`. {both} models take modules in both towers; {one} have a
convolutional image tower without residual transformer blocks: there `--modalities text` adapts captions alone, and
`inject` without it refuses with the reason.

* **Sites**: blocks × width, and the kind of block. A Swin's widths differ from stage to stage.
* **Folds**: whether `mwactl merge` makes the Knowledge Extractors part of these blocks' feed-forward networks.
  * `yes`: a merged tower has no extractors any more.
  * `no LN`: a post-LN block's FFN reads what is not normalised, so extractors join it only if they do the same, with
    `layer_norm: false` in the recipe (they then stay branches in the `yes` blocks).
  * `branch`: the FFN is gated, or its norm is no LayerNorm or follows it. No linear map can hold both, and the
    extractors stay small layers beside it. What is computed is the same.
* **Adapter**: what the preset `paper` trains, in millions of numbers. **Backbone**: all of it, but for CoCa's decoder,
  which writes captions: it is not kept, nothing attaches to it.
* `*`: the text tower's own configuration lies on the Hugging Face hub; `mwactl backbones pull` fetches it. The sizes
  here are the published ones.

`python benchmarks/open_clip_models.py` writes this page, and a test compares it with what the plugin does.

| Model | Image sites | Folds | Text sites | Folds | Shared width | Adapter (M) | Backbone (M) |
|---|---|---|---|---|--:|--:|--:|
"""
_INITIALISES = ("clamp_", "erfinv_", "uniform_", "normal_", "mul_", "add_", "fill_", "zero_")
_CLASSES = {"ResidualAttentionBlock": "open_clip", "Block": "timm ViT", "SwinTransformerBlock": "Swin"}
_KINDS = {BertSite: "BERT layer", T5Site: "T5 block", M2M100Site: "M2M-100 layer"}


@dataclass(frozen=True)
class Tower:
    """A tower's sites, or why it has none.

    Args:
        sites: Runs of blocks of the same width: (count, width).
        kind: The blocks' class, or the refusal's reason.
        folds: What the table says under *Folds*.
    """

    sites: tuple[tuple[int, int], ...]
    kind: str
    folds: str


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    image: Tower
    text: Tower
    on_hub: bool
    embedding_width: int
    parameters: int
    text_parameters: int

    @property
    def adapter_parameters(self) -> int:
        """Of the preset `paper`: a Knowledge Extractor of 64 and an Alignment Enhancer of 128 a site."""
        middles, runs = (64, 128), (*self.image.sites, *self.text.sites)
        return sum(count * (2 * d * m + m + d + 2 * d) for count, d in runs for m in middles)

    def line(self) -> str:
        """As the table has it."""
        text = _cell(self.text) + (" *" if self.on_hub else "")
        sizes = f"{self.adapter_parameters / 1e6:.2f} | {self.parameters / 1e6:.1f}"
        return (
            f"| `{self.model}` | {_cell(self.image)} | {self.image.folds} | {text} | {self.text.folds} "
            f"| {self.embedding_width} | {sizes} |"
        )


@cache
def row(model: str) -> Row:
    """What the plugin makes of one model."""
    plugin, spec = find_spec(f"clip:{model}")
    with published_configurations(), _ShapesAlone():
        backbone = plugin.build_without_weights(spec)
    assert isinstance(backbone, ClipBackbone)
    text = getattr(backbone.model, "text", None)
    total = backbone.count_parameters()
    return Row(
        model,
        image=_tower(backbone, "image"),
        text=_tower(backbone, "text"),
        on_hub=hasattr(text, "config"),
        embedding_width=backbone.embedding_width,
        parameters=total,
        text_parameters=total - sum(parameter.numel() for parameter in backbone.model.visual.parameters()),
    )


class _ShapesAlone(TorchFunctionMode):
    """Skips what gives tensors on the meta device their initial values: they have none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(function, "__name__", "") in _INITIALISES and target.is_meta:
            return target
        return function(*args, **(kwargs or {}))


@contextmanager
def published_configurations() -> Iterator[None]:
    """Hugging Face's configurations by name, without the hub."""
    with patch.object(AutoConfig, "from_pretrained", lambda name, *_, **__: PUBLISHED[name]):
        yield


def _tower(backbone: ClipBackbone, tower: Modality) -> Tower:
    try:
        sites = backbone.sites([tower])
    except IncompatibleError as error:
        return Tower((), (error.why or "").partition(";")[0].removeprefix("it is a "), "")
    runs = [(len(list(run)), width) for width, run in groupby(sites, key=lambda site: site.width)]
    (folds,) = {_folds(site, tower) for site in sites}
    return Tower(tuple(runs), _kind(sites), folds)


def _folds(site: Site, tower: Modality) -> str:
    host = site.feed_forward(tower)
    if host is None:
        return "branch"
    return "no LN" if host.norm is None else "yes"


def _kind(sites: Sequence[Site]) -> str:
    (kind,) = {_KINDS.get(type(site)) or type(site._block).__name__ for site in sites}  # type: ignore[attr-defined]
    return _CLASSES.get(kind, kind)


def _cell(tower: Tower) -> str:
    if not tower.sites:
        return f"none: {tower.kind}"
    return f"{', '.join(f'{count} × {width}' for count, width in tower.sites)} {tower.kind}"


def page() -> str:
    """The whole page."""
    rows = [row(model) for model in open_clip.list_models()]
    both = sum(bool(each.image.sites and each.text.sites) for each in rows)
    header = _HEADER.format(
        count=len(rows), both=both, one=len(rows) - both, open_clip=open_clip.__version__, timm=timm.__version__,
        transformers=transformers.__version__,
    )  # fmt: skip
    return header + "\n".join(each.line() for each in rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
