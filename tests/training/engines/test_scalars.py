"""Scalars of a traced step are computed once for all loops that read them, including reciprocals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.training.engines.inductor.scalars import compute_once

X = torch.rand(1000, generator=torch.Generator().manual_seed(0))
NUMBER = torch.tensor(0.3, dtype=torch.float64)


def traced(x: Tensor, number: Tensor) -> tuple[GraphModule, list[str]]:
    """Return a traced update after `compute_once`, and the names of the operations it calls."""

    def update(x: Tensor, number: Tensor) -> Tensor:
        correction = number.sqrt()
        return x / correction + x * correction + correction / (x + 1)

    graph = make_fx(update, tracing_mode="fake")(x, number)
    compute_once(graph)
    return graph, [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_numbers_are_stored_and_divisors_become_factors() -> None:
    _, calls = traced(X, NUMBER)
    assert calls.count("optlab.stored.default") == 2  # the number, and its reciprocal
    assert calls.count("aten.reciprocal.default") == 1
    assert calls.count("aten.div.Tensor") == 1  # of the number by a tensor, which stays
    assert calls.count("aten.mul.Tensor") == 2


def test_the_result_stays_within_two_last_bits() -> None:
    graph, _ = traced(X, NUMBER)
    exact = X.double() / NUMBER.sqrt() + X.double() * NUMBER.sqrt() + NUMBER.sqrt() / (X.double() + 1)
    torch.testing.assert_close(graph(X, NUMBER).double(), exact, rtol=2 * 2**-23, atol=0)


def test_division_by_zero_stays_what_it_was() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    x = torch.tensor([1.0, -2.0, 0.0])
    graph, _ = traced(x, zero)
    expected = torch.tensor([torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(graph(x, zero), expected, equal_nan=True)
