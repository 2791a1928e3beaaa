"""Max pooling of compiled steps has values, indices and gradients bit-identical to torch, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from trainer.training.engines.compiler import compiler
from trainer.training.engines.inductor.pooling import decompositions

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")

NIGHTLY = pytest.mark.nightly  # compiling takes seconds per case
OWN_KERNELS = {"optlab.max_pool2d.default", "optlab.max_pool2d_backward.default"}


def traced(function: Callable[..., list[Tensor]], *arguments: Tensor) -> tuple[GraphModule, set[str]]:
    """Return the function's graph, and the operations in it."""
    graph = make_fx(function, decomposition_table=decompositions(), tracing_mode="fake")(*arguments)
    return graph, {str(node.target) for node in graph.graph.nodes}


def compiled(function: Callable[..., list[Tensor]], *arguments: Tensor) -> tuple[list[Tensor], set[str]]:
    """Return the result of the compiled function, and the traced operations."""
    from torch._inductor.compile_fx import compile_fx

    graph, operations = traced(function, *arguments)
    with torch.no_grad():
        return list(compile_fx(graph, list(arguments))(*arguments)), operations


def images(*shape: int, dtype: torch.dtype = torch.float32, innermost: str = "channels") -> Tensor:
    """Return three images, with windows of equal, infinite and NaN values."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 0] = 1.0  # the same value everywhere: the gradient goes where torch says
    x[1, :, :, : shape[3] // 2] = -torch.inf
    x[2, :, ::3, 1::2] = torch.nan
    x[2, :, 1::2, ::3] = torch.inf
    return x.contiguous(memory_format=torch.channels_last) if innermost == "channels" else x


def assert_the_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=0, equal_nan=True)
        assert our.stride() == their.stride()


def pooled_with(options: dict[str, Any]) -> Callable[[Tensor, Tensor], list[Tensor]]:
    def pooled(x: Tensor, weight: Tensor) -> list[Tensor]:
        leaf = x.detach().requires_grad_()
        outputs = functional.max_pool2d(leaf, **options)
        (gradient,) = torch.autograd.grad(outputs.flatten(1), leaf, weight)
        return [outputs.detach(), gradient]

    return pooled


@needs_compiler
@pytest.mark.parametrize("innermost", [pytest.param("width", marks=NIGHTLY), "channels"])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        pytest.param(5, {"kernel_size": 2}, marks=NIGHTLY),
        pytest.param(1, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}, marks=NIGHTLY),
        (4, {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}),
    ],
)
def test_other_windows_are_left_to_torchs_kernels(
    channels: int, options: dict[str, Any], innermost: str
) -> None:
    x = images(3, channels, 11, 8, innermost=innermost)
    weight = torch.rand(functional.max_pool2d(x, **options).flatten(1).shape)
    ours, operations = compiled(pooled_with(options), x, weight)
    assert operations >= OWN_KERNELS
    assert_the_same(ours, pooled_with(options)(x, weight))


@needs_compiler
@pytest.mark.parametrize(
    ("channels", "options", "dtype"),
    [
        (32, {"kernel_size": 2}, torch.float32),
        (16, {"kernel_size": (3, 2), "stride": (3, 2), "ceil_mode": True}, torch.bfloat16),
        pytest.param(32, {"kernel_size": 2}, torch.bfloat16, marks=NIGHTLY),
        pytest.param(48, {"kernel_size": (1, 4)}, torch.float32, marks=NIGHTLY),
        pytest.param(
            16,
            {"kernel_size": (2,), "stride": (2,), "padding": (0,), "dilation": (1,)},
            torch.float32,
            marks=NIGHTLY,
        ),
    ],
)
def test_tiles_are_pooled_in_loops(channels: int, options: dict[str, Any], dtype: torch.dtype) -> None:
    x = images(3, channels, 12, 8, dtype=dtype)
    weight = torch.rand(functional.max_pool2d(x, **options).flatten(1).shape).to(dtype)
    ours, operations = compiled(pooled_with(options), x, weight)
    assert not operations & OWN_KERNELS
    assert_the_same(ours, pooled_with(options)(x, weight))


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kernel_size": 2}, marks=NIGHTLY),
        pytest.param({"kernel_size": (4, 3), "stride": (4, 3)}, marks=NIGHTLY),
        {"kernel_size": (3, 2)},
    ],
)
def test_the_places_that_a_model_asks_for_are_torchs(options: dict[str, Any]) -> None:
    def pooled(x: Tensor) -> list[Tensor]:
        return list(functional.max_pool2d(x, return_indices=True, **options))

    x = images(3, 16, 12, 6)
    ours, operations = compiled(pooled, x)
    assert not operations & OWN_KERNELS
    assert_the_same(ours, pooled(x))


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 32, 9, 8), {"kernel_size": 2}),  # a row is left over
        ((3, 32, 12, 12), {"kernel_size": 6}),  # too many pixels to write out
        ((3, 32, 8, 8), {"kernel_size": 1}),  # the result must not share the input's memory
        ((3, 32, 8, 8), {"kernel_size": 2, "stride": 1}),
        ((3, 32, 8, 8), {"kernel_size": 2, "padding": 1}),
        ((3, 32, 8, 8), {"kernel_size": 2, "stride": 2, "dilation": 2}),
    ],
)
def test_what_suits_no_loops_is_left_to_torch(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = images(*shape)
    weight = torch.rand(functional.max_pool2d(x, **options).flatten(1).shape)
    graph, operations = traced(pooled_with(options), x, weight)
    assert operations >= OWN_KERNELS
    assert_the_same(graph(x, weight), pooled_with(options)(x, weight))


def test_a_single_image_is_pooled_too() -> None:
    image = torch.randn(3, 8, 8)
    own = torch.ops.optlab.max_pool2d.default
    assert torch.equal(own(image, [2, 2])[0], functional.max_pool2d(image, 2))
