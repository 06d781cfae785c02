"""Real processes: a few, since each imports torch."""

from __future__ import annotations

import pytest

from mwactl.bench.process import VariantProcess
from mwactl.bench.setup import UnavailableError
from mwactl.errors import MwactlError, NotFoundError, ResourceError


@pytest.fixture
def batch_file(batch_of, setup_of, tmp_path):
    batch_of(setup_of("beit3", captions_per_image=1)).save(tmp_path / "batch")
    return tmp_path / "batch"


@pytest.fixture
def start(batch_file):
    """start(variant, setup): its process, ended after the test."""
    started = []

    def one(variant, setup):
        started.append(VariantProcess(variant, setup, batch_file))
        return started[-1]

    yield one
    for process in started:
        process.close()


def test_a_process_answers_reports_its_own_memory_and_its_end_is_told(start, setup_of, tmp_path):
    process = start("mwa", setup_of("beit3"))
    assert process.call("build").trained > 0
    assert process.call("check", tmp_path / "gradients").loss > 0
    process.call("warm_up")
    assert len(process.call("turn")) == 1
    assert process.call("peak_memory") > 50e6
    with pytest.raises(MwactlError, match="`mwa` failed"):
        process.call("check", tmp_path / "no-such-folder" / "gradients")
    assert process.call("saved_bytes") > 0  # and goes on
    process._process.kill()
    with pytest.raises(ResourceError, match="`mwa` ended") as error:
        process.call("turn")
    assert "-9" in error.value.why and "--variants" in error.value.fix


def test_errors_and_reasons_arrive_as_what_they_are_and_closing_ends_the_process(start, setup_of):
    missing, alone = start("mwa", setup_of("beit3", weights="no-such-tag")), start("mwa-k", setup_of("beit3"))
    with pytest.raises(NotFoundError) as error:
        missing.call("build")
    assert error.value.fix
    with pytest.raises(UnavailableError, match="one caption a picture"):
        alone.call("build")
    for process in (missing, alone):
        process.close()
        process.close()
        assert not process._process.is_alive()
