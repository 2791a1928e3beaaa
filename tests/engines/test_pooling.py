"""Max pooling of compiled steps: torch's own kernels, so torch's values and gradients to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from trainer.engines.compiled import compiler
from trainer.engines.pooling import decompositions


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize("innermost", ["width", "channels"])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (5, {"kernel_size": 2}),
        (1, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}),
        (4, {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}),
    ],
)
def test_values_and_gradients_are_torchs(channels: int, options: dict[str, Any], innermost: str) -> None:
    from torch._inductor.compile_fx import compile_fx
    from torch.fx.experimental.proxy_tensor import make_fx

    def pooled(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        leaf = x.detach().requires_grad_()
        outputs = functional.max_pool2d(leaf, **options)
        (gradient,) = torch.autograd.grad((outputs.flatten(1) * weight).sum(), leaf)
        return [outputs.detach(), gradient]

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, 11, 8, generator=draw)
    x[0, 0] = 1.0  # the same value everywhere: the gradient goes where torch says
    if innermost == "channels":
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(functional.max_pool2d(x, **options).flatten(1).shape, generator=draw)
    graph = make_fx(pooled, decomposition_table=decompositions(), tracing_mode="fake")(x, weight)
    operations = {str(node.target) for node in graph.graph.nodes}
    assert {"optlab.max_pool2d.default", "optlab.max_pool2d_backward.default"} <= operations
    with torch.no_grad():
        found = compile_fx(graph, [x, weight])(x, weight)
    for ours, theirs in zip(found, pooled(x, weight), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_a_single_image_is_pooled_too() -> None:
    image = torch.randn(3, 8, 8)
    own = torch.ops.optlab.max_pool2d.default
    assert torch.equal(own(image, [2, 2])[0], functional.max_pool2d(image, 2))
