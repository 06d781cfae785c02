"""Options that are each fine and do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from mwactl.config.options import written
from mwactl.config.recipe import MwaConfig, Recipe

_FIXED_BY_AUTHORS_CODE = {"alignment_enhancer", "beta", "bias", "activation", "share_enhancer"}


@dataclass(frozen=True)
class Conflict:
    """One contradiction in a recipe.

    Args:
        options: The dotted paths concerned, the one to look at first in front.
        what: What is wrong.
        why: Why it cannot be trained like this.
        fix: The change to make.
    """

    options: tuple[str, ...]
    what: str
    why: str
    fix: str


def conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Every contradiction in a recipe whose options are valid one by one."""
    yield from _of_the_method(recipe)
    yield from _of_the_data(recipe)
    yield from _of_the_training(recipe)


def _of_the_method(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.method.name != "mwa":
        return
    mwa = recipe.method.mwa
    if mwa.preset == "authors-code":
        yield from _authors_code_changed(mwa)
    if mwa.knowledge_extractor == 0 and mwa.alignment_enhancer == 0:
        yield Conflict(
            ("method.mwa.alignment_enhancer", "method.mwa.knowledge_extractor", "method.name"),
            "the adapter has neither a Knowledge Extractor nor an Alignment Enhancer",
            "both middle dimensions are 0, so nothing would be trained",
            "give one of them a size (the paper's: 64 and 128), or take `method.name: head`",
        )
    for scale, module in (("alpha", "knowledge_extractor"), ("beta", "alignment_enhancer")):
        if getattr(mwa, scale) == 0 and getattr(mwa, module) > 0:
            yield Conflict(
                (f"method.mwa.{scale}", f"method.mwa.{module}"),
                f"`{scale}` is 0, so the modules of `{module}` never act and never learn",
                f"`{scale}` multiplies what they add to the backbone, and with it their gradient",
                f"leave them out with `{module}: 0`, or give `{scale}` another value",
            )
    if not mwa.modalities:
        yield Conflict(
            ("method.mwa.modalities",),
            "`modalities` is empty, so no tower gets an adapter",
            "nothing would be trained",
            "write `modalities: [image, text]`, or one of the two",
        )
    elif len(set(mwa.modalities)) < len(mwa.modalities):
        yield Conflict(
            ("method.mwa.modalities",),
            "`modalities` names a tower twice",
            f"it is {written(mwa.modalities)}",
            "name each tower once",
        )
    elif mwa.share_enhancer == "towers" and mwa.alignment_enhancer > 0 and len(mwa.modalities) == 1:
        yield Conflict(
            ("method.mwa.share_enhancer", "method.mwa.modalities"),
            "`share_enhancer: towers` does not go with one tower",
            f"`modalities` is {written(mwa.modalities)}, and there is nothing to share with",
            "remove `share_enhancer`, or `modalities`",
        )


def _authors_code_changed(mwa: MwaConfig) -> Iterator[Conflict]:
    """One conflict for every structural option that the preset `authors-code` fixes and the recipe changes."""
    for option in fields(MwaConfig):
        value = getattr(mwa, option.name)
        if option.name not in _FIXED_BY_AUTHORS_CODE or value == option.default:
            continue
        if option.name != "alignment_enhancer":
            why, also = "it stands for one published program, which has no such option", ""
        elif value != 0:
            why, also = "its Alignment Enhancer is as wide inside as the FFN", "write 0 to leave it out, "
        else:
            continue
        yield Conflict(
            (f"method.mwa.{option.name}", "method.mwa.preset"),
            f"`{option.name}` cannot be changed with the preset `authors-code`",
            f"{why} (here it is {written(value)})",
            f"{also}remove `{option.name}`, or take `preset: paper`",
        )


def _of_the_data(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.data.val_split == recipe.data.train_split:
        yield Conflict(
            ("data.val_split", "data.train_split"),
            f"the recipe validates on the split it trains on, `{recipe.data.train_split}`",
            "the best epoch would be chosen by pictures the adapter has learnt by heart",
            "name another split (`mwactl data show NAME` lists them), or write `val_split: null`",
        )


def _of_the_training(recipe: Recipe) -> Iterator[Conflict]:
    train = recipe.train
    if train.batch_size < 2:
        yield Conflict(
            ("train.batch_size",),
            "`train.batch_size` must be at least 2",
            "the other pairs of a batch are the negatives; a batch of 1 has none, and its loss is always 0",
            "use the largest batch that fits; the default is 256",
        )
    elif train.batch_size < 2 * recipe.data.captions_per_image:
        yield Conflict(
            ("data.captions_per_image", "train.batch_size"),
            f"a batch of {train.batch_size} pairs has no two pictures with {recipe.data.captions_per_image} captions",
            "`train.batch_size` counts captions, and the other pictures of a batch are the negatives",
            f"`train.batch_size: {64 * recipe.data.captions_per_image}`, or a smaller `captions_per_image`",
        )
    if train.loss == "sigmoid" and train.hard_negatives:
        yield Conflict(
            ("train.hard_negatives", "train.loss"),
            "`train.hard_negatives` weighs the negatives of the contrastive loss alone",
            "the sigmoid loss asks about every pair by itself",
            "remove `hard_negatives`, or take `train.loss: contrastive`",
        )
    if train.patience is not None and recipe.data.val_split is None:
        yield Conflict(
            ("train.patience", "data.val_split"),
            "`train.patience` counts epochs without a better validation, and nothing is validated",
            "`data.val_split` is null",
            "name a validation split, or remove `patience`",
        )
    if train.shard_backbone and train.micro_batch_size == "auto":
        yield Conflict(
            ("train.micro_batch_size", "train.shard_backbone"),
            "`train.micro_batch_size: auto` does not go with `train.shard_backbone`",
            "a process whose memory runs out leaves the others waiting for its part: no step can be repeated",
            "write a number, half of it where the memory is not enough",
        )
    if train.shard_backbone and recipe.method.name == "full":
        yield Conflict(
            ("train.shard_backbone", "method.name"),
            "`train.shard_backbone` has nothing to shard with `method.name: full`",
            "it divides frozen weights, and every weight is trained",
            "remove `shard_backbone`, or train an adapter (`method.name: mwa`)",
        )
    if train.min_lr > train.lr:
        yield Conflict(
            ("train.min_lr", "train.lr"),
            f"`train.min_lr` ({train.min_lr:g}) is above `train.lr` ({train.lr:g})",
            "the learning rate falls from `lr` to `min_lr`",
            "lower `min_lr` (its default is 0), or raise `lr`",
        )
