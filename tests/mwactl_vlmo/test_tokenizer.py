"""Captions as BERT's ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mwactl.errors import ExitCode, IncompatibleError
from mwactl_vlmo.names import VOCABULARY
from mwactl_vlmo.tokenizer import VlmoTokenizer

Ids = Callable[[list[str]], list[list[int]]]
HARD = [
    "", " ", "A man riding a horse.", "two dogs play in the snow !", "Café naïve ÅNGSTRÖM", "日本語 の 犬",
    "don't stop", "e-mail: a@b.c #1 $5.00 50%", "\tnew\nlines\r and\u00a0blanks\u2028here",
    "soft\u00adhyphen \u200bzero width", "\x00nul \ufffd", "🐶 dog 🐕‍🦺", "antidisestablishmentarianism",
    "a" * 101, "ﬁne ½ ² Ⅷ", "¡Hola! ¿qué?", "İstanbul ǅ ß", "한국어 텍스트", "עִבְרִית العَرَبِيَّة", "a " * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> VlmoTokenizer:
    return VlmoTokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def reference() -> Ids:
    """BERT's tokenizer as transformers has it."""
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertTokenizerFast(vocab=str(VOCABULARY), do_lower_case=True)
    if len(bert) != 30522:  # older releases call the argument otherwise
        bert = transformers.BertTokenizerFast(vocab_file=str(VOCABULARY), do_lower_case=True)
    assert len(bert) == 30522

    def ids(captions: list[str]) -> list[list[int]]:
        padded = bert(captions, padding="max_length", truncation=True, max_length=40)["input_ids"]
        return [list(row) for row in padded]

    return ids


def test_known_captions_have_known_ids(tokenizer: VlmoTokenizer) -> None:
    tokens = tokenizer(["Two dogs play in the Snow!", ""], 10)
    assert tokens.tolist() == [
        [101, 2048, 6077, 2377, 1999, 1996, 4586, 999, 102, 0],
        [101, 102, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert tokens.dtype == torch.int64
    assert tokenizer.ids == 30522


def test_a_long_caption_keeps_its_beginning_and_its_end_token(tokenizer: VlmoTokenizer) -> None:
    (row,) = tokenizer(["dog " * 100], 40)
    assert row.tolist() == [101, *[3899] * 38, 102]


def test_special_tokens_in_a_caption_are_text(tokenizer: VlmoTokenizer) -> None:
    ids = tokenizer.encode("a [PAD] b [SEP] [CLS] [UNK] [MASK]")
    assert not {0, 100, 101, 102, 103} & set(ids)
    assert ids[1:4] == tokenizer.encode("[ pad ]")


@pytest.mark.parametrize("caption", HARD)
def test_ids_are_those_of_bert(tokenizer: VlmoTokenizer, reference: Ids, caption: str) -> None:
    assert tokenizer([caption], 40).tolist() == reference([caption])


@pytest.mark.shared
def test_ids_of_a_thousand_real_captions_are_those_of_bert(
    shared: Path, tokenizer: VlmoTokenizer, reference: Ids
) -> None:
    images = json.loads((shared / "data" / "flickr8k" / "dataset_flickr8k.json").read_text())["images"][:1000]
    captions = [image["sentences"][index % 5]["raw"] for index, image in enumerate(images)]
    assert len(set(captions)) > 990
    assert tokenizer(captions, 40).tolist() == reference(captions)


def test_ids_are_line_numbers_whatever_a_word_is(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n\u2028\n\x85\ndog\n", encoding="utf-8")
    assert VlmoTokenizer(file)(["dog"], 4).tolist() == [[2, 6, 3, 0]]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("a\ndog\n", "it lacks [PAD], [UNK], [CLS], [SEP]"),
        ("[PAD]\n[UNK]\n[CLS]\na\n", "it lacks [SEP]"),
        ("a\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n", "[PAD] is not on its first line"),
    ],
)
def test_a_file_that_is_no_bert_vocabulary_is_refused(tmp_path: Path, words: str, why: str) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text(words)
    with pytest.raises(IncompatibleError, match="not a BERT vocabulary") as raised:
        VlmoTokenizer(file)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert (raised.value.where, raised.value.why) == (str(file), why)
    assert "put the model's own vocabulary there" in (raised.value.fix or "")


def test_a_vocabulary_that_is_no_text_is_refused_where_the_model_is_looked_at(
    mwactl_cli, tmp_path: Path, write_vlmo: Callable[..., Path]
) -> None:
    folder = write_vlmo(tmp_path / "model", None)
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    result = mwactl_cli("backbones", "show", f"vlmo:local-dir:{folder}")
    assert (result.code, result.stdout) == (4, "")
    assert "not a BERT vocabulary" in result.stderr
    assert "no text in UTF-8" in result.stderr
