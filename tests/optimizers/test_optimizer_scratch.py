"""The optimizers from scratch are bit-identical to torch.optim and agree with their equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optimizers.scratch import SCRATCH, SGD, Adagrad

TWINS: list[tuple[str, type[Optimizer], dict[str, Any], dict[str, Any]]] = [
    ("scratch.sgd", torch.optim.SGD, {}, {}),
    ("scratch.momentum", torch.optim.SGD, {"momentum": 0.9}, {}),
    ("scratch.nesterov", torch.optim.SGD, {"momentum": 0.9}, {"nesterov": True}),
    ("scratch.adagrad", torch.optim.Adagrad, {"eps": 1e-6}, {}),
    ("scratch.rmsprop", torch.optim.RMSprop, {"alpha": 0.9}, {}),
    ("scratch.rmsprop", torch.optim.RMSprop, {"centered": True}, {}),
    ("scratch.adadelta", torch.optim.Adadelta, {"rho": 0.8}, {}),
    ("scratch.adam", torch.optim.Adam, {"betas": (0.8, 0.95)}, {}),
    ("scratch.adamw", torch.optim.AdamW, {"eps": 1e-6}, {}),
]


def walk(optimizer: Optimizer, weights: nn.Parameter, steps: int) -> Tensor:
    """Descend a noisy quartic bowl from the given start."""
    noise = torch.Generator().manual_seed(2)
    for _ in range(steps):
        weights.grad = 0.1 * weights.detach() ** 3 + 0.1 * torch.randn(weights.shape, generator=noise)
        optimizer.step()
    return weights.detach()


def start() -> nn.Parameter:
    return nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize(("name", "twin", "options", "torchs"), TWINS)
def test_agrees_with_torch_bit_for_bit_over_hundreds_of_steps(
    name: str, twin: type[Optimizer], options: dict[str, Any], torchs: dict[str, Any], weight_decay: float
) -> None:
    options = {**options, "lr": 0.013, "weight_decay": weight_decay}
    ours, theirs = start(), start()
    mine = walk(SCRATCH[name]([ours], **options), ours, 400)
    reference = twin([theirs], **options, **torchs, foreach=False)
    assert torch.equal(mine, walk(reference, theirs, 400))
    assert not torch.equal(mine, start())


def test_the_textbook_formula_rounds_twice_and_stays_close() -> None:
    plain, textbook = start(), start()
    once = walk(SGD([plain], lr=0.013), plain, 400)
    twice = walk(SGD([textbook], lr=0.013, textbook=True), textbook, 400)
    assert not torch.equal(once, twice)
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize(("inside", "divisor"), [(False, 2.0 + 0.5), (True, math.sqrt(4.0 + 0.5))])
def test_adagrad_adds_eps_where_it_is_told(inside: bool, divisor: float) -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    weight.grad = torch.tensor([2.0])
    Adagrad([weight], lr=0.1, eps=0.5, eps_inside_root=inside).step()
    assert weight.item() == pytest.approx(1.0 - 0.1 * 2.0 / divisor)


@pytest.mark.parametrize("name", ["scratch.adam", "scratch.adamw"])
def test_adams_first_step_is_the_learning_rate_whatever_the_gradient(name: str) -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1e-3, -1.0, 1e3])
    SCRATCH[name]([weight], lr=0.1).step()
    assert weight.tolist() == pytest.approx([-0.1, 0.1, -0.1], rel=1e-4)


@pytest.mark.parametrize("name", SCRATCH)
def test_a_parameter_without_gradient_stays_and_a_closure_gives_its_loss(name: str) -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SCRATCH[name]([used, unused], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (used**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert not torch.equal(used, torch.ones(2))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scratch.sgd", {"lr": -1.0}),
        ("scratch.sgd", {"lr": float("nan")}),
        ("scratch.momentum", {"momentum": 1.0}),
        ("scratch.rmsprop", {"alpha": -0.1}),
        ("scratch.adadelta", {"rho": 1.5}),
        ("scratch.adam", {"betas": (0.9, 1.0)}),
        ("scratch.adamw", {"weight_decay": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Invalid {next(iter(options))}"):
        SCRATCH[name]([nn.Parameter(torch.ones(1))], **options)
