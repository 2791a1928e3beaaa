"""Matrix products of compiled steps agree with torch up to rounding, for every implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.training.engines.compiler import compiler
from trainer.training.engines.inductor import microkernel
from trainer.training.engines.inductor.matmul import decompositions

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(1, 784, 200), (200, 1, 784), (64, 200, 10), (64, 784, 200), (200, 64, 784), (4, 4096, 128)],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_torchs(rows: int, inner: int, columns: int, transposed: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(inner, rows, generator=draw).t() if transposed else torch.randn(rows, inner)
    right = torch.randn(columns, inner, generator=draw).t() if transposed else torch.randn(inner, columns)
    bias = torch.randn(columns, generator=draw)
    table = decompositions()
    product = table[aten.mm.default](left, right)
    shifted = table[aten.addmm.default](bias, left, right)
    if product is NotImplemented:  # then it stays torch's own
        assert shifted is NotImplemented
        assert min(rows, inner, columns) < 8
        return
    exact = left.double() @ right.double()
    torch.testing.assert_close(product.double(), exact, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(shifted.double(), exact + bias, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "by", "calls"),
    [
        (64, 784, 200, "microkernel", 2),
        (4, 784, 200, "linear", 0),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)  # compiling takes seconds per case
            for case in (
                (64, 784, 200, "linear", 2),
                (200, 64, 784, "microkernel", 2),
                (200, 64, 784, "linear", 2),
                (4, 784, 200, "microkernel", 0),
                (64, 200, 10, "microkernel", 2),
                (64, 200, 10, "linear", 0),
                (64, 30, 10, "microkernel", 0),
            )
        ),
    ],
)
def test_lowered_products_are_torchs(
    rows: int, inner: int, columns: int, by: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the forms passed to Inductor: transposed if that saves a copy, as loops for thin matrices."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch.fx.experimental.proxy_tensor import make_fx

    made = microkernel.kernel()
    if by == "microkernel" and made is None:
        pytest.skip("a processor without microkernel")
    called = []

    def watched(*arguments: Any) -> None:
        assert made is not None
        called.append(arguments)
        made(*arguments)

    monkeypatch.setattr(microkernel, "kernel", lambda: watched if by == "microkernel" else None)
    draw = torch.Generator().manual_seed(0)
    sizes = ((rows, inner), (columns, inner), (columns,))
    x, weight, bias = (torch.randn(size, generator=draw) for size in sizes)

    def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
        outputs = torch.addmm(bias, x, weight.t()).relu()
        return [outputs, torch.mm(outputs, weight), outputs.sum(0)]

    graph = make_fx(layer, decomposition_table=decompositions(), tracing_mode="fake")(x, weight, bias)
    with torch.no_grad(), config.patch(fx_graph_cache=False):
        program = compile_fx(graph, [x, weight, bias])
        found = program(x, weight, bias)  # the first run is under a dispatch mode, which shows calls twice
        called.clear()
        with torch.profiler.profile() as profile:
            program(x, weight, bias)
    linears = [event for event in profile.events() if event.name == "mkldnn::_linear_pointwise"]
    assert (len(called), len(linears)) == ((calls, 0) if by == "microkernel" else (0, calls))
    exact = layer(x.double(), weight.double(), bias.double())
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)
        assert ours.is_contiguous()


def test_what_is_not_plain_float32_stays_torchs() -> None:
    table = decompositions()
    double = torch.ones(2, 2, dtype=torch.float64)
    single = torch.ones(2, 2)
    assert table[aten.mm.default](double, double) is NotImplemented
    assert table[aten.addmm.default](single[0], single, single, beta=2.0) is NotImplemented
    assert table[aten.addmm.default](single, single, single) is NotImplemented
