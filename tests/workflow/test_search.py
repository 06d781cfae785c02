"""A model by its name: which encoder is opened, and what the collection remembers of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mwactl.errors import DataError, IncompatibleError, NotFoundError, UsageError
from mwactl.progress import Silent
from mwactl.registry import Registry
from mwactl.search import EmbedOptions, compact, delete_ids, open_index
from mwactl.workflow import encoder as encoder_module
from mwactl.workflow.search import ModelChoice, Query, SearchOptions, embed_sources, search_collection


class Grey:
    """An encoder that tells light pictures from dark ones, and the words `light` and `dark`."""

    preprocess_digest, width = "p" * 64, 2

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def encode_images(self, images, batch_size: int = 32):
        angles = np.array([np.asarray(image).mean() / 255 * np.pi / 2 for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def encode_texts(self, captions, batch_size: int = 256):
        return np.array([[0, 1] if "light" in caption else [1, 0] for caption in captions], np.float32)


class Listener(Silent):
    def __init__(self) -> None:
        self.infos: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names with which an encoder was asked for, all of which open one; its identity is the name."""
    names: list[str] = []

    def open_encoder(name: str, **_: object) -> Grey:
        names.append(name)
        return Grey(name)

    monkeypatch.setattr(encoder_module, "open_encoder", open_encoder)
    return names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for value in (10, 120, 250):
        Image.new("RGB", (6, 5), (value, value, value)).save(folder / f"{value}.png")
    return folder


@pytest.fixture
def version() -> str:
    """A version in the registry; what it holds does not matter here."""
    files = {"adapter.safetensors": b"tensors"}
    return Registry.default().publish("grey", kind="adapter", files=files, facts={}, verb="train").reference


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"kind": "mwactl-bundle", "schema": 1}')
    return folder


def embed_with(name: str, pictures: Path, to: Path):
    return embed_sources(ModelChoice(name), [pictures], to, EmbedOptions(), Silent())[1]


def ids(found) -> list[str]:
    return [result.item.id for result in found.results]


def test_a_name_is_remembered_with_its_version(opened, version, pictures, tmp_path: Path):
    assert embed_with("grey", pictures, tmp_path / "emb")["model"]["reference"] == version == "grey@1"
    Registry.default().publish("grey", kind="adapter", files={"a": b"2"}, facts={}, verb="train")
    search_collection(tmp_path / "emb", [Query("light")], ModelChoice(None), SearchOptions(), Silent())
    assert opened == ["grey@1", "grey@1"]


def test_a_bundle_is_remembered_by_its_folder(opened, bundle, pictures, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embed_with("bundle", pictures, tmp_path / "emb")
    assert open_index(tmp_path / "emb").manifest.model.reference == str(bundle)
    monkeypatch.chdir("/")
    search_collection(tmp_path / "emb", [Query("light")], ModelChoice(None), SearchOptions(), Silent())
    assert opened == [str(bundle)] * 2


def test_an_entry_in_a_folder_is_remembered_wherever_it_is_searched_from(opened, pictures, tmp_path: Path, monkeypatch):
    folder = tmp_path / "entry"
    folder.mkdir()
    manifest = {"schema": 1, "kind": "adapter", "parents": [], "files": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    embed_with("./entry", pictures, tmp_path / "emb")
    monkeypatch.chdir("/")
    search_collection(tmp_path / "emb", [Query("light")], ModelChoice(None), SearchOptions(), Silent())
    assert opened == [str(folder)] * 2


def test_the_name_of_a_bundle_and_of_a_version_is_refused(opened, version, bundle, pictures, tmp_path, monkeypatch):
    bundle.rename(tmp_path / "grey")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\./grey for the bundle.* or grey@1$"):
        embed_with("grey", pictures, tmp_path / "emb")
    embed_with("./grey", pictures, tmp_path / "by-bundle")
    embed_with("grey@1", pictures, tmp_path / "by-version")
    assert opened == [str(tmp_path / "grey"), "grey@1"]


def test_what_is_not_utf_8_is_refused_before_a_model_is_opened(opened, pictures, tmp_path: Path):
    wrong = "b\udcff"
    for use in (
        lambda: Query(wrong),
        lambda: Query(image=Path(wrong)),
        lambda: embed_with(wrong, pictures, tmp_path / "emb"),
        lambda: embed_with("grey", pictures, tmp_path / wrong),
        lambda: search_collection(tmp_path / wrong, [Query("x")], ModelChoice(None), SearchOptions(), Silent()),
    ):
        with pytest.raises(UsageError, match=r"not UTF-8.*udcff"):
            use()
    assert opened == []


def test_a_compaction_while_the_model_is_loaded_is_not_noticed(version, pictures, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(encoder_module, "open_encoder", lambda name, **_: Grey(name))
    embed_with(version, pictures, tmp_path / "emb")
    delete_ids(tmp_path / "emb", ["120.png"])

    def slowly(name: str, **_: object) -> Grey:
        compact(tmp_path / "emb")
        return Grey(name)

    monkeypatch.setattr(encoder_module, "open_encoder", slowly)
    [found], document = search_collection(
        tmp_path / "emb", [Query("light")], ModelChoice(None), SearchOptions(), Silent()
    )
    assert (ids(found), document["rows"]) == (["250.png", "10.png"], 2)


def test_the_program_in_the_guide_runs_and_finds(opened, version, pictures, tmp_path: Path, monkeypatch, capsys):
    guide = Path(__file__).parents[2] / "docs" / "search.md"
    [program] = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    table = pictures / "table.csv"
    table.write_text("image,year\n10.png,2019\n120.png,2020\n250.png,2021\n")
    embed_with(version, table, tmp_path / "photographs.emb")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["120.png", "250.png"]


def test_words_and_pictures_find(opened, version, pictures, tmp_path: Path):
    embed_with(version, pictures, tmp_path / "emb")
    queries = [Query("something light"), Query("something dark")]
    found, document = search_collection(tmp_path / "emb", queries, ModelChoice(None), SearchOptions(k=2), Silent())
    assert [ids(one) for one in found] == [["250.png", "120.png"], ["10.png", "120.png"]]
    assert [one["query"] for one in document["queries"]] == [{"text": "something light"}, {"text": "something dark"}]
    [found], _ = search_collection(
        tmp_path / "emb", [Query(image=pictures / "120.png")], ModelChoice(None), SearchOptions(k=1), Silent()
    )
    assert ids(found) == ["120.png"]


def test_another_model_is_refused_with_both_named(opened, version, bundle, pictures, tmp_path: Path):
    embed_with(version, pictures, tmp_path / "emb")
    with pytest.raises(IncompatibleError) as error:
        search_collection(tmp_path / "emb", [Query("x")], ModelChoice(str(bundle)), SearchOptions(), Silent())
    assert version in str(error.value)
    assert str(bundle) in str(error.value)
    assert f"--model {version}" in str(error.value)


def test_a_model_that_is_not_here_is_told_with_the_way_out(opened, version, pictures, tmp_path: Path, monkeypatch):
    embed_with(version, pictures, tmp_path / "emb")
    monkeypatch.setenv("MWACTL_REGISTRY", str(tmp_path / "empty"))
    with pytest.raises(NotFoundError, match=r"grey@1, is not here.*--model BUNDLE"):
        search_collection(tmp_path / "emb", [Query("x")], ModelChoice(None), SearchOptions(), Silent())
    with pytest.raises(NotFoundError) as error:  # the user's own mistake is told as such
        search_collection(tmp_path / "emb", [Query("x")], ModelChoice("gray"), SearchOptions(), Silent())
    assert "BUNDLE" not in str(error.value)


def test_what_is_wrong_with_the_query_is_told_before_a_model_is_loaded(opened, version, pictures, tmp_path: Path):
    embed_with(version, pictures, tmp_path / "emb")
    opened.clear()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for query, options, error in (
        (Query("x"), SearchOptions(where=("no condition",)), UsageError),
        (Query(image=tmp_path / "absent.png"), SearchOptions(), NotFoundError),
        (Query(image=broken), SearchOptions(), DataError),
    ):
        with pytest.raises(error) as told:
            search_collection(tmp_path / "emb", [query], ModelChoice(None), options, Silent())
        assert "on_error" not in str(told.value)
    with pytest.raises(NotFoundError):
        search_collection(tmp_path / "none", [Query("x")], ModelChoice(None), SearchOptions(), Silent())
    assert opened == []


@pytest.mark.parametrize("given", [{}, {"text": " "}, {"text": "x", "image": Path("x.png")}])
def test_a_query_is_words_or_a_picture(given):
    with pytest.raises(UsageError):
        Query(**given)


def test_how_it_was_searched_is_reported(opened, version, pictures, tmp_path: Path):
    from mwactl.search import build_index

    embed_with(version, pictures, tmp_path / "emb")
    build_index(tmp_path / "emb", kind="approximate", threads=1)
    listener = Listener()
    _, document = search_collection(tmp_path / "emb", [Query("dark")], ModelChoice(None), SearchOptions(), listener)
    assert listener.infos == document["notes"] == ["few rows may be found (3), so every one was compared"]
