"""The points of `two_moons` and `spiral`: their curves, classes and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from trainer.data.dataset import Dataset
from trainer.data.toy import spiral, two_moons


def test_moons_without_noise_are_the_half_circles() -> None:
    data = two_moons(samples=101, noise=0)
    x, labels = data.train.inputs, data.train.targets
    assert torch.bincount(labels).tolist() == [51, 50]
    upper, lower = x[labels == 0], x[labels == 1]
    assert torch.allclose(upper.norm(dim=1), torch.ones(51))
    assert (upper[:, 1] >= -1e-6).all()
    assert torch.allclose((lower - torch.tensor([1.0, 0.5])).norm(dim=1), torch.ones(50))
    assert (lower[:, 1] <= 0.5 + 1e-6).all()


def test_arms_of_a_spiral_start_at_the_centre_at_equal_angles() -> None:
    data = spiral(samples=400, classes=4, turns=2, noise=0)
    x, labels = data.train.inputs.double(), data.train.targets
    assert torch.bincount(labels).tolist() == [100] * 4
    r, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    expected = 2 * math.pi * (2 * r + labels / 4)
    assert torch.allclose(torch.cos(angle - expected), torch.ones(400, dtype=torch.float64), atol=1e-5)
    assert 0 <= float(r.min()) < 0.05 < 0.95 < float(r.max()) <= 1


@pytest.mark.parametrize("generate", [two_moons, spiral])
def test_points_depend_on_their_seed_alone(generate: Callable[..., Dataset]) -> None:
    one, same, other = generate(), generate(), generate(points_seed=1)
    assert one.digest == same.digest != other.digest
    assert not torch.equal(one.train.inputs, one.test.inputs)
    noisy = generate(noise=0.5)
    assert torch.equal(noisy.train.targets, one.train.targets)
    assert noisy.digest != one.digest
