"""Captions as ids: the reference's, for the official pieces and for any others."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from mwactl.errors import ExitCode, VerificationError
from mwactl_beit3.tokenizer import BEGIN, END, PADDING, UNKNOWN, Beit3Tokenizer

# -- with the official pieces ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official_file(shared: Path) -> Path:
    return shared / "data" / "tokenizers" / "beit3.spm"


@pytest.fixture(scope="module")
def official(official_file: Path) -> Beit3Tokenizer:
    return Beit3Tokenizer(official_file)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("caption", "ids"),
    [
        ("A man riding a horse.", [94, 244, 3619, 10, 2771, 5]),
        ("a man riding a horse", [10, 244, 3619, 10, 2771]),
        ("  a   man riding\ta horse ", [10, 244, 3619, 10, 2771]),
        ("Two dogs play in the snow !", [1273, 2186, 293, 12, 4, 1905, 118]),
        ("日本語", [190, 63005, 63184, 63530]),
        ("", []),
    ],
)
def test_known_captions_have_the_reference_ids(official: Beit3Tokenizer, caption: str, ids: list[int]) -> None:
    assert official.encode(caption) == ids
    assert official([caption], 64)[0].tolist() == [0, *ids, 2] + [1] * (62 - len(ids))


@pytest.mark.shared
def test_the_official_pieces_leave_room_below_the_embeddings_rows(official: Beit3Tokenizer) -> None:
    assert official.ids == 64_001
    assert UNKNOWN in official.encode("a \U0010fffd dog")


@pytest.mark.shared
def test_real_captions_have_the_ids_of_transformers(
    shared: Path, official: Beit3Tokenizer, official_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`XLMRobertaTokenizer` converts a SentencePiece model of this name that lies in a folder."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copy(official_file, tmp_path / "sentencepiece.bpe.model")
    reference = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    assert reference.vocab_size == 64_002
    images = json.loads((shared / "data" / "flickr8k" / "dataset_flickr8k.json").read_text())["images"]
    captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
    chosen = [
        *random.Random(0).sample(captions, 1000),
        "",
        "Été à la plage",
        "½ of a café — “quoted”",
        "日本語の犬",
        "x" * 300,
    ]
    options = {"padding": "max_length", "truncation": True, "max_length": 64, "return_tensors": "pt"}
    assert torch.equal(official(chosen, 64), reference(chosen, **options)["input_ids"])


# -- with pieces of our own --------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tiny_spm: bytes, tmp_path: Path) -> Beit3Tokenizer:
    file = tmp_path / "pieces.spm"
    file.write_bytes(tiny_spm)
    return Beit3Tokenizer(file)


def test_every_piece_moves_up_by_one_and_unknown_is_three(tokenizer: Beit3Tokenizer, tiny_spm: bytes) -> None:
    pieces = SentencePieceProcessor(model_proto=tiny_spm)
    count = pieces.get_piece_size()
    assert [pieces.id_to_piece(index) for index in range(3)] == ["<unk>", "<s>", "</s>"]
    assert tokenizer.ids == count + 1
    ordinary = {pieces.id_to_piece(index): index for index in range(3, count)}
    for word in ("dog", "snow", "the"):
        assert tokenizer.encode(word) == [ordinary[f"▁{word}"] + 1]
    assert tokenizer.encode("dog 犬") == [ordinary["▁dog"] + 1, ordinary["▁"] + 1, UNKNOWN]


def test_a_caption_stands_between_begin_and_end_and_is_padded_on_the_right(tokenizer: Beit3Tokenizer) -> None:
    ids = tokenizer.encode("a dog runs")
    assert len(ids) == 3
    row = tokenizer(["a dog runs"], 8)
    assert row.dtype == torch.int64
    assert row.tolist() == [[BEGIN, *ids, END, PADDING, PADDING, PADDING]]
    assert (BEGIN, PADDING, END, UNKNOWN) == (0, 1, 2, 3)


@pytest.mark.parametrize("words", [1, 5, 6, 7, 8, 100])
def test_a_long_caption_is_cut_before_its_end_token(tokenizer: Beit3Tokenizer, words: int) -> None:
    ids = tokenizer.encode("dog " * words)
    assert len(ids) == words
    kept = min(words, 6)
    assert tokenizer(["dog " * words], 8).tolist() == [[BEGIN, *ids[:kept], END] + [PADDING] * (6 - kept)]


@pytest.mark.parametrize("caption", ["", "   ", "\n\t"])
def test_an_empty_caption_is_begin_and_end(tokenizer: Beit3Tokenizer, caption: str) -> None:
    assert tokenizer.encode(caption) == []
    assert tokenizer([caption], 5).tolist() == [[BEGIN, END, PADDING, PADDING, PADDING]]


def test_a_batch_is_its_captions_one_by_one(tokenizer: Beit3Tokenizer, captions: list[str]) -> None:
    together = tokenizer(captions, 64)
    assert together.shape == (len(captions), 64)
    assert torch.equal(together, torch.cat([tokenizer([caption], 64) for caption in captions]))
    assert tokenizer([], 64).shape == (0, 64)


@pytest.mark.parametrize("special", ["<s>", "</s>", "<pad>", "<mask>", "<unk>"])
def test_special_tokens_spelled_out_in_a_caption_are_text(tokenizer: Beit3Tokenizer, special: str) -> None:
    ids = tokenizer.encode(f"a {special} dog")
    assert not {BEGIN, PADDING, END} & set(ids)
    assert ids[0] == tokenizer.encode("a")[0]
    assert ids[-1] == tokenizer.encode("dog")[0]
    assert len(ids) > 3  # its characters, not one token
    assert len(set(ids)) > 3


@pytest.mark.shared
@pytest.mark.parametrize("special", ["<s>", "</s>", "<pad>", "<mask>", "<unk>"])
def test_special_tokens_in_a_caption_are_text_for_the_official_pieces_too(
    official: Beit3Tokenizer, special: str
) -> None:
    ids = official.encode(f"a {special} dog")
    assert not {BEGIN, PADDING, END, 64_001} & set(ids)
    assert len(ids) >= 5


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_file_that_is_no_sentencepiece_model_is_refused(tiny_spm: bytes, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "beit3.spm"
    content = {"empty": b"", "text": b"no pieces in here", "truncated": tiny_spm[: len(tiny_spm) // 2]}
    file.write_bytes(content[damage])
    with pytest.raises(VerificationError, match="not a SentencePiece model") as raised:
        Beit3Tokenizer(file)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(file)
    assert raised.value.fix is not None


def test_pieces_in_another_order_are_refused_rather_than_mapped_wrongly(tmp_path: Path) -> None:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a dog runs"] * 20), model_writer=model, vocab_size=20, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, minloglevel=2, num_threads=1,
    )  # fmt: skip
    file = tmp_path / "beit3.spm"
    file.write_bytes(model.getvalue())
    with pytest.raises(VerificationError, match="not BEiT-3's SentencePiece model") as raised:
        Beit3Tokenizer(file)
    assert "(3, 1, 2, 0)" in (raised.value.why or "")
