from __future__ import annotations

import json

import pytest
import torch

from mwactl.bench.worker import Worker
from mwactl.errors import ExitCode


class HereAndNow:
    """A variant in this process: a process of its own takes seconds to start."""

    def __init__(self, variant, setup, batch_file):
        self.worker = Worker(variant, setup, batch_file)

    def call(self, command, *arguments):
        return getattr(self.worker, command)(*arguments)

    def close(self):
        pass


@pytest.fixture
def bench(mwactl_cli, tiny_clip, monkeypatch):
    """bench(*options): `mwactl bench step` of the tiny model, two quick rounds."""
    torch.set_num_threads(1)
    monkeypatch.setattr("mwactl.bench.comparison.VariantProcess", HereAndNow)
    monkeypatch.setattr("mwactl.bench.measure._MATMUL_SIZE", {"cpu": 64})
    quick = ["--backbone", f"clip:local-dir:{tiny_clip}", "--batch-size", "4", "--rounds", "2", "--steps", "1"]
    return lambda *options: mwactl_cli("bench", "step", *quick, "--device", "cpu", *options)


def test_the_table_has_a_row_a_variant_and_names_what_is_left_out(bench, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    result = bench("--variants", "full,mwa-plain,mwa-strong,lora,mwa")
    assert result.code == 0, result.stderr
    rows = [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]
    assert [row[0] for row in rows] == ["full", "mwa-plain", "mwa-strong", "mwa"]
    assert rows[0][2] == "1.00 [1.00–1.00]" and rows[1][3] == "1.00 [1.00–1.00]"
    assert "mwa-strong: without torch.compile" in result.stdout
    assert "lora: left out, the method `lora` needs the package peft" in result.stdout
    assert "next: " in result.stderr


def test_json_is_one_document_and_o_writes_the_same(bench, tmp_path):
    result = bench("--variants", "mwa-plain,mwa", "--json", "-o", tmp_path / "step.json", "--plot", tmp_path / "p.png")
    assert result.code == 0, result.stderr
    assert result.json["schema"] == 1
    assert json.loads((tmp_path / "step.json").read_text()) == result.json
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_quiet_prints_the_ratio(bench):
    result = bench("--variants", "mwa-plain,mwa", "-q")
    assert result.code == 0 and float(result.stdout) > 0
    assert not result.stderr


def test_a_variant_of_another_function_exits_5_and_shows_no_times(bench, monkeypatch):
    class Changed(HereAndNow):
        def call(self, command, *arguments):
            if command == "check" and self.worker._variant == "mwa":
                with torch.no_grad():
                    next(iter(self.worker._stepper.parameters.values())).add_(0.01)
            return super().call(command, *arguments)

    monkeypatch.setattr("mwactl.bench.comparison.VariantProcess", Changed)
    result = bench("--variants", "mwa-plain,mwa", "--json")
    assert result.code == ExitCode.VERIFICATION
    assert not result.stdout
    assert "does not compute what `mwa-plain` computes" in result.stderr


def test_a_data_set_gives_pictures_and_captions(bench, tiny_data):
    result = bench("--variants", "mwa,mwa-k", "--data", tiny_data, "--json")
    assert result.code == 0, result.stderr
    assert result.json["batch"]["data"] == tiny_data
    assert result.json["batch"]["captions_per_image"] == 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--variants", "nonsense"], ExitCode.USAGE),
        (["--precision", "fp16"], ExitCode.USAGE),
        (["--device", "cuda:77"], ExitCode.USAGE),
        (["--data", "no-such-data"], ExitCode.NOT_FOUND),
        (["--weights", "no-such-tag", "--variants", "mwa"], ExitCode.NOT_FOUND),
    ],
)
def test_what_cannot_be_measured_is_a_clear_error(bench, options, code):
    result = bench(*options)
    assert result.code == code
    assert "fix: " in result.stderr and not result.stdout
