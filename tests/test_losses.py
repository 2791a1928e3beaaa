"""Every loss agrees with torch and with finite differences, and rejects invalid targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer import losses
from trainer.errors import ConfigError
from trainer.losses import Loss, penalty

CLASSES = torch.tensor([2, 0, 1, 2])


def outputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).to(dtype)


def probabilities(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).softmax(1).to(dtype)


def one_hot(dtype: torch.dtype = torch.float32) -> Tensor:
    return functional.one_hot(CLASSES, 3).to(dtype)


ALL: dict[str, Loss] = {
    "cross_entropy": losses.cross_entropy(),
    "cross_entropy smoothed": losses.cross_entropy(label_smoothing=0.2),
    "cross_entropy weighted": losses.cross_entropy(class_weights=[0.5, 1.0, 3.0], label_smoothing=0.1),
    "nll": losses.nll(),
    "mse": losses.mse(),
    "l1": losses.l1(),
    "huber": losses.huber(delta=0.5),
    "bce_with_logits": losses.bce_with_logits(),
    "bce_with_logits summed": losses.bce_with_logits(reduction="sum_outputs"),
    "multi_margin": losses.multi_margin(),
    "multi_margin squared": losses.multi_margin(p=2, margin=0.5),
}
TAKE_REAL = [name for name in ALL if not name.startswith(("nll", "multi_margin"))]
REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": torch.nn.CrossEntropyLoss(),
    "cross_entropy smoothed": torch.nn.CrossEntropyLoss(label_smoothing=0.2),
    "cross_entropy weighted": lambda out, tgt: torch.nn.CrossEntropyLoss(
        torch.tensor([0.5, 1.0, 3.0]), label_smoothing=0.1, reduction="none"
    )(out, tgt).mean(),
    "nll": lambda out, tgt: torch.nn.NLLLoss()(out.log_softmax(1), tgt),
    "mse": lambda out, tgt: torch.nn.MSELoss()(out, functional.one_hot(tgt, 3).float()),
    "l1": lambda out, tgt: torch.nn.L1Loss()(out, functional.one_hot(tgt, 3).float()),
    "huber": lambda out, tgt: torch.nn.HuberLoss(delta=0.5)(out, functional.one_hot(tgt, 3).float()),
    "bce_with_logits": lambda out, tgt: torch.nn.BCEWithLogitsLoss()(out, functional.one_hot(tgt, 3).float()),
    "bce_with_logits summed": lambda out, tgt: (
        torch.nn.BCEWithLogitsLoss(reduction="none")(out, functional.one_hot(tgt, 3).float()).sum(1).mean()
    ),
    "multi_margin": torch.nn.MultiMarginLoss(),
    "multi_margin squared": torch.nn.MultiMarginLoss(p=2, margin=0.5),
}


@pytest.mark.parametrize("name", ALL)
def test_class_targets_give_torchs_value(name: str) -> None:
    torch.testing.assert_close(ALL[name](outputs(), CLASSES), REFERENCES[name](outputs(), CLASSES))


@pytest.mark.parametrize("name", TAKE_REAL)
def test_one_hot_probabilities_equal_class_targets(name: str) -> None:
    torch.testing.assert_close(ALL[name](outputs(), one_hot()), ALL[name](outputs(), CLASSES))


@pytest.mark.parametrize("name", TAKE_REAL)
def test_mixed_targets_are_not_rounded_to_a_class(name: str) -> None:
    mixed = 0.5 * one_hot() + 0.5 * one_hot().roll(1, dims=0)
    assert not torch.allclose(ALL[name](outputs(), mixed), ALL[name](outputs(), CLASSES))


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "classes") for name in ALL] + [(name, "probabilities") for name in TAKE_REAL]
)
def test_gradient_agrees_with_finite_differences(name: str, kind: str) -> None:
    targets = CLASSES if kind == "classes" else probabilities(torch.float64)
    at = outputs(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda out: ALL[name](out, targets), (at,))


@pytest.mark.parametrize("name", ALL)
def test_the_value_is_a_mean_over_the_batch(name: str) -> None:
    once, twice = outputs(), outputs().repeat(2, 1)
    torch.testing.assert_close(ALL[name](once, CLASSES), ALL[name](twice, CLASSES.repeat(2)))
    assert ALL[name](once, CLASSES).shape == ()


def test_closed_forms() -> None:
    zero, target = torch.zeros(2, 3), torch.tensor([0, 1])
    assert losses.cross_entropy()(zero, target).item() == pytest.approx(math.log(3))
    assert losses.nll()(zero, target).item() == pytest.approx(math.log(3))
    assert losses.mse()(zero, target).item() == pytest.approx(1 / 3)
    assert losses.l1()(zero, target).item() == pytest.approx(1 / 3)
    assert losses.huber(delta=0.5)(zero, target).item() == pytest.approx(0.5 * (1 - 0.25) / 3)
    assert losses.bce_with_logits()(zero, target).item() == pytest.approx(math.log(2))
    assert losses.bce_with_logits(reduction="sum_outputs")(zero, target).item() == pytest.approx(
        3 * math.log(2)
    )
    assert losses.multi_margin(margin=2.0)(zero, target).item() == pytest.approx(2 * 2 / 3)
    assert losses.multi_margin(p=2, margin=2.0)(zero, target).item() == pytest.approx(2 * 4 / 3)


def test_nll_is_cross_entropy_of_logits() -> None:
    torch.testing.assert_close(losses.nll()(outputs(), CLASSES), losses.cross_entropy()(outputs(), CLASSES))


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "bce_with_logits"])
def test_real_targets_of_one_output(name: str) -> None:
    out, tgt = outputs()[:, :1], torch.tensor([0.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(ALL[name](out, tgt), ALL[name](out, tgt.unsqueeze(1)))
    assert ALL["mse"](out, tgt).item() == pytest.approx((out[:, 0] - tgt).square().mean().item())


@pytest.mark.parametrize("name", [name for name in ALL if name not in TAKE_REAL])
def test_losses_of_classes_refuse_real_targets(name: str) -> None:
    with pytest.raises(ConfigError, match="takes class targets"):
        ALL[name](outputs(), probabilities())


@pytest.mark.parametrize("name", TAKE_REAL)
def test_targets_of_another_width_are_refused_not_broadcast(name: str) -> None:
    with pytest.raises(ConfigError, match="do not match"):
        ALL[name](outputs(), torch.zeros(4, 1))


def test_penalty_is_l1_and_half_l2() -> None:
    weights = [torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
    assert penalty(weights, l1=0.5).item() == pytest.approx(3.0)
    assert penalty(weights, l2=0.5).item() == pytest.approx(0.25 * 14)
    total = penalty(weights, l1=0.1, l2=0.5)
    assert total.item() == pytest.approx(0.6 + 3.5)
    torch.autograd.backward(total)
    gradient = weights[0].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor([[0.6, -1.1]]))


def test_l2_penalty_equals_weight_decay_of_sgd() -> None:
    start = torch.tensor([1.0, -2.0])
    penalised, decayed = start.clone().requires_grad_(), start.clone().requires_grad_()
    torch.autograd.backward(penalty([penalised], l2=0.3))
    torch.optim.SGD([penalised], lr=0.1).step()
    decayed.grad = torch.zeros(2)
    torch.optim.SGD([decayed], lr=0.1, weight_decay=0.3).step()
    torch.testing.assert_close(penalised, decayed)
