"""Giving a model its weights, strictly: every name and every shape in the file is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

from mwactl.errors import IncompatibleError

_SHOWN = 3


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    name: str,
    where: str,
    may_lack: Collection[str] = (),
    ignored: Callable[[str, Tensor], bool] = lambda key, tensor: False,
) -> set[str]:
    """Make a file's tensors the parameters and buffers of a model on the meta device; nothing is copied.

    Args:
        model: The model; its parameters keep their `requires_grad`.
        state: The file's tensors under the model's names.
        name: The model's name, for the error.
        where: The file, for the error.
        may_lack: Names that the file need not have.
        ignored: Whether a tensor that the model has no place for may be left out.

    Returns:
        The names of `may_lack` that the file lacks: they stay on the meta device, and the caller makes them.

    Raises:
        IncompatibleError: Names are missing or unexpected, or a tensor has another shape or dtype.
    """
    expected = model.state_dict()
    absent = expected.keys() - state.keys()
    problems = {
        "missing": [key for key in expected if key in absent and key not in may_lack],
        "unexpected": [key for key in state if key not in expected and not ignored(key, state[key])],
        "misshapen": [
            f"{key} is {_form(state[key])}, the model's is {_form(tensor)}"
            for key, tensor in expected.items()
            if key in state and _form(state[key]) != _form(tensor)
        ],
    }
    if any(problems.values()):
        why = "; ".join(f"{kind}: {_first(found)}" for kind, found in problems.items() if found)
        raise another_models(name, where=where, why=why)
    model.load_state_dict({key: state[key] for key in expected if key in state}, strict=False, assign=True)
    return absent


def another_models(name: str, *, where: str, why: str) -> IncompatibleError:
    """The error for weights that do not fit the model of this name."""
    fix = "--weights FILE with this model's own weights (in a recipe: backbone.weights)"
    return IncompatibleError(f"these weights are not those of {name}", where=where, why=why, fix=fix)


def _form(tensor: Tensor) -> str:
    """Shape, and dtype where it is not the usual one."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{list(tensor.shape)}" if dtype == "float32" else f"{list(tensor.shape)} ({dtype})"


def _first(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
