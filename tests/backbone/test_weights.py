"""What a request for weights becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from mwactl.backbone.spec import BackboneSpec, OfficialFile, WeightsRequest, WeightsUsed
from mwactl.backbone.weights import resolve_weights
from mwactl.errors import NotFoundError
from mwactl.files import sha256_file
from mwactl.home import weights_path
from mwactl.progress import Silent

if TYPE_CHECKING:
    from .conftest import FileServer


class Lines(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def info(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"model": {"module.a": torch.ones(2)}, "state_dict": {"a": torch.zeros(2)}}, tmp_path / "itc.pth")
    return tmp_path / "itc.pth"


def spec_at(url: str) -> BackboneSpec:
    return BackboneSpec("towers-small", "towers", "small", "itc", files=(OfficialFile("itc", "towers.pth", url),))


def test_random_weights_have_a_seed_and_no_tensors() -> None:
    assert resolve_weights(spec_at(""), WeightsRequest("random", seed=3)) == (WeightsUsed("random", seed=3), {})


def test_a_file_says_its_place_and_its_digest(weights: Path) -> None:
    used, state = resolve_weights(spec_at(""), WeightsRequest(str(weights)))
    assert used == WeightsUsed("file", path=weights.resolve(), file_sha256=sha256_file(weights))
    assert state["a"].tolist() == [1, 1]
    _, state = resolve_weights(spec_at(""), WeightsRequest(str(weights)), containers=("state_dict",))
    assert state["a"].tolist() == [0, 0]


def test_a_download_is_told_of_and_only_when_there_is_one(server: FileServer, weights: Path) -> None:
    server.content = weights.read_bytes()
    reporter = Lines()
    request = WeightsRequest(reporter=reporter)
    with pytest.raises(NotFoundError):
        resolve_weights(spec_at(server.url), request)
    assert reporter.told == []
    for _ in range(2):
        used, _ = resolve_weights(spec_at(server.url), replace(request, download=True))
        assert (used.source, used.path) == ("itc", weights_path() / "towers.pth")
        assert reporter.told == [f"fetching {server.url}"]


def test_who_is_told_is_no_part_of_a_request() -> None:
    assert WeightsRequest("itc", reporter=Lines()) == WeightsRequest("itc")
