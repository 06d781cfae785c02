"""embed, index and search through the command line, with a tiny CLIP that was really trained a little."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from mwactl.search.manifest import Manifest, Model

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@dataclass(frozen=True)
class Made:
    """What is made once for all tests: a registry with a trained adapter, and the embeddings of all pictures by it."""

    registry: Path
    adapter: str
    embeddings: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path, tiny_pictures: Path) -> Made:
    from mwactl.config import load_recipe
    from mwactl.data import Catalogue
    from mwactl.progress import Silent
    from mwactl.registry import Registry
    from mwactl.search import EmbedOptions
    from mwactl.workflow.search import ModelChoice, embed_sources
    from mwactl.workflow.train import train_recipe

    home = tmp_path_factory.mktemp("made")
    recipe = home / "tiny.yaml"
    recipe.write_text(
        f"name: tiny-mwa\nbackbone:\n  name: 'clip:local-dir:{tiny_clip}'\ndata:\n  name: tiny\n  workers: 0\n"
        "method:\n  mwa:\n    knowledge_extractor: 4\n    alignment_enhancer: 8\n"
        "train:\n  epochs: 1\n  batch_size: 8\n  lr: 0.01\n  device: cpu\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MWACTL_HOME", str(home))
        Catalogue.default().add(
            "tiny", format="karpathy", annotations=tiny_pictures / "dataset.json", images=tiny_pictures / "images"
        )
        adapter = train_recipe(Registry.default(), load_recipe(str(recipe), [])).entry.reference
        choice, folder = ModelChoice(adapter), home / "emb"
        embed_sources(choice, [tiny_pictures / "images"], folder, EmbedOptions(), Silent())
    return Made(home / "registry", adapter, folder)


@pytest.fixture
def adapter(made: Made, empty_home: Path) -> str:
    """A trained adapter in this test's registry; gives its reference."""
    shutil.copytree(made.registry, empty_home / "registry")
    return made.adapter


@pytest.fixture
def pictures(tiny_pictures: Path) -> Path:
    return tiny_pictures / "images"


@pytest.fixture
def embeddings(made: Made, adapter: str, tmp_path: Path) -> Path:
    """This test's own copy of the embeddings."""
    return shutil.copytree(made.embeddings, tmp_path / "emb")


def test_embed_says_what_it_did_and_what_comes_next(mwactl_cli, adapter, pictures, tmp_path: Path):
    folder = tmp_path / "emb"
    result = mwactl_cli("embed", adapter, pictures, "-o", folder)
    assert result.code == 0
    assert result.stdout == f"embedded 40 pictures\n{folder}: 40 rows × 16 float16, by {adapter}\n"
    assert result.stderr == f'next: mwactl search {folder} "two dogs on a beach"\n'
    again = mwactl_cli("embed", adapter, pictures, "-o", folder)
    assert again.stdout.startswith("embedded 0 pictures, 40 were there already\n")
    assert "40 are embedded already; 0 to do" in again.stderr
    assert mwactl_cli("embed", adapter, pictures, "-o", folder, "-q").stdout == f"{folder}\n"
    document = mwactl_cli("embed", adapter, pictures, "-o", folder, "--json").json
    assert set(document) == {
        "schema", "folder", "model", "what", "width", "dtype", "rows", "embedded", "changed", "unchanged", "failed",
    }  # fmt: skip
    assert document["model"]["reference"] == adapter


def test_damaged_pictures_are_a_warning_and_only_damaged_ones_a_failure(mwactl_cli, adapter, pictures, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.jpg").write_bytes(b"x")
    result = mwactl_cli("embed", adapter, bad, "-o", tmp_path / "only-bad")
    assert (result.code, result.stdout) == (1, "")
    assert "none of the 1 pictures could be read" in result.stderr
    result = mwactl_cli("embed", adapter, pictures, bad, "-o", tmp_path / "both")
    assert result.code == 0
    assert f"warning: {bad / 'a.jpg'}: not a picture of a known format" in result.stderr
    assert "1 pictures could not be read and were passed over" in result.stderr


def test_searching_with_a_picture_finds_that_picture(mwactl_cli, embeddings, pictures):
    for name in ("train-00.png", "test-05.png"):
        document = mwactl_cli("search", embeddings, "--image", pictures / name, "-k", "3", "--json").json
        assert document["schema"] == 1
        assert document["query"] == {"image": str(pictures / name)}
        first, *others = document["results"]
        assert (first["rank"], first["id"], first["path"]) == (1, name, str(pictures / name))
        assert first["score"] == pytest.approx(1, abs=2e-3)  # float16
        assert len(others) == 2


def test_searching_with_words_gives_the_order_that_the_model_gives(mwactl_cli, embeddings, adapter, pictures):
    from mwactl.registry import Registry
    from mwactl.workflow.encoder import open_encoder

    words = "a square of colour 96"
    found = mwactl_cli("search", embeddings, words, "-k", "40", "--json").json
    model = open_encoder(adapter, registry=Registry.default())
    names = sorted(path.name for path in pictures.iterdir())
    scores = model.encode_images([pictures / name for name in names]) @ model.encode_texts([words])[0]
    expected = dict(zip(names, scores.tolist(), strict=True))
    assert {row["id"] for row in found["results"]} == set(names)
    for row in found["results"]:
        assert row["score"] == pytest.approx(expected[row["id"]], abs=2e-3)
    assert [row["score"] for row in found["results"]] == sorted(
        (row["score"] for row in found["results"]), reverse=True
    )


def test_a_table_for_people_and_ids_for_shells(mwactl_cli, embeddings):
    result = mwactl_cli("search", embeddings, "a square", "-k", "4")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    quiet = mwactl_cli("search", embeddings, "a square", "-k", "4", "-q")
    assert (quiet.stdout.split(), quiet.stderr) == ([row[2] for row in rows], "")


def test_a_file_of_queries_gives_a_line_of_json_each(mwactl_cli, embeddings, tmp_path: Path):
    file = tmp_path / "queries.txt"
    file.write_text("a red square\n\na blüe square\n", "utf-8")
    result = mwactl_cli("search", embeddings, "--queries", file, "-k", "2")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["schema"], line["query"]["text"]) for line in lines] == [(1, "a red square"), (1, "a blüe square")]
    assert all(len(line["results"]) == 2 for line in lines)
    whole = mwactl_cli("search", embeddings, "--queries", file, "-k", "2", "--json").json
    assert [{"schema": 1, **one} for one in whole["queries"]] == lines


def test_index_and_approximate_search(mwactl_cli, embeddings):
    result = mwactl_cli("index", embeddings)
    assert result.stdout == "40 rows, every file as it was written; exact search needs no index\n"
    exact = mwactl_cli("search", embeddings, "a square", "--json").json
    result = mwactl_cli("index", embeddings, "--approximate", "--json")
    assert (result.json["index"], result.json["built"], result.json["generation"]) == ("approximate", True, 1)
    assert mwactl_cli("index", embeddings, "--approximate").stdout.endswith("up to date\n")
    approximate = mwactl_cli("search", embeddings, "a square", "-k", "3", "--json").json
    assert approximate["results"] == exact["results"][:3]
    assert (exact["method"], approximate["method"]) == ("exact", "approximate")
    assert mwactl_cli("search", embeddings, "a square", "--exact", "--json").json["method"] == "exact"
    assert mwactl_cli("index", embeddings, "--exact", "-q").stdout == "exact\n"


def test_deleting_and_compacting(mwactl_cli, embeddings):
    result = mwactl_cli("index", embeddings, "--delete", "test-00.png", "--delete", "test-01.png")
    assert result.stdout.splitlines()[0] == "deleted 2"
    assert "test-00.png" not in mwactl_cli("search", embeddings, "a square", "-k", "100", "-q").stdout
    assert mwactl_cli("index", embeddings, "--compact", "--json").json["compacted"] == 2
    result = mwactl_cli("index", embeddings, "--delete", "test-00.png")
    assert (result.code, result.stdout) == (3, "")


def test_repair_names_what_it_took_out_and_the_way_on(mwactl_cli, embeddings, adapter, pictures):
    path = embeddings / "part-00000.vectors.npy"
    path.write_bytes(path.read_bytes()[:100])
    broken = mwactl_cli("search", embeddings, "a square")
    assert (broken.code, broken.stdout) == (5, "")
    assert str(path) in broken.stderr
    assert f"fix: mwactl index {embeddings} --repair" in broken.stderr
    result = mwactl_cli("index", embeddings, "--repair")
    assert result.stdout.startswith("took out part-00000, which was damaged\n")
    assert f"next: mwactl embed MODEL SOURCE -o {embeddings}" in result.stderr
    assert mwactl_cli("embed", adapter, pictures, "-o", embeddings, "--json").json["embedded"] == 40


def test_filters_and_captions_from_a_table(mwactl_cli, adapter, pictures, tmp_path: Path):
    table = tmp_path / "table.csv"
    lines = [
        f"{path},{number},{'by' if number % 2 == 0 else 'cc0'}"
        for number, path in enumerate(sorted(pictures.iterdir()))
    ]
    table.write_text("image,number,licence\n" + "\n".join(lines) + "\n", "utf-8")
    folder = tmp_path / "emb"
    assert mwactl_cli("embed", adapter, table, "-o", folder).code == 0
    found = mwactl_cli("search", folder, "a square", "--where", "licence=cc0", "--where", "number<9", "--json").json
    assert sorted(int(row["fields"]["number"]) for row in found["results"]) == [1, 3, 5, 7]
    nothing = mwactl_cli("search", folder, "a square", "--where", "number>99")
    assert (nothing.code, nothing.stdout) == (0, "")
    assert "no row fulfils the conditions" in nothing.stderr
    for condition, words in (("year=1", "no row has a field 'year'"), ("number>x", "is no number"), ("?", "condition")):
        wrong = mwactl_cli("search", folder, "a square", "--where", condition)
        assert (wrong.code, wrong.stdout) == (2, "")
        assert words in wrong.stderr


def test_captions_can_be_searched_with_a_picture(mwactl_cli, adapter, pictures, tmp_path: Path):
    file = tmp_path / "captions.txt"
    file.write_text("a square of colour 6\nsomething else\n", "utf-8")
    folder = tmp_path / "texts"
    assert mwactl_cli("embed", adapter, file, "--texts", "-o", folder).stdout.startswith("embedded 2 captions\n")
    found = mwactl_cli("search", folder, "--image", pictures / "train-01.png", "--json").json
    assert {row["text"] for row in found["results"]} == {"a square of colour 6", "something else"}
    sheet = mwactl_cli("search", folder, "a square", "--sheet", tmp_path / "sheet.png")
    assert sheet.code == 2
    assert "captions have no contact sheet" in sheet.stderr


def test_sheet_and_page_show_the_pictures(mwactl_cli, embeddings, pictures, tmp_path: Path):
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    result = mwactl_cli("search", embeddings, "a <b>square</b>", "-k", "5", "--sheet", sheet, "--html", page)
    assert result.code == 0
    assert f"wrote {sheet}" in result.stderr
    with Image.open(sheet) as picture:
        assert picture.width == 2 * 20 + 5 * 160
    text = page.read_text("utf-8")
    assert text.count("data:image/jpeg;base64,") == 5
    assert "<b>square</b>" not in text
    assert "a &lt;b&gt;square&lt;/b&gt;" in text


def test_another_model_is_refused_with_both_named(mwactl_cli, embeddings, adapter, tiny_recipe, pictures):
    other = mwactl_cli("train", tiny_recipe, "train.epochs=1", "train.seed=5", "-q").stdout.strip()
    assert other != adapter
    for command in (["search", embeddings, "a square", "--model", other], ["embed", other, pictures, "-o", embeddings]):
        result = mwactl_cli(*command)
        assert (result.code, result.stdout) == (4, "")
        assert adapter in result.stderr
        assert other in result.stderr
        assert ("--model" in result.stderr) == (command[0] == "search")  # embed has no such option
    # Its newest version is another now, and yet the embeddings find the one that made them.
    assert mwactl_cli("search", embeddings, "a square", "-q").code == 0


def test_a_machine_without_the_model_is_told_of_bundles(mwactl_cli, embeddings, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MWACTL_REGISTRY", str(tmp_path / "empty"))
    result = mwactl_cli("search", embeddings, "a square")
    assert (result.code, result.stdout) == (3, "")
    assert "is not here" in result.stderr
    assert "--model BUNDLE" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["words", "--image", "x.png"], 2),
        ([" "], 2),
        (["--image", "absent.png"], 3),
        (["--queries", "absent.txt"], 3),
        (["w", "-k", "0"], 2),
    ],
)
def test_a_query_that_is_none_is_refused(mwactl_cli, embeddings, arguments, code):
    result = mwactl_cli("search", embeddings, *arguments)
    assert (result.code, result.stdout) == (code, "")


def test_a_file_of_queries_that_is_not_there_is_told_as_such(mwactl_cli, embeddings):
    result = mwactl_cli("search", embeddings, "--queries", "absent.txt")
    assert "absent.txt" in result.stderr
    assert "--queries" in result.stderr
    assert "annotation" not in result.stderr


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [("--sheet", "x.jpg", "is a PNG"), ("--html", "x.csv", "ends in .html"), ("--html", "photos", "ends in .html"),
     ("--sheet", "file/x.png", "cannot be written to"), ("--html", "folder.html", "cannot be written to")],
)  # fmt: skip
def test_a_place_that_is_none_for_a_sheet_or_a_page_is_refused(mwactl_cli, embeddings, tmp_path, option, name, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    result = mwactl_cli("search", embeddings, "a square", option, tmp_path / name)
    assert (result.code, result.stdout) == (2, "")
    assert words in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["emb", "file", "folder.html", "mwactl-home"]


def test_the_sheet_of_captions_is_refused_before_the_model_is_opened(mwactl_cli, tmp_path: Path):
    folder = tmp_path / "texts"
    folder.mkdir()
    Manifest(Model("no-such-model@1", "1", "2"), 16, "float16", "texts").write(folder)
    result = mwactl_cli("search", folder, "a square", "--sheet", tmp_path / "sheet.png")
    assert result.code == 2
    assert "captions have no contact sheet" in result.stderr


def test_an_approximate_index_survives_every_option_but_exact(mwactl_cli, embeddings):
    assert mwactl_cli("index", embeddings, "--approximate", "-q").stdout == "approximate\n"
    for options in ([], ["--delete", "test-00.png"], ["--compact"], ["--repair"], ["--above", "5"]):
        assert mwactl_cli("index", embeddings, *options, "-q").stdout == "approximate\n", options
    [graph] = embeddings.glob("index.usearch.*")
    graph.write_bytes(b"x")
    repaired = mwactl_cli("index", embeddings, "--repair", "--json").json
    assert (repaired["repaired"], repaired["index"]) == ([graph.name], "approximate")
    found = mwactl_cli("search", embeddings, "a square", "-k", "3", "--json").json
    assert found["method"] == "approximate"
    assert mwactl_cli("index", embeddings, "--exact", "-q").stdout == "exact\n"


def test_the_help_names_the_number_from_which_an_index_is_made(mwactl_cli):
    from mwactl.search.maintain import ABOVE

    assert f"{ABOVE:,}" in mwactl_cli("index", "--help").stdout


def test_commands_that_are_proposed_can_be_typed_as_they_are(mwactl_cli, adapter, pictures, tmp_path: Path):
    folder = tmp_path / "my photos"
    quoted = f"'{folder}'"
    assert f"mwactl embed MODEL PICTURES -o {quoted}" in mwactl_cli("search", folder, "words").stderr
    assert f"next: mwactl search {quoted}" in mwactl_cli("embed", adapter, pictures, "-o", folder).stderr
    assert f"next: mwactl search {quoted}" in mwactl_cli("index", folder).stderr
    (folder / "part-00000.vectors.npy").write_bytes(b"")
    assert f"fix: mwactl index {quoted} --repair" in mwactl_cli("search", folder, "words").stderr
    assert f"next: mwactl embed MODEL SOURCE -o {quoted}" in mwactl_cli("index", folder, "--repair").stderr


def test_a_folder_without_embeddings_says_how_to_make_them(mwactl_cli, tmp_path: Path):
    for command in (["search", tmp_path, "words"], ["index", tmp_path]):
        result = mwactl_cli(*command)
        assert (result.code, result.stdout) == (3, "")
        assert f"mwactl embed MODEL PICTURES -o {tmp_path}" in result.stderr
    assert mwactl_cli("embed", "absent", tmp_path, "-o", tmp_path / "e").code == 3
    assert mwactl_cli("embed", "absent", tmp_path, "-o", tmp_path / "e", "--dtype", "int8").code == 2
    assert mwactl_cli("index", tmp_path, "--exact", "--approximate").code == 2
