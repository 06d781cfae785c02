"""Captions as BEiT-3's token ids.

The ids are SentencePiece's, moved to where fairseq's dictionary has them: `<s>` 0, padding 1, `</s>` 2, unknown 3, and
every ordinary piece one higher. Special tokens spelled out in a caption are text like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from torch import Tensor

from mwactl.backbone.captions import caption_rows
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.files import sha256_bytes

BEGIN, PADDING, END, UNKNOWN = 0, 1, 2, 3
_PIECE_OFFSET = 1
_UNKNOWN_PIECE = 0
#: Of unknown, begin, end and padding (there is none); the mapping holds for these alone.
_SPECIAL_PIECES = (_UNKNOWN_PIECE, 1, 2, -1)


class Beit3Tokenizer:
    """SentencePiece with the exact id mapping.

    Args:
        file: The SentencePiece model.

    Raises:
        VerificationError: The file is not a SentencePiece model, or has other special pieces.
    """

    def __init__(self, file: Path) -> None:
        model = file.read_bytes()
        self.model = model
        self.sha256 = sha256_bytes(model)
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise VerificationError(
                "not a SentencePiece model",
                where=str(file),
                why="it cannot be parsed",
                fix="delete it and fetch it again",
            ) from error
        special = tuple(getattr(self._pieces, f"{name}_id")() for name in ("unk", "bos", "eos", "pad"))
        if special != _SPECIAL_PIECES:
            raise VerificationError(
                "not BEiT-3's SentencePiece model",
                where=str(file),
                why=f"unknown, begin, end and padding are its pieces {special}, not {_SPECIAL_PIECES}",
                fix="delete it and fetch it again",
            )

    @property
    def ids(self) -> int:
        """How many different ids there are: pieces, and what lies before them."""
        return int(self._pieces.get_piece_size()) + _PIECE_OFFSET

    def encode(self, caption: str) -> list[int]:
        """The ids of a caption, without `<s>` and `</s>`."""
        pieces: list[int] = self._pieces.encode(caption)
        return [UNKNOWN if piece == _UNKNOWN_PIECE else piece + _PIECE_OFFSET for piece in pieces]

    def __call__(self, captions: Sequence[str], length: int) -> Tensor:
        """Captions -> [b, length] ids, each between `<s>` and `</s>`, cut to the length, padded on the right."""
        return caption_rows(map(self.encode, captions), length, begin=BEGIN, end=END, padding=PADDING)

    def portable(self, length: int) -> dict[str, Any]:
        """The same as data, for programs without torch; `self.model` is its file."""
        return {
            "library": "sentencepiece",
            "file": "sentencepiece.model",
            "clean": [],
            "begin": BEGIN,
            "end": END,
            "padding": PADDING,
            "length": length,
            "trim": True,
            "unknown": [_UNKNOWN_PIECE, UNKNOWN],
            "offset": _PIECE_OFFSET,
        }


def read_tokenizer(file: Path, name: str, rows: int) -> Beit3Tokenizer:
    """The tokenizer of a model whose text embedding has so many rows.

    Raises:
        VerificationError: As `Beit3Tokenizer`.
        IncompatibleError: It has ids for which there is no row.
    """
    tokenizer = Beit3Tokenizer(file)
    if tokenizer.ids > rows:
        raise IncompatibleError(
            f"this tokenizer is not that of {name}",
            where=str(file),
            why=f"it has {tokenizer.ids} ids, the model's text embedding {rows} rows",
            fix=f"put the model's own {file.name} there",
        )
    return tokenizer
