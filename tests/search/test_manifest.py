from __future__ import annotations

import json
from pathlib import Path

import pytest

from mwactl.errors import IncompatibleError, NotFoundError, VerificationError
from mwactl.search.manifest import FILE_NAME, read_manifest


@pytest.fixture
def document(colours: Path) -> dict:
    return json.loads((colours / FILE_NAME).read_text("utf-8"))


def test_what_is_written_is_read_again(colours: Path, tmp_path: Path):
    manifest = read_manifest(colours)
    (tmp_path / "other").mkdir()
    manifest.write(tmp_path / "other")
    assert read_manifest(tmp_path / "other") == manifest
    assert (tmp_path / "other" / FILE_NAME).read_bytes() == (colours / FILE_NAME).read_bytes()


def test_a_folder_without_one_says_how_to_make_it(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotFoundError, match="mwactl embed"):
            read_manifest(folder)


@pytest.mark.parametrize(("key", "value"), [("kind", "mwactl-bundle"), ("schema", 2)])
def test_what_is_something_else_is_incompatible(colours: Path, document, key, value):
    (colours / FILE_NAME).write_text(json.dumps(document | {key: value}))
    with pytest.raises(IncompatibleError, match=str(value)):
        read_manifest(colours)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "mwactl-embeddings", "schema": 1}', "[" * 100_000])
def test_nonsense_is_told_with_the_file(colours: Path, text: str):
    (colours / FILE_NAME).write_text(text)
    with pytest.raises(VerificationError, match="manifest of the embeddings is damaged") as error:
        read_manifest(colours)
    assert error.value.where == str(colours / FILE_NAME)


@pytest.mark.parametrize("name", ["../../etc", "part-1", "part-00000/../x", "index.usearch.1"])
def test_a_part_whose_name_leads_elsewhere_is_refused(colours: Path, document, name):
    document["parts"][0]["name"] = name
    (colours / FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(VerificationError, match="names that no part"):
        read_manifest(colours)


@pytest.mark.parametrize("change", [{"dtype": "float64"}, {"what": "sounds"}, {"parts": 3}, {"model": {}}])
def test_values_that_cannot_be_are_refused(colours: Path, document, change):
    (colours / FILE_NAME).write_text(json.dumps(document | change))
    with pytest.raises(VerificationError):
        read_manifest(colours)
