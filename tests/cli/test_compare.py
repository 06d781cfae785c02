from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mwactl.data import Catalogue, scan
from mwactl.evaluate.queries import QueryRanks
from mwactl.registry import Registry
from mwactl.workflow.stored_ranks import keep_ranks

PAGE = Path(__file__).parents[2] / "docs" / "compare.md"


@pytest.fixture
def version(tiny_data) -> Callable[[str, int], None]:
    """version(name, found): a version whose ranks on the tiny test split are 1 for so many of the 8 pictures."""
    dataset = Catalogue.default().get(tiny_data).load("test")
    digest = dataset.digest([str(each) for each in scan(dataset).digests])
    facts = {"images": 8, "texts": 16, "protocol": "full", "precision": "fp32", "versions": {}}
    facts |= {"data": {"name": "tiny", "split": "test", "digest": digest}}

    def publish(name: str, found: int) -> None:
        registry = Registry.default()
        entry = registry.publish(name, kind="adapter", files={}, facts={"of": name}, parents=[], verb="train")
        at = np.where(np.arange(8) < found, 1, 7)
        keep_ranks(registry, entry, facts, QueryRanks(at, np.repeat(at, 2), np.arange(16), np.repeat(np.arange(8), 2)))

    return publish


@pytest.fixture
def three(version) -> None:
    for name, found in (("a", 2), ("b", 6), ("c", 1)):
        version(name, found)


@pytest.mark.usefixtures("three")
def test_it_prints_a_table_for_each_contestant_and_the_next_command(mwactl_cli):
    result = mwactl_cli("compare", "a", "b", "--data", "tiny", "--stored")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "baseline a@1 on tiny test: 8 pictures × 16 captions, protocol full"
    assert lines[1] == "b@1 against a@1"
    document = mwactl_cli("compare", "a", "b", "--data", "tiny", "--stored", "--json").json
    for line, (name, found) in zip(lines[2:9], document["contestants"][0]["metrics"].items(), strict=True):
        low, high = found["interval"]
        assert line.split("\t") == [
            name, f"{found['baseline']:.1f}", f"{found['contestant']:.1f}", f"{found['difference']:+.1f}",
            f"[{low:+.1f}, {high:+.1f}]", f"{found['p']:.2g}", *([f"{found['smallest_difference']:.1f}"] if
            found["smallest_difference"] else [""]),
        ]  # fmt: skip
    assert lines[9:] == [
        "McNemar i2t.R@1: 4 won, 0 lost, p 0.12",
        "McNemar t2i.R@1: 8 won, 0 lost, p 0.0078",
        "95 % intervals and p of 10,000 resamples of the pictures",
        "can show: the difference that such a set finds in 80 % of cases",
    ]
    assert result.stderr.endswith("next: mwactl registry diff a@1 b@1\n")


@pytest.mark.usefixtures("three")
def test_json_has_the_promised_keys(mwactl_cli):
    document = mwactl_cli("compare", "a", "b", "--data", "tiny", "--json").json
    assert set(document) == {
        "schema", "data", "images", "texts", "protocol", "zero_shot", "bootstrap", "by", "baseline", "contestants",
    }  # fmt: skip
    assert document["bootstrap"] == {"over": "pictures", "level": 0.95, "resamples": 10_000, "seed": 0, "power": 0.8}
    assert set(document["data"]) == {"name", "split", "digest"}
    [b] = document["contestants"]
    assert set(b) == {
        "reference", "kind", "digest", "stored", "precision", "metrics", "mcnemar", "slices", "floors",
    }  # fmt: skip
    assert list(b["metrics"]) == [f"{way}.R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)] + ["rsum"]
    assert set(b["metrics"]["rsum"]) == {
        "baseline", "contestant", "difference", "interval", "p", "p_holm", "smallest_difference",
    }  # fmt: skip


@pytest.mark.usefixtures("three")
def test_several_contestants_have_corrected_p_values(mwactl_cli):
    result = mwactl_cli("compare", "a", "b", "c", "--data", "tiny", "--stored")
    rows = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("i2t.R@1\t")]
    assert [len(row) for row in rows] == [8, 8]
    assert float(rows[0][6]) == pytest.approx(2 * float(rows[0][5]), rel=0.1)


@pytest.mark.usefixtures("three")
def test_quiet_prints_the_change_of_the_rsum_a_line_a_contestant(mwactl_cli):
    result = mwactl_cli("compare", "a", "b", "c", "--data", "tiny", "--stored", "-q")
    assert result.stdout == "+200.0\n-50.0\n"


@pytest.mark.usefixtures("three")
def test_below_the_bound_the_answer_is_printed_and_the_exit_code_is_5(mwactl_cli):
    arguments = ["a", "b", "c", "--data", "tiny", "--stored", "--fail-below", "i2t.R@1=-1", "--fail-below", "rsum=-60"]
    result = mwactl_cli("compare", *arguments)
    assert result.code == 5
    assert "c@1 against a@1" in result.stdout
    assert "below the bound of --fail-below" in result.stderr
    assert "c@1 i2t.R@1 -12.5 (bound -1)" in result.stderr
    assert "rsum" not in result.stderr
    held = mwactl_cli("compare", *arguments[:2], *arguments[3:], "--json")
    assert held.code == 0
    assert [floor["holds"] for floor in held.json["contestants"][0]["floors"]] == [True, True]


@pytest.mark.usefixtures("three")
def test_slices_are_printed_with_their_words_and_sizes(mwactl_cli):
    result = mwactl_cli("compare", "a", "b", "--data", "tiny", "--by", "length")
    lines = result.stdout.splitlines()
    at = lines.index("short captions, 5 to 5 words: 8 pictures, 8 captions")
    assert [line.split("\t")[0] for line in lines[at + 1 : at + 3]] == ["i2t.R@1", "t2i.R@1"]


def test_one_picture_shows_nothing_and_says_so(mwactl_cli):
    data = {"name": "one", "split": "test", "digest": "ab" * 32}
    facts = {"data": data, "images": 1, "texts": 2, "protocol": "full", "precision": "fp32", "versions": {}}
    registry = Registry.default()
    for name, rank in (("a", 9), ("b", 1)):
        entry = registry.publish(name, kind="adapter", files={}, facts={"of": name}, parents=[], verb="train")
        ranks = QueryRanks(np.array([rank]), np.array([rank, rank]), np.arange(2), np.zeros(2, int))
        keep_ranks(registry, entry, facts, ranks)
    result = mwactl_cli("compare", "a", "b", "--data", "one", "--stored")
    assert result.code == 0, result.stderr
    assert "i2t.R@1\t0.0\t100.0\t+100.0\t\t1\t" in result.stdout.splitlines()
    assert "warning: pictures: 1; intervals of fewer than 30" in result.stderr


def test_the_commands_of_the_page_work(mwactl_cli, add_data, tiny_pictures, tiny_recipe):
    """Word for word, on a tiny data set of that name and three tiny versions."""
    add_data("coco", tiny_pictures)
    for lr in ("0.01", "0.0001"):
        trained = mwactl_cli(
            "train", tiny_recipe, "name=coco-mwa", "data.name=coco", "train.epochs=1", f"train.lr={lr}"
        )
        assert trained.code == 0, trained.stderr
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ mwactl")]
    assert len(commands) > 5
    for command in commands:
        result = mwactl_cli(*shlex.split(command, comments=True)[1:])
        assert result.code in ((0, 5) if "--fail-below" in command else (0,)), (command, result.stderr)
        assert result.stdout.strip(), command
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(program, PAGE.name, "exec"), {})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a", "b"], 2, "--data"),
        (["a", "b", "--data", "tiny", "--zero-shot", "tiny"], 2, "exactly one"),
        (["a", "--data", "tiny"], 2, "two contestants"),
        (["a", "b", "--data", "tiny", "--by", "colour"], 2, "--by length, or --by tag"),
        (["a", "b", "--data", "tiny", "--by", "tag"], 2, "no tags"),
        (["a", "b", "--data", "tiny", "--on-error", "perhaps"], 2, "--on-error skip"),
        (["a", "b", "--data", "tiny", "--fail-below", "R@1=2"], 2, "--fail-below t2i.R@1=-0.5"),
        (["a", "absent", "--data", "tiny"], 3, "absent"),
        (["a", "b", "--data", "absent"], 3, "absent"),
        (["a", "b", "--data", "tiny", "--split", "dev"], 3, "no split 'dev'"),
        (["a", "b", "--data", "tiny", "--split", "val", "--stored"], 3, "there are: tiny test full"),
        (["a", "b", "--data", "tiny", "--protocol", "coco-1k", "--stored"], 3, "protocol coco-1k"),
        (["a", "b", "--data", "tiny", "--protocol", "nope", "--stored"], 2, "choose one of: full, coco-1k"),
        (["a", "b", "--data", "tiny", "--precision", "nope"], 2, "unknown precision `nope`"),
        (["a", "b", "--data", "tiny", "--precision", "nope", "--stored"], 2, "unknown precision `nope`"),
        (["a", "b", "--data", "tiny", "--device", "xyz", "--stored"], 2, "unknown device `xyz`"),
        (["a", "b", "--data", "tiny", "--precision", "fp16", "--stored"], 3, "protocol full, fp16"),
    ],
)
@pytest.mark.usefixtures("three")
def test_mistakes_have_their_exit_codes_and_a_way_out(mwactl_cli, arguments, code, said):
    result = mwactl_cli("compare", *arguments)
    assert (result.code, result.stdout) == (code, ""), result.stderr
    assert said in result.stderr
    assert "bug" not in result.stderr
