"""open_clip's picture transforms and tokenizers as data, for programs without torch."""

from __future__ import annotations

from typing import Any

import regex  # type: ignore[import-untyped]
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from open_clip.transform import PreprocessCfg

from mwactl.backbone.portable import Portable, no_older_than_here
from mwactl.errors import IncompatibleError

_CLEAN = {
    "lower": ["ftfy", "unescape", "strip", "whitespace", "lower"],
    "whitespace": ["ftfy", "unescape", "strip", "whitespace"],
    "canonicalize": ["ftfy", "unescape", "strip", "punctuation", "lower", "whitespace"],
}


def portable(name: str, preprocess: PreprocessCfg, tokenizer: Any, *, ignored_padding: int | None) -> Portable:
    """The preprocessing of one open_clip model.

    Args:
        name: The backbone's, for errors.
        preprocess: What `image_transform_v2` takes.
        tokenizer: What `open_clip.get_tokenizer` gives.
        ignored_padding: The id on the right that the text tower ignores, or None.

    Raises:
        IncompatibleError: The tokenizer cannot be expressed as data.
    """
    if type(tokenizer) is SimpleTokenizer:
        return _byte_pairs(name, _image(preprocess), tokenizer, ignored_padding)
    if isinstance(tokenizer, HFTokenizer):
        return _hugging_face(name, _image(preprocess), tokenizer, ignored_padding)
    raise _inexpressible(name, f"it is a {type(tokenizer).__name__}")


def _image(preprocess: PreprocessCfg) -> dict[str, Any]:
    """The picture transform that `image_transform_v2` makes for an evaluation."""
    size = preprocess.size
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    # open_clip resizes the shortest side towards an oblong with bicubic interpolation, whatever is asked for.
    oblong = preprocess.resize_mode == "shortest" and height != width
    bilinear = preprocess.interpolation == "bilinear" and not oblong
    return {
        "size": [height, width],
        "resize": preprocess.resize_mode,
        "interpolation": "bilinear" if bilinear else "bicubic",
        "fill": int(preprocess.fill_color) if preprocess.resize_mode == "longest" else 0,
        "mean": _three(preprocess.mean),
        "std": _three(preprocess.std),
    }


def _three(values: Any) -> list[float]:
    return [float(value) for value in (values if isinstance(values, list | tuple) else (values,) * 3)]


def _byte_pairs(name: str, image: dict[str, Any], tokenizer: SimpleTokenizer, ignored_padding: int | None) -> Portable:
    """CLIP's own tokenizer, by its merges. (Hugging Face's rules cannot say its pattern, which ignores the case.)"""
    if tokenizer.reduction_fn is not None:
        raise _inexpressible(name, "it shortens captions at random")
    specials = [tokenizer.decoder[index] for index in tokenizer.all_special_ids]
    merges = ["".join(pair) for pair in tokenizer.bpe_ranks]
    letters = list(tokenizer.byte_encoder.values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *merges, *specials]
    expected_flags = regex.compile("", regex.IGNORECASE).flags
    if tokenizer.encoder != {piece: index for index, piece in enumerate(vocabulary)}:
        raise _inexpressible(name, "its vocabulary does not follow from its merges")
    if tokenizer.pat.flags != expected_flags:
        raise _inexpressible(name, "its pattern has other flags than CLIP's")
    text = {
        "library": "bpe",
        "file": "merges.txt",
        "clean": _clean(name, tokenizer.clean_fn),
        "begin": tokenizer.sot_token_id,
        "end": tokenizer.eot_token_id,
        "padding": 0,
        "length": int(tokenizer.context_length),
        "trim": ignored_padding == 0,
        "pattern": tokenizer.pat.pattern,
        "special": specials,
    }
    content = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks).encode("utf-8")
    return Portable(image, text, {"merges.txt": content}, no_older_than_here("ftfy", "regex"))


def _hugging_face(name: str, image: dict[str, Any], tokenizer: HFTokenizer, ignored_padding: int | None) -> Portable:
    """A tokenizer of transformers, by the rules of the library behind it, which also cuts and fills."""
    inner = tokenizer.tokenizer
    if tokenizer.tokenizer_mode:
        raise _inexpressible(name, f"its mode `{tokenizer.tokenizer_mode}` puts a token after the padding")
    if getattr(inner, "backend_tokenizer", None) is None:
        raise _inexpressible(name, f"{type(inner).__name__} is written in Python")
    if inner.split_special_tokens:
        raise _inexpressible(name, "it splits special tokens in captions")
    from tokenizers import Tokenizer

    length = int(tokenizer.context_length)
    rules = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    rules.enable_truncation(length, direction=inner.truncation_side)
    rules.enable_padding(
        direction=inner.padding_side, pad_id=inner.pad_token_id, pad_type_id=inner.pad_token_type_id,
        pad_token=inner.pad_token, length=length,
    )  # fmt: skip
    text = {
        "library": "tokenizers",
        "file": "tokenizer.json",
        "clean": _clean(name, tokenizer.clean_fn),
        "begin": None,
        "end": None,
        "padding": int(inner.pad_token_id),
        "length": length,
        "trim": ignored_padding == inner.pad_token_id and inner.padding_side == "right",
        "replace": [[int(inner.sep_token_id), 0]] if tokenizer.strip_sep_token else [],
    }
    return Portable(
        image, text, {"tokenizer.json": rules.to_str().encode("utf-8")}, no_older_than_here("ftfy", "tokenizers")
    )


def _clean(name: str, function: Any) -> list[str]:
    for kind, steps in _CLEAN.items():
        if function is get_clean_fn(kind):
            return steps
    raise _inexpressible(name, "it cleans captions in a way of its own")


def _inexpressible(name: str, why: str) -> IncompatibleError:
    return IncompatibleError(f"the tokenizer of {name} cannot be used without torch", why=why)
