from __future__ import annotations

import pytest

from mwactl.bench.prepare import check_memory, choose_variants, prepare_batch, timed_precision
from mwactl.bench.setup import VARIANTS
from mwactl.errors import ExitCode, ResourceError, UsageError


def test_no_name_means_all_and_the_order_is_always_the_same():
    assert choose_variants([]) == list(VARIANTS)
    assert choose_variants(["mwa", "full"]) == ["full", "mwa"]
    with pytest.raises(UsageError, match="--variants nonsense"):
        choose_variants(["mwa", "nonsense"])


def test_a_cpu_is_timed_in_fp32_unless_asked_otherwise():
    assert timed_precision("auto", "cpu") == "fp32"
    assert timed_precision("bf16", "cpu") == "bf16"
    with pytest.raises(UsageError):
        timed_precision("fp16", "cpu")


def test_weights_and_optimisers_that_cannot_fit_are_refused_before_anything_starts(setup_of):
    setup, million = setup_of("beit3"), 1_000_000
    gigabyte = 10**9
    check_memory(setup, ["full", "mwa"], 250 * million, 6 * gigabyte)  # 1 GB of weights: 3 + 1 + 1 of gradients
    with pytest.raises(ResourceError, match=r"5\.6 GB") as error:
        check_memory(setup, ["full", "mwa"], 250 * million, 5 * gigabyte)
    assert error.value.exit_code == ExitCode.RESOURCES
    check_memory(setup, ["mwa-plain", "mwa"], 250 * million, 3 * gigabyte)
    check_memory(setup, ["full", "mwa"], 250 * million, None)


def test_a_single_pair_has_no_negatives(setup_of):
    with pytest.raises(UsageError, match="no negatives"):
        prepare_batch(setup_of("beit3", batch_size=1), (), None, "train")


def test_a_family_that_is_not_known_needs_real_captions(setup_of, monkeypatch):
    monkeypatch.setattr("mwactl.bench.prepare.family_of", lambda backbone: None)
    with pytest.raises(UsageError, match="cannot be made up") as error:
        prepare_batch(setup_of("clip"), (), None, "train")
    assert "--data" in error.value.fix
