"""Captions as BERT's WordPiece ids: lower-case, without accents, between [CLS] and [SEP].

Special tokens spelled out in a caption are text like any other, so padding can never occur inside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from mwactl.backbone.captions import caption_rows
from mwactl.errors import IncompatibleError

PADDING = 0
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class VlmoTokenizer:
    """WordPiece.

    Args:
        file: The vocabulary, one word a line.

    Raises:
        IncompatibleError: It is no text, a special token is not in the vocabulary, or [PAD] is not its first word.
    """

    def __init__(self, file: Path) -> None:
        # Not `splitlines`: a word may be a character that it takes for the end of a line, and ids are line numbers.
        try:
            words = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise _no_vocabulary(file, "it is no text in UTF-8") from error
        self.ids = len(words)
        vocabulary = {word: index for index, word in enumerate(words)}
        lacking = [token for token in _SPECIAL if token not in vocabulary]
        if lacking or vocabulary["[PAD]"] != PADDING:
            raise _no_vocabulary(
                file, f"it lacks {', '.join(lacking)}" if lacking else "[PAD] is not on its first line"
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
        return caption_rows(map(self.encode, captions), length, begin=self._begin, end=self._end, padding=PADDING)

    def portable(self, length: int) -> tuple[dict[str, Any], bytes]:
        """The same as data, and its file, for programs without torch."""
        text = {
            "library": "tokenizers",
            "file": "tokenizer.json",
            "clean": [],
            "begin": self._begin,
            "end": self._end,
            "padding": PADDING,
            "length": length,
            "trim": True,
            "replace": [],
        }
        return text, self._pieces.to_str().encode("utf-8")


def _no_vocabulary(file: Path, why: str) -> IncompatibleError:
    fix = "put the model's own vocabulary there, one word a line in UTF-8"
    return IncompatibleError("not a BERT vocabulary", where=str(file), why=why, fix=fix)
