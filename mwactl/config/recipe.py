"""The recipe: everything that decides what an adapter becomes. Data, no behaviour, no torch.

Every field has a docstring under it; those texts are what `mwactl help config`, the messages about a recipe's mistakes
and the documentation show. What concerns one field is a constraint here; what concerns several is in `conflicts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

_STRICT = ConfigDict(extra="forbid", strict=False, use_attribute_docstrings=True, allow_inf_nan=False)


def _spelled(pattern: str, expected: str, max_length: int | None = None) -> Any:
    """A text of a certain form; `expected` is how a message names the form ("must be …")."""
    return Field(pattern=pattern, max_length=max_length, json_schema_extra={"expected": expected})


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
# As in the registry: no `..` and no dot at the end, so that every name can be a directory anywhere.
Name = Annotated[
    str,
    _spelled(
        r"^[a-z0-9](\.?[a-z0-9_-])*$",
        "a name of lower-case letters, digits, `-`, `_` and single dots (at most 64, the first a letter or a digit)",
        max_length=64,
    ),
]
Device = Annotated[str, _spelled(r"^(auto|cpu|cuda(:[0-9]+)?)$", "`auto`, `cpu`, `cuda` or `cuda:N`")]
SomeLayers = Annotated[str, _spelled(r"^(first|last) [1-9][0-9]*$", "`first N` or `last N`")]
Modality = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which frozen model is adapted."""

    __pydantic_config__ = _STRICT

    name: Text
    """A backbone's name (`mwactl backbones list`), `clip:MODEL[/PRETRAINED]` or `FAMILY:local-dir:FOLDER`."""

    weights: Text | None = None
    """A weights file, a pretrained tag, or `random`. Unset: the backbone's own default weights."""

    weights_seed: Seed = 0
    """The seed of `weights: random`."""


@dataclass(frozen=True, kw_only=True)
class MwaConfig:
    """The MultiWay-Adapter: a Knowledge Extractor beside each FFN, an Alignment Enhancer on top of each block."""

    __pydantic_config__ = _STRICT

    preset: Literal["paper", "authors-code"] = "paper"
    """`paper`: the paper's equations. `authors-code`: the structure of the public code, whose options are the sizes
    `knowledge_extractor` and (to leave it out) `alignment_enhancer: 0`, `alpha`, `layer_norm` and `dropout`."""

    knowledge_extractor: Annotated[int, Field(ge=0)] = 64
    """Middle dimension of the Knowledge Extractor; 0 leaves it out."""

    alignment_enhancer: Annotated[int, Field(ge=0)] = 128
    """Middle dimension of the Alignment Enhancer; 0 leaves it out."""

    alpha: float | Literal["learned"] | None = None
    """Scale of the Knowledge Extractor's branch; `learned`: one trained scalar a module, starting at 1. Unset: 1 for
    the preset `paper`, 0.1 for `authors-code`."""

    beta: float | Literal["learned"] = 1.0
    """Scale of the Alignment Enhancer's branch; `learned` as for `alpha`."""

    layer_norm: bool | None = None
    """Normalise each module's input (paper, equation 1); in `authors-code` the Knowledge Extractor's alone. Unset: yes
    for `paper`, no for `authors-code`."""

    bias: bool = True
    """Biases in the two projections."""

    activation: Literal["relu", "gelu"] = "relu"
    """Between the two projections."""

    dropout: Rate | None = None
    """Dropout on the middle activations while training; in `authors-code` the Knowledge Extractor's alone. Unset: 0 for
    `paper`, 0.1 for `authors-code`."""

    share_enhancer: bool | Literal["towers"] = True
    """Where both modalities pass through a block, use one Alignment Enhancer for both; else one for each. `towers`: the
    blocks of the same depth of two separate towers share one too; the towers must be of equal width and depth."""

    layers: Literal["all"] | SomeLayers = "all"
    """Which blocks of each tower: `all`, `first N` or `last N`."""

    modalities: tuple[Modality, ...] = ("image", "text")
    """Which towers; at least one."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA by peft: a product of two small matrices beside linear maps of every block (baseline)."""

    __pydantic_config__ = _STRICT

    rank: Positive = 16
    """Of the product."""

    alpha: Annotated[float, Field(gt=0)] | None = None
    """The product counts `alpha / rank` times. Unset: `rank`, so once."""

    dropout: Rate = 0.0
    """Dropout on what the product reads while training."""

    targets: Literal["all", "ffn", "attention"] = "all"
    """Beside which linear maps: of the feed-forward networks, of attention, or all. Packed attention (open_clip's
    own blocks) is no linear map and is left as it is."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What is trained."""

    __pydantic_config__ = _STRICT

    name: Literal["mwa", "lora", "bitfit", "head", "full"] = "mwa"
    """`mwa`: the adapter alone. Baselines: `lora`: low-rank products. `bitfit`: the biases. `head`: the projections to
    the shared space. `full`: every weight."""

    mwa: MwaConfig = field(default_factory=MwaConfig)
    """Options of `mwa`; without effect on the other methods."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Options of `lora`; without effect on the other methods."""

    train_head: bool = False
    """Train the projections to the shared space too; `head` and `full` always do."""

    train_logit_scale: bool | None = None
    """Train the temperature too. Unset: yes for `head` and `full`, no for the others."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which captioned pictures."""

    __pydantic_config__ = _STRICT

    name: Text
    """A data set of the catalogue (`mwactl data list`)."""

    train_split: Text = "train"
    """The split that is trained on."""

    val_split: Text | None = "val"
    """The split that chooses the best epoch; `null`: no validation, the last epoch is kept."""

    captions: Literal["random", "all"] = "random"
    """`random`: an epoch shows each picture once, with `captions_per_image` of its captions; `all`: every pair once."""

    captions_per_image: Positive = 1
    """Captions that a picture is shown with (fewer where it has fewer): it is decoded and encoded once for all of them,
    and each is a right answer. 1: one pair a row, as in the paper."""

    on_error: Literal["stop", "skip"] = "stop"
    """A picture that cannot be read: `stop` before training starts, or `skip` it (named and counted)."""

    augment: Literal["none", "flip", "crop", "colour"] = "crop"
    """`none`: the evaluation transform. `flip`: and mirrored half the time. `crop`: the backbone's own training
    transform (random resized crop). `colour`: and colours shifted, one picture in five grey."""

    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = 0.7
    """`crop` and `colour`: the smallest share of the picture's area that a crop keeps."""

    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode pictures. Unset: one a core, at most 8."""

    cache: Literal["auto", "on", "off"] = "auto"
    """Pictures decoded and resized beforehand, on disk. `auto`: used where they are there already and give the same
    pixels; nothing is written. `on`: made first; `crop` and `colour` then cut from pictures that were made smaller, an
    approximation that belongs to the run's identity. `off`: every picture is decoded each time."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How it is trained."""

    __pydantic_config__ = _STRICT

    epochs: Positive = 20
    """Passes over the training split."""

    batch_size: Positive = 256
    """Pairs a step, at least 2; every other pair of the batch is a negative. With several `data.captions_per_image`
    they are captions, at most: the batch has `batch_size / captions_per_image` pictures, and at least 2."""

    micro_batch_size: Positive | Literal["auto"] | None = None
    """Pictures, or captions, that the GPU works on at once; the batch keeps its size, its negatives and its gradient,
    and takes one more forward pass. `auto`: the whole batch, halved as often as the memory asks for. `null`: the whole
    batch. With dropout its draws, and so the run, depend on it."""

    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    """`contrastive`: softmax over the batch, both ways (CLIP, BEiT-3). `sigmoid`: every pair of the batch by itself
    (SigLIP), with the backbone's bias or, where it has none, one learned beside it."""

    hard_negatives: Annotated[float, Field(ge=0)] = 0.0
    """How much more similar negatives count in `contrastive`: each in proportion to exp(this times its logit), 1 on
    average. 0: all alike. With a temperature of 100, 0.1 is much."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and keep an exponential moving average of what is trained, of this decay (0.99 to 0.9999). Unset: the
    values themselves."""

    patience: Positive | None = None
    """Stop after so many epochs without a better validation. Unset: never before the last epoch."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""

    warmup: Rate = 0.1
    """Share of all steps over which the learning rate rises from 0."""

    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Where the cosine ends; at most `lr`."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's weight decay; biases, norms and scalars never decay."""

    betas: tuple[Rate, Rate] = (0.9, 0.98)
    """AdamW's decay rates of the gradient's running mean and square."""

    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; `null`: no clipping."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on a GPU that has it, else fp16 on a GPU, fp32 on a CPU."""

    device: Device = "auto"
    """Where it runs; `auto`: a GPU where there is one, else the CPU."""

    compile: bool = False
    """Compile the blocks with `torch.compile`: minutes at the start, then faster steps on a GPU. The same step but for
    the last bits of its numbers."""

    shard_backbone: bool = False
    """Several processes: each holds a part of every frozen block's weights, and all of a block's while it computes. For
    backbones that one GPU cannot hold; slower. The result is the same."""

    seed: Seed = 0
    """Set before anything is created."""

    checkpoint_every: Positive | None = None
    """Steps between resumable checkpoints. Unset: one an epoch."""

    eval_batch_size: Positive = 256
    """Pictures or captions a step when validating."""

    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the curves are shown besides the run's own log, each by the extra of its name. Offline, unless the
    environment says otherwise (WANDB_MODE=online, TRACKIO_SPACE_ID)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, whole."""

    __pydantic_config__ = _STRICT

    name: Name
    """The adapter's name in the registry."""

    backbone: BackboneConfig
    data: DataConfig
    method: MethodConfig = field(default_factory=MethodConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
