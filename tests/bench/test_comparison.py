from __future__ import annotations

import json

import pytest
import torch

from mwactl.bench import compare_steps, plot_steps
from mwactl.bench.setup import VARIANTS, UnavailableError
from mwactl.errors import MwactlError, VerificationError


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr("mwactl.bench.measure._MATMUL_SIZE", {"cpu": 64})


@pytest.fixture
def compare(batch_of, here_and_now):
    """compare(setup, variants, start=…): in this process unless told otherwise."""

    def run(setup, variants, start=here_and_now):
        return compare_steps(setup, batch_of(setup), variants, start=start)

    return run


def test_the_document_says_all_that_a_reader_needs(compare, setup_of):
    document = compare(setup_of("clip"), ["full", "mwa-plain", "mwa", "mwa-k"]).as_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == 1
    assert document["batch"] == {
        "pairs": 6, "picture": [3, 32, 32], "tokens_mean": pytest.approx(13.8, abs=0.6), "tokens_padded": 16,
        "captions_per_image": 3,
    }  # fmt: skip
    assert {"processor", "cores", "threads", "gpu", "load_average"} <= document["machine"].keys()
    assert document["versions"]["torch"] == torch.__version__
    rows = {row["variant"]: row for row in document["variants"]}
    assert list(rows) == ["full", "mwa-plain", "mwa", "mwa-k"]
    assert rows["mwa"]["same_function"]["reference"] == "mwa-plain"
    assert rows["full"]["same_function"] is rows["mwa-k"]["same_function"] is None
    assert rows["full"]["ratio"]["full"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    assert rows["mwa"]["trained_parameters"] < rows["full"]["trained_parameters"]
    assert rows["mwa-k"]["pairs"] == 6
    for row in rows.values():
        assert row["what"] == VARIANTS[row["variant"]]
        parts = row["seconds"]
        assert parts["total"] > 0 and parts["forward"] > 0 and parts["backward"] > 0 and parts["optimiser"] > 0
        assert [len(steps) for steps in row["seconds_of_rounds"]] == [1, 1]
        for figure in (
            "peak_memory_bytes",
            "saved_bytes_per_pair",
            "flops_per_pair",
            "pairs_per_second",
            "utilisation",
        ):
            assert row[figure] > 0, figure


def test_turns_alternate_after_everything_was_checked(compare, setup_of, here_and_now):
    calls = []

    class Listening(here_and_now):
        def __init__(self, variant, *rest):
            super().__init__(variant, *rest)
            self.variant = variant

        def call(self, command, *arguments):
            calls.append((command, self.variant))
            return super().call(command, *arguments)

    compare(setup_of("clip"), ["mwa", "full-lean", "mwa-plain"], Listening)
    three = ["full-lean", "mwa-plain", "mwa"]
    assert [variant for command, variant in calls if command == "turn"] == 2 * three
    commands = [command for command, _ in calls]
    last_check = max(i for i, command in enumerate(commands) if command == "check")
    assert last_check < commands.index("warm_up") < commands.index("turn")


def test_a_variant_that_computes_something_else_ends_it_before_any_time_is_taken(compare, setup_of, here_and_now):
    class OneChanged(here_and_now):
        def call(self, command, *arguments):
            if self.worker._variant == "mwa":
                assert command != "turn"
                if command == "check":
                    with torch.no_grad():
                        next(iter(self.worker._stepper.parameters.values())).add_(0.01)
            return super().call(command, *arguments)

    with pytest.raises(VerificationError, match="`mwa` does not compute what `mwa-plain` computes"):
        compare(setup_of("clip"), ["mwa-plain", "mwa"], OneChanged)


@pytest.mark.parametrize("moment", ["build", "turn"])
def test_a_variant_that_cannot_be_measured_is_named_with_the_reason(compare, setup_of, here_and_now, moment):
    class Full(here_and_now):
        def call(self, command, *arguments):
            if command == moment and self.worker._variant == "full":
                raise UnavailableError("out of memory")
            return super().call(command, *arguments)

    comparison = compare(setup_of("clip"), ["full", "mwa-plain", "mwa"], Full)
    assert comparison.as_dict()["left_out"] == [{"variant": "full", "why": "out of memory"}]
    assert [row.variant for row in comparison.rows] == ["mwa-plain", "mwa"]
    assert comparison.ratios("mwa", "full") is None
    assert comparison.ratios("mwa", "mwa-plain") is not None


def test_nothing_left_is_an_error(compare, setup_of):
    with pytest.raises(MwactlError, match="no variant is left"):
        compare(setup_of("clip", captions_per_image=1), ["mwa-k"])


def test_ratios_are_those_of_the_same_round(compare, setup_of):
    comparison = compare(setup_of("clip", rounds=3), ["full", "mwa"])
    full, mwa = comparison.rows
    pairs = zip(mwa.seconds_per_pair(), full.seconds_per_pair(), strict=True)
    assert comparison.ratios("mwa", "full")[0] == sorted(ours / theirs for ours, theirs in pairs)[1]


def test_the_plot_is_a_picture_with_a_bar_a_variant(compare, setup_of, tmp_path):
    from PIL import Image

    plot_steps(compare(setup_of("clip"), ["full", "mwa"]), tmp_path / "step.png")
    with Image.open(tmp_path / "step.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
    assert {(10, 143, 60), (154, 164, 178)} <= colours
