"""The tokenizer of a model: open_clip's own, or one of transformers, from the model's folder or the hub's cache."""

from __future__ import annotations

from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer

from mwactl.backbone.spec import BackboneSpec
from mwactl.errors import NotFoundError, UsageError
from mwactl_clip.config import ClipConfig
from mwactl_clip.weights import network


def load_tokenizer(spec: BackboneSpec, config: ClipConfig, *, download: bool) -> Any:
    """The tokenizer of a model.

    Args:
        spec: The model.
        config: Its configuration.
        download: Whether the network may be used.

    Raises:
        NotFoundError: It is not on this machine, or only files that hold no vocabulary for it.
        UsageError: A package is not installed.
    """
    with network(allowed=download):
        try:
            tokenizer = open_clip.get_tokenizer(spec.model)
        except ImportError as error:
            raise UsageError(
                f"the tokenizer of {spec.name} needs a package that is not installed",
                why=_one_line(error),
                fix="pip install 'mwactl[hf-text]'",
            ) from error
        except (OSError, ValueError) as error:
            raise _missing(spec, config, _one_line(error)) from error
    if isinstance(tokenizer, HFTokenizer) and not _knows_words(tokenizer.tokenizer):
        # transformers makes it without a warning where no file has a name that its class reads.
        kind, names = type(tokenizer.tokenizer).__name__, " or ".join(tokenizer.tokenizer.vocab_files_names.values())
        raise _missing(spec, config, f"no file is a vocabulary for its {kind}, which reads {names}")
    return tokenizer


def _knows_words(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers has more than special tokens (and SentencePiece's sign for a space)."""
    special = set(tokenizer.added_tokens_encoder) | {"▁"}
    return any(piece not in special for piece in tokenizer.get_vocab())


def _missing(spec: BackboneSpec, config: ClipConfig, why: str) -> NotFoundError:
    what = f"the tokenizer of {spec.name} is not on this machine"
    if config.folder is not None:
        return NotFoundError(what, where=str(config.folder), why=why, fix="copy its files to this folder")
    wanted = config.model_cfg["text_cfg"].get("hf_tokenizer_name")
    return NotFoundError(what, where=wanted, why=why, fix="add --download once, so that it is cached")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
