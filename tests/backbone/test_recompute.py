"""What is computed again gives the plain composition's values and gradients, and is not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mwactl.backbone.recompute import gelu_norm, norm_linear

WIDTH, MIDDLE, TOKENS = 48, 8, 30


def norm(*, trained: bool) -> nn.LayerNorm:
    torch.manual_seed(1)
    made = nn.LayerNorm(WIDTH, eps=1e-5).requires_grad_(trained)
    with torch.no_grad():
        made.weight.normal_()
        made.bias.normal_()
    return made


def down(*, bias: bool = True, trained: bool = True) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(WIDTH, MIDDLE, bias=bias).requires_grad_(trained)


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return x.to(dtype).requires_grad_()


def gradients(make: Callable[[], Tensor], inputs: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
    out = make()
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return out, list(torch.autograd.grad(out, list(inputs), direction))


def kept_bytes(make: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps beside the parameters, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = make()
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("trained", [False, True])
def test_gelu_and_norm_have_the_plain_values_and_gradients(trained: bool) -> None:
    x, own = tokens(), norm(trained=trained)
    inputs = [x, *(parameter for parameter in own.parameters() if trained)]
    value, found = gradients(lambda: gelu_norm(x, own), inputs)
    plain, expected = gradients(lambda: own(gelu(x)), inputs)
    torch.testing.assert_close(value, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(TOKENS,), (5, 6)])
def test_norm_and_projection_have_the_plain_values_and_gradients(bias: bool, leading: tuple[int, ...]) -> None:
    x, own, projection = tokens(), norm(trained=True), down(bias=bias)
    inputs = [x, *own.parameters(), *projection.parameters()]
    value, found = gradients(lambda: norm_linear(x.view(*leading, WIDTH), own, projection), inputs)
    plain, expected = gradients(lambda: projection(own(x.view(*leading, WIDTH))), inputs)
    torch.testing.assert_close(value, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_input_still_trains_the_module() -> None:
    """The first layer's adapter reads what no gradient flows back to."""
    x, own, projection = tokens().detach(), norm(trained=True), down()
    inputs = [*own.parameters(), *projection.parameters()]
    _, found = gradients(lambda: norm_linear(x, own, projection), inputs)
    _, expected = gradients(lambda: projection(own(x)), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_products_are_bf16_and_gradients_of_parameters_stay_fp32(dtype: torch.dtype) -> None:
    x, own, projection = tokens(dtype), norm(trained=True), down()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm_linear(x, own, projection)
        plain = projection(own(x))
    assert out.dtype == plain.dtype == torch.bfloat16
    out.float().square().sum().backward()
    found = [parameter.grad for parameter in (*own.parameters(), *projection.parameters())]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in found)
    assert x.grad is not None and x.grad.dtype == dtype
    inputs = [*own.parameters(), *projection.parameters()]
    expected = torch.autograd.grad(plain.float().square().sum(), inputs)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0.1, atol=0.03 * other.abs().max().item())


def test_only_the_input_is_kept() -> None:
    x, own, projection = tokens(), norm(trained=False), down()
    row = TOKENS * 4
    statistics = 2 * row  # mean and inverse deviation
    parameters = [*own.parameters(), *projection.parameters()]
    assert kept_bytes(lambda: gelu_norm(x, own), parameters) == WIDTH * row + statistics
    assert kept_bytes(lambda: own(gelu(x)), parameters) == 2 * WIDTH * row + statistics
    assert kept_bytes(lambda: norm_linear(x, own, projection), parameters) == WIDTH * row + statistics
    assert kept_bytes(lambda: projection(own(x)), parameters) == 2 * WIDTH * row + statistics


def test_without_gradients_it_is_the_plain_composition_to_the_bit() -> None:
    x, own, projection = tokens(), norm(trained=False), down(trained=False)
    with torch.no_grad():
        assert torch.equal(gelu_norm(x, own), own(gelu(x)))
        assert torch.equal(norm_linear(x, own, projection), projection(own(x)))


def test_shapes_alone_can_be_computed() -> None:
    x = torch.empty(TOKENS, WIDTH, device="meta", requires_grad=True)
    own, projection = norm(trained=True).to("meta"), down().to("meta")
    assert gelu_norm(x, own).shape == x.shape
    assert norm_linear(x, own, projection).shape == (TOKENS, MIDDLE)
