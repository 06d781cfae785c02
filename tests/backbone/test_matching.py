"""Every name and shape of a weights file is accounted for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mwactl.backbone.matching import load_strictly
from mwactl.errors import ExitCode, IncompatibleError


class Towers(nn.Module):
    """Two maps, a frozen scale, and a buffer of whole numbers."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(4, 3)
        self.text = nn.Linear(5, 3, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.register_buffer("positions", torch.arange(6))


@pytest.fixture
def model() -> Towers:
    with torch.device("meta"):
        return Towers()


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Towers().state_dict().items()}


def refusal(model: Towers, state: dict[str, Tensor]) -> str:
    with pytest.raises(IncompatibleError, match="these weights are not those of towers") as raised:
        load_strictly(model, state, name="towers", where="/weights/towers.pth")
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert raised.value.where == "/weights/towers.pth"
    assert "--weights FILE" in (raised.value.fix or "")
    assert all(tensor.is_meta for tensor in model.state_dict().values()), "a refused file leaves the model alone"
    return raised.value.why or ""


def test_the_files_tensors_become_the_models_without_a_copy(model: Towers, state: dict[str, Tensor]) -> None:
    assert load_strictly(model, state, name="towers", where="file") == set()
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(loaded[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    assert model.image.weight.requires_grad
    assert not model.scale.requires_grad
    assert torch.equal(model.positions, torch.arange(6))


def test_missing_names_are_named(model: Towers, state: dict[str, Tensor]) -> None:
    del state["text.weight"], state["positions"]
    assert refusal(model, state) == "missing: positions, text.weight"


def test_unexpected_names_are_named_unless_ignored(model: Towers, state: dict[str, Tensor]) -> None:
    state |= {"mlm.weight": torch.zeros(2), "text.bias": torch.zeros(3)}
    assert refusal(model, state) == "unexpected: mlm.weight, text.bias"
    asked: dict[str, Tensor] = {}

    def ignored(key: str, tensor: Tensor) -> bool:
        asked[key] = tensor
        return True

    load_strictly(model, state, name="towers", where="file", ignored=ignored)
    assert asked == {key: state[key] for key in ("mlm.weight", "text.bias")}, "asked only of what has no place"
    assert model.text.bias is None


def test_other_shapes_are_shown_beside_the_models(model: Towers, state: dict[str, Tensor]) -> None:
    state["image.weight"] = torch.zeros(4, 4)
    state["scale"] = torch.zeros(1)
    assert refusal(model, state) == (
        "misshapen: scale is [1], the model's is [], image.weight is [4, 4], the model's is [3, 4]"
    )


def test_other_dtypes_are_refused_too(model: Towers, state: dict[str, Tensor]) -> None:
    state["positions"] = torch.zeros(6)
    assert refusal(model, state) == "misshapen: positions is [6], the model's is [6] (int64)"


def test_all_kinds_of_problems_are_in_one_message_with_three_names_each() -> None:
    with torch.device("meta"):
        model = nn.ModuleList([nn.Linear(2, 2) for _ in range(5)])
    state = {f"{i}.gamma": torch.zeros(2) for i in range(4)} | {"4.weight": torch.zeros(2, 3)}
    with pytest.raises(IncompatibleError) as raised:
        load_strictly(model, state, name="layers", where="file")
    assert raised.value.why == (
        "missing: 0.weight, 0.bias, 1.weight and 6 more; unexpected: 0.gamma, 1.gamma, 2.gamma and 1 more; "
        "misshapen: 4.weight is [2, 3], the model's is [2, 2]"
    )


def test_what_may_be_lacking_is_given_back_and_stays_to_be_made(model: Towers, state: dict[str, Tensor]) -> None:
    optional = ("text.weight", "scale")
    assert load_strictly(model, state, name="towers", where="file", may_lack=optional) == set()
    with torch.device("meta"):
        model = Towers()
    del state["text.weight"]
    assert load_strictly(model, state, name="towers", where="file", may_lack=optional) == {"text.weight"}
    assert model.text.weight.is_meta
    assert not model.scale.is_meta


def test_what_may_be_lacking_must_fit_where_it_is_there(model: Towers, state: dict[str, Tensor]) -> None:
    state["text.weight"] = torch.zeros(3, 6)
    with pytest.raises(IncompatibleError, match=r"text\.weight is \[3, 6\], the model's is \[3, 5\]"):
        load_strictly(model, state, name="towers", where="file", may_lack=["text.weight"])
