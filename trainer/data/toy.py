"""Points in the plane, to draw what a classifier has learned: `two_moons` and `spiral`. No download."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainer.data.dataset import Dataset, Split, make_dataset
from trainer.seeding import generator

Samples = Annotated[int, Field(ge=2, le=10_000_000)]  # which need 1 GB of memory
Noise = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def two_moons(*, samples: Samples = 1000, noise: Noise = 0.15, points_seed: Seed = 0) -> Dataset:
    """Return points of two interleaved half circles, float32 [N, 2], 2 classes.

    Half circle 0 is (cos t, sin t), half circle 1 is (1 - cos t, 1/2 - sin t), with t uniform in [0, pi]. The
    two classes are equally frequent.

    Source: scikit-learn's `make_moons`.

    Args:
        samples: number of points to train, and of other points to test.
        noise: standard deviation of the noise that is added to both coordinates.
        points_seed: seed of the points; the same for all values of `seed`.
    """

    def points(labels: Tensor, random: torch.Generator) -> Tensor:
        t = math.pi * torch.rand(len(labels), generator=random, dtype=torch.float64)
        sign = 1.0 - 2.0 * labels
        return torch.stack([labels + sign * t.cos(), 0.5 * labels + sign * t.sin()], dim=1)

    return _dataset(points, ["upper", "lower"], samples, noise, points_seed)


def spiral(
    *,
    samples: Samples = 1000,
    classes: Annotated[int, Field(ge=2, le=1000)] = 3,
    turns: Annotated[float, Field(gt=0)] = 0.75,
    noise: Noise = 0.03,
    points_seed: Seed = 0,
) -> Dataset:
    """Return points of the arms of a spiral, float32 [N, 2], one class per arm.

    A point of arm k is r (cos a, sin a) with r uniform in [0, 1] and a = 2 pi (turns r + k / classes). The
    classes are equally frequent.

    Args:
        samples: number of points to train, and of other points to test.
        classes: number of arms.
        turns: how often an arm winds around the centre.
        noise: standard deviation of the noise that is added to both coordinates.
        points_seed: seed of the points; the same for all values of `seed`.
    """

    def points(labels: Tensor, random: torch.Generator) -> Tensor:
        r = torch.rand(len(labels), generator=random, dtype=torch.float64)
        angle = 2 * math.pi * (turns * r + labels / classes)
        return r[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    names = [f"arm {number}" for number in range(classes)]
    return _dataset(points, names, samples, noise, points_seed)


def _dataset(
    points: Callable[[Tensor, torch.Generator], Tensor],
    names: Sequence[str],
    samples: int,
    noise: float,
    seed: int,
) -> Dataset:
    """Return the data set of noisy points.

    Args:
        points: (labels, generator) -> float64 [N, 2], without noise.
        names: names of the classes.
        samples, noise, seed: see `two_moons`.
    """
    splits = []
    for number in range(2):
        random = generator("toy", seed, number)
        labels = torch.arange(samples) % len(names)
        exact = points(labels, random)
        moved = exact + noise * torch.randn(exact.shape, generator=random, dtype=torch.float64)
        splits.append(Split(moved.float(), labels))
    return make_dataset(splits[0], splits[1], names)
