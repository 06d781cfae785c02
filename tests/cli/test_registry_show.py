from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from mwactl.cli.registry.diff import diff as diff_command
from mwactl.cli.registry.log import log as log_command
from mwactl.cli.registry.show import show as show_command
from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]
BASE = {"backbone": "beit3-large", "fingerprint": "sha256:" + "f" * 64, "weights": {"source": "itc", "seed": None}}
DATA = [{"name": "coco", "split": "train", "images": 113_287, "captions": 566_747, "digest": "d" * 64}]
TRAIN = {"recipe_digest": "a" * 64, "seed": 0, "steps": 17_700, "best_epoch": 18, "recipe": {"train": {"lr": 0.001}}}


class Terminal(io.StringIO):
    """A terminal of some encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """on_terminal(command, arguments…, columns=80): the lines that a command prints there."""

    def run(command: Callable[..., None], *arguments: str, columns: int = 80, encoding: str = "utf-8") -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "dumb")
        stream = Terminal(encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            command(*arguments)
        return stream.getvalue().splitlines()

    return run


def publish(
    registry: Registry, name: str, *parents: Entry, kind: str = "adapter", value: float = 1.0, **facts: Any
) -> Entry:
    tensors = {f"adapter.sites.image/{depth}.up.weight": np.full(4, value, np.float32) for depth in range(2)}
    return registry.publish(
        name, kind=kind, files={"adapter.safetensors": bytes(save(tensors))}, verb="train",
        facts={"base": BASE, "method": {"name": "mwa", "config": {"layers": "all"}}} | facts,
        parents=[parent.digest for parent in parents],
    )  # fmt: skip


@pytest.fixture
def family() -> tuple[Entry, Entry, Entry]:
    """An injected, a trained and evaluated, and an exported entry."""
    registry = Registry.default()
    injected = publish(registry, "coco-mwa")
    trained = publish(registry, "coco-mwa", injected, value=2.0, train=TRAIN, data=DATA)
    exported = publish(registry, "coco-onnx", trained, kind="onnx")
    evaluation = {"data": {"name": "coco", "split": "test", "digest": "e" * 64}, "rsum": 512.44}
    recalls = {"text_to_image": {"R@1": 60.54}, "image_to_text": {"R@1": 77.4}, "zero_shot": True}
    registry.attach(trained, "evaluation", evaluation | {"rsum": 100.0})
    registry.attach(trained, "evaluation", evaluation | recalls)
    return injected, trained, exported


def tree_of(lines: list[str]) -> list[str]:
    """The lines between the heading of the tree and what follows it."""
    start = lines.index("family") + 1
    after = ("evaluation", "RESULTS", "base", "method", "history")
    stop = next(i for i in range(start, len(lines)) if lines[i].startswith(after))
    return lines[start:stop]


def drawn(family: tuple[Entry, Entry, Entry]) -> list[str]:
    injected, trained, exported = (entry.digest[:12] for entry in family)
    return [
        "beit3-large  backbone  fingerprint sha256:ffffffffffff",
        "├── weights itc",
        f"└── coco-mwa@1  injected mwa  sha256:{injected}",
        f"    └── coco-mwa@2  trained  sha256:{trained}  (this one)",
        "        ├── data coco train: 113,287 pictures, 566,747 captions  sha256:dddddddddddd",
        "        ├── recipe sha256:aaaaaaaaaaaa, seed 0, steps 17700, best epoch 18",
        "        ├── eval coco test: RSUM 512.4  t2i R@1 60.5  i2t R@1 77.4  zero-shot",
        f"        └── coco-onnx@1  exported  sha256:{exported}",
    ]


def test_a_wide_terminal_shows_the_family_as_a_drawn_tree(family, on_terminal) -> None:
    assert tree_of(on_terminal(show_command, "coco-mwa@2", columns=200)) == drawn(family)


def test_eighty_columns_cut_what_is_too_long_and_never_wrap(family, on_terminal) -> None:
    lines = tree_of(on_terminal(show_command, "coco-mwa@2", columns=80))
    whole = drawn(family)
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) == len(whole)
    for line, full in zip(lines, whole, strict=True):
        assert line == full if len(full) <= 80 else line == full[:79] + "…"
    assert any(line.endswith("…") for line in lines), "the test has a line that is too long"


def test_the_tree_is_ascii_where_the_encoding_has_no_lines(family, on_terminal) -> None:
    lines = tree_of(on_terminal(show_command, "coco-mwa@2", columns=200, encoding="ascii"))
    assert lines[1:4] == [
        "+-- weights itc",
        f"`-- coco-mwa@1  injected mwa  sha256:{family[0].digest[:12]}",
        f"    `-- coco-mwa@2  trained  sha256:{family[1].digest[:12]}  (this one)",
    ]
    assert all(line.isascii() for line in lines)


def test_a_pipe_gets_the_tree_as_indented_text(family, mwactl_cli: Cli) -> None:
    lines = tree_of(mwactl_cli("registry", "show", "coco-mwa@1").stdout.splitlines())
    assert lines[:4] == [
        "  beit3-large  backbone  fingerprint sha256:ffffffffffff",
        "    weights itc",
        f"    coco-mwa@1  injected mwa  sha256:{family[0].digest[:12]}  (this one)",
        f"      coco-mwa@2  trained  sha256:{family[1].digest[:12]}",
    ]
    assert lines[-1] == f"        coco-onnx@1  exported  sha256:{family[2].digest[:12]}"


def test_json_has_the_tree_beside_everything_else(family, mwactl_cli: Cli) -> None:
    document = mwactl_cli("registry", "show", "coco-onnx", "--json").json
    assert [member["references"] for member in document["tree"]["members"]] == [
        [], ["coco-mwa@1"], ["coco-mwa@2"], ["coco-onnx@1"],
    ]  # fmt: skip
    assert document["tree"]["unread"] == []
    assert {"manifest", "lineage", "attachments", "history"} <= document.keys()


@pytest.fixture
def trained() -> Entry:
    """A version with everything that is usually known of one."""
    registry = Registry.default()
    recipe = {
        "name": "coco",
        "train": {"lr": 0.0003, "epochs": 20, "betas": [0.9, 0.98], "clip_norm": None, "amp": True},
    }
    entry = publish(
        registry, "coco-mwa", data=[DATA[0], "a text", {"name": "coco", "split": "val"}],
        method={"name": "mwa", "config": {"name": "mwa", "mwa": {"knowledge_extractor": 64, "share": False}}},
        train=TRAIN | {"recipe": recipe}, metrics=[{"dataset": "coco", "split": "val", "rsum": 490.1234567}],
        tensors={"parameters": 5_000_000}, exotic={"deep": 0.123456},
    )  # fmt: skip
    for split, rsum in (("test", 100.0), ("testB", 333.333333), ("test", 512.44444)):
        recalls = {"R@1": 60.54321, "R@5": 85.0, "R@10": 91.999}
        registry.attach(
            entry, "evaluation",
            {"data": {"name": "coco", "split": split, "digest": "e" * 64}, "rsum": rsum, "text_to_image": recalls,
             "image_to_text": recalls, "zero_shot": split == "testB"},
        )  # fmt: skip
    validation = [{"epoch": n, "rsum": 400.0 + n} for n in range(1, 151)] + [{"epoch": 151, "rsum": 500.0}]
    registry.attach(entry, "training", {"seconds": 4000.4, "peak_memory_bytes": 10**10, "validation": validation})
    registry.attach(entry, "local-place", {"backbone": "beit3-large"})
    return entry


def test_a_terminal_shows_what_came_of_a_version_before_how_it_was_made_in_few_rounded_lines(
    trained, on_terminal
) -> None:
    lines = on_terminal(show_command, "coco-mwa", columns=80)
    assert lines[0] == f"coco-mwa@1  adapter  sha256:{trained.digest[:12]}"
    after_family = lines[lines.index("RESULTS      RSUM  t2i R@1/5/10    i2t R@1/5/10    NOTE       WHEN") :]
    assert after_family[1:4] == [
        "coco test   512.4  60.5 85.0 92.0  60.5 85.0 92.0             just now",
        "coco testB  333.3  60.5 85.0 92.0  60.5 85.0 92.0  zero-shot  just now",
        "coco val    490.1                                             just now",
    ]
    assert re.fullmatch("validate  RSUM 401.0 [▁▂▃▄▅▆▇█]{28} 500.0, best 550.0 in epoch 150", after_family[4])
    assert after_family[5:15] == [
        "DATA        PICTURES  CAPTIONS  DIGEST",
        f"coco train   113,287   566,747  sha256:{'d' * 12}",
        "coco val",
        "method    mwa, knowledge_extractor 64, share no",
        "size      parameters: 5,000,000 in the adapter",
        "training  steps 17,700, best epoch 18, seed 0, took 1 h 6 min, 10.0 GB of memory",
        "          at most",
        "recipe    amp yes, betas 0.9+0.98, epochs 20, lr 0.0003",
        "more      exotic, local-place (in --json)",
        next(line for line in after_family if line.startswith("history   just now  train  by ")),
    ]
    assert not re.search(r"[0-9]\.[0-9]{5}", "\n".join(lines)), "no raw number"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_of_show_is_wider_than_the_terminal(on_terminal, columns: int, encoding: str) -> None:
    registry = Registry.default()
    name, long = "n" * 64, "long-" * 30
    counts = {"images": 10**9, "captions": 10**9, "skipped": 10**6}
    entry = publish(
        registry, name, train=TRAIN | {"recipe": {"train": {"key" * 20: "value" * 60}}},
        data=[{"name": long, "split": "train", "digest": "d" * 64, **counts}],
        **{f"fact{n}": n for n in range(60)},
    )  # fmt: skip
    registry.attach(entry, "evaluation", {"data": {"name": long, "split": "test"}, "rsum": 500.0, "zero_shot": True})
    registry.tag(entry, {f"tag{n}": "value" * 20 for n in range(3)})
    registry.alias(name, "a" * 64, 1)
    lines = on_terminal(show_command, name, columns=columns, encoding=encoding)
    assert [line for line in lines if len(line) > columns] == []
    assert all(line.isascii() for line in lines) == (encoding == "ascii")
    whole = [line for line in lines if f"{long} test"[: columns - 48] in line] if columns > 80 else ["not asked"]
    assert whole, "what room there is is used"


def test_ascii_terminals_get_the_ends_of_the_curve_without_bars(trained, on_terminal) -> None:
    lines = on_terminal(show_command, "coco-mwa", encoding="ascii")
    assert "validate  RSUM 401.0 to 500.0, best 550.0 in epoch 150" in lines


def test_a_pipe_gets_every_fact_a_line_each_and_the_whole_digest(trained, mwactl_cli: Cli) -> None:
    result = mwactl_cli("registry", "show", "coco-mwa")
    lines = result.stdout.splitlines()
    assert lines[0] == f"coco-mwa@1  adapter  sha256:{trained.digest}"
    for line in (
        "    lr  0.0003",
        "  deep  0.123456",
        "  rsum  512.44444",
        f"  digest  {'d' * 64}",
        "        lr  0.0003",
    ):
        assert line.strip() in map(str.strip, lines)
    assert lines.index("family") < lines.index("exotic") < lines.index("train")
    assert "next: mwactl registry show coco-mwa@1 --json   (manifest and recipe)" in result.stderr


def test_a_long_history_shows_its_end_and_where_the_rest_is(trained, on_terminal) -> None:
    registry = Registry.default()
    for number in range(9):
        registry.alias("coco-mwa", f"a{number}", 1)
    lines = [line for line in on_terminal(show_command, "coco-mwa") if line.startswith("history")]
    assert lines[0] == "history   7 earlier: mwactl registry log coco-mwa@1"
    assert len(lines) == 9


def test_the_log_puts_an_undo_that_does_not_fit_on_a_line_of_its_own(trained, on_terminal) -> None:
    Registry.default().alias("coco-mwa", "a" * 40, 1)
    lines = on_terminal(log_command, "coco-mwa", columns=100)
    assert lines[-1] == f"  undo: mwactl registry alias coco-mwa {'a' * 40} --delete"
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [1, None, {}], {"a": {"b": [None]}}, [{"rsum": "much"}]])
def test_show_on_a_terminal_takes_any_facts(on_terminal, value: Any) -> None:
    registry = Registry.default()
    facts = ("data", "method", "metrics", "tensors", "train", "base")
    for number, fact in enumerate(facts):
        registry.publish(f"x{number}", kind="adapter", files={}, facts={fact: value}, verb="x")
    entry = publish(registry, "odd")
    for kind in ("evaluation", "training"):
        for key in ("data", "rsum", "text_to_image", "validation", "seconds", "protocol"):
            registry.attach(entry, kind, {key: value})
    for name in registry.names():
        assert on_terminal(show_command, name)[0].startswith(f"{name}@1  adapter  sha256:")


def test_merged_and_lost_relatives_are_said(mwactl_cli: Cli) -> None:
    registry = Registry.default()
    left, right = (publish(registry, name, value=v) for name, v in (("left", 1.0), ("right", 2.0)))
    publish(registry, "both", left, right, kind="merged")
    lost = publish(registry, "lost", left)
    (registry.root / "blobs/sha256" / lost.digest[:2] / lost.digest).unlink()
    result = mwactl_cli("registry", "show", "left")
    assert "      both@1  merged  " in result.stdout
    assert "  also from right@1\n" in result.stdout
    assert "warning: unreadable, so perhaps missing from the tree: lost@1" in result.stderr
    again = mwactl_cli("registry", "show", "both").stdout
    assert again.count("(this one)") == 2
    assert again.count("(see above)") == 1


def test_aliases_and_tags_are_shown(family, mwactl_cli: Cli) -> None:
    assert mwactl_cli("registry", "alias", "coco-mwa@2", "prod").code == 0
    assert mwactl_cli("registry", "tag", "coco-mwa@2", "license=mit").code == 0
    lines = mwactl_cli("registry", "show", "coco-mwa:prod").stdout.splitlines()
    assert "aliases   prod" in lines
    assert "tags      license=mit" in lines
    document = mwactl_cli("registry", "show", "coco-mwa:prod", "--json").json
    assert (document["aliases"], document["tags"]) == (["prod"], {"license": "mit"})


def test_a_diff_is_tab_separated_for_programs_with_whole_values(family, mwactl_cli: Cli) -> None:
    result = mwactl_cli("registry", "diff", "coco-mwa@1", "coco-mwa@2")
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        f"{side}  {e.reference}  sha256:{e.digest[:12]}" for side, e in zip("AB", family[:2], strict=True)
    ]
    for line in (
        "  train.lr\t-\t0.001",
        f"  coco train.digest\t-\t{'d' * 64}",
        "  text_to_image.R@1\t-\t60.54\t",
        "  image/0\t1.0000\t1.0000\t1",
    ):
        assert line in lines
    assert "next: mwactl registry show coco-mwa@2" in result.stderr


@pytest.mark.parametrize("columns", [80, 200])
def test_a_diff_fits_the_terminal(family, on_terminal, columns: int) -> None:
    lines = on_terminal(diff_command, "coco-mwa@1", "coco-mwa@2", columns=columns)
    assert [line for line in lines if len(line) > columns] == []
    assert "           |A - B| / |A|  COSINE  COMPARED" in lines
    assert any(line.split() == ["coco", "train.digest", "-", "d" * 12] for line in lines), "digests are shortened"


def test_long_keys_and_values_are_cut_in_the_middle(on_terminal) -> None:
    registry = Registry.default()
    for ending in ("one", "two"):
        publish(registry, "long", **{"k" * 60: "v" * 60 + ending})
    (row,) = [line for line in on_terminal(diff_command, "long@1", "long@2") if line.startswith("  kkk")]
    assert len(row) <= 80
    assert "…" in row
    assert row.endswith("two")
    assert "one" in row


def test_many_tensors_of_other_shapes_are_counted_and_not_all_named(mwactl_cli: Cli) -> None:
    registry = Registry.default()
    for size in (1, 2):
        tensors = {f"t{n}": np.ones(size, np.float32) for n in range(5)}
        registry.publish("s", kind="adapter", files={"a.safetensors": bytes(save(tensors))}, facts={}, verb="x")
    stdout = mwactl_cli("registry", "diff", "s@1", "s@2").stdout
    assert "  t0 is [1] in A, [2] in B\n" in stdout
    assert stdout.endswith("  and 2 more that cannot be compared (--json names them)\n")
    document = mwactl_cli("registry", "diff", "s@1", "s@2", "--json").json
    assert len([problem for site in document["tensors"] for problem in site["problems"]]) == 5


def test_tensors_with_long_names_fit_the_terminal_too(on_terminal) -> None:
    registry = Registry.default()
    for size in (1, 2):
        content = bytes(save({"adapter.sites.image/0." + "long" * 20: np.ones(size, np.float32)}))
        registry.publish("s", kind="adapter", files={"a.safetensors": content}, facts={}, verb="x")
    (line,) = [each for each in on_terminal(diff_command, "s@1", "s@2") if each.endswith("[2] in B")]
    assert len(line) == 80
    assert line.startswith("  image/0.long")


def test_the_same_contents_under_two_names_are_said_to_be_the_same(mwactl_cli: Cli) -> None:
    registry = Registry.default()
    for name in ("one", "two"):
        publish(registry, name)
    result = mwactl_cli("registry", "diff", "one", "two")
    assert result.code == 0
    assert "the same contents" in result.stdout
    assert mwactl_cli("registry", "diff", "one", "two", "-q").stdout == "same\n"
    document = mwactl_cli("registry", "diff", "one", "two", "--json").json
    assert (document["schema"], document["same"], document["differences"]) == (1, True, [])


def test_a_diff_with_something_absent_is_not_found(family, mwactl_cli: Cli) -> None:
    result = mwactl_cli("registry", "diff", "coco-mwa@1", "coco-mwa@9")
    assert (result.code, result.stdout) == (3, "")


def test_diff_help_ends_with_an_example(mwactl_cli: Cli) -> None:
    assert "Example: mwactl registry diff" in mwactl_cli("registry", "diff", "--help").stdout


def test_the_documentation_names_commands_that_exist_and_no_place_on_one_machine(mwactl_cli: Cli) -> None:
    text = (Path(__file__).parents[2] / "docs/registry.md").read_text("utf-8")
    commands = re.findall(r"^\$ mwactl (.*)$", text, re.MULTILINE)
    assert len(commands) >= 7
    for command in commands:
        words = command.split()
        assert mwactl_cli(*words[: 2 if words[0] == "registry" else 1], "--help").code == 0, command
    assert not re.search(r"/(work|root|home|tmp)/", text)
