"""Captions as BERT's WordPiece ids: lower-case, without accents, between [CLS] and [SEP].

Special tokens spelled out in a caption are text like any other, so padding can never occur inside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from mwactl.errors import IncompatibleError

PADDING = 0
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class VlmoTokenizer:
    """WordPiece.

    Args:
        file: The vocabulary, one word a line.

    Raises:
        IncompatibleError: A special token is not in the vocabulary, or [PAD] is not its first word.
    """

    def __init__(self, file: Path) -> None:
        # Not `splitlines`: a word may be a character that it takes for the end of a line, and ids are line numbers.
        words = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self.ids = len(words)
        vocabulary = {word: index for index, word in enumerate(words)}
        lacking = [token for token in _SPECIAL if token not in vocabulary]
        if lacking or vocabulary["[PAD]"] != PADDING:
            raise IncompatibleError(
                "not a BERT vocabulary",
                where=str(file),
                why=f"it lacks {', '.join(lacking)}" if lacking else "[PAD] is not on its first line",
            )
        self._begin, self._end = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._pieces = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
        self._pieces.normalizer = BertNormalizer(lowercase=True)
        self._pieces.pre_tokenizer = BertPreTokenizer()

    def encode(self, caption: str) -> list[int]:
        """The ids of a caption, without [CLS] and [SEP]."""
        ids: list[int] = self._pieces.encode(caption).ids
        return ids

    def __call__(self, captions: Sequence[str], length: int) -> Tensor:
        """Captions -> [b, length] ids, each between [CLS] and [SEP], cut to the length, padded on the right."""
        tokens = torch.full((len(captions), length), PADDING)
        for row, caption in zip(tokens, captions, strict=True):
            ids = torch.tensor([self._begin, *self.encode(caption)[: length - 2], self._end])
            row[: len(ids)] = ids
        return tokens
