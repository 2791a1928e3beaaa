"""Samples of noise, for objectives whose minimum is known."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainer.data.dataset import Dataset, Split, make_dataset
from trainer.seeding import generator


def quadratic(
    *,
    dim: Annotated[int, Field(ge=1)] = 100,
    noise: Annotated[float, Field(ge=0)] = 0.6,
    samples: Annotated[int, Field(ge=1)] = 1000,
    noise_seed: Annotated[int, Field(ge=0)] = 0,
) -> Dataset:
    """Return the noise of a quadratic objective: normal x, float32 [N, dim]; for the model `quadratic`.

    The mean of x is 0 in each of the training, validation and test splits, so that the minimum of the
    objective over a whole split is known exactly; see `models.quadratic`. The targets are this minimum, 0.

    Source: Schneider et al. 2019, "DeepOBS: A Deep Learning Optimizer Benchmark Suite".

    Args:
        dim: number of parameters of the objective, from 1.
        noise: standard deviation of x.
        samples: number of samples of each split.
        noise_seed: seed of x; the same for all values of `seed`.
    """
    splits = []
    for number in range(3):
        stream = generator("quadratic/noise", noise_seed, number)
        x = noise * torch.randn(samples, dim, generator=stream, dtype=torch.float64)
        splits.append(Split((x - x.mean(0)).float(), torch.zeros(samples, 1)))
    return make_dataset(splits[0], splits[2], None, val=splits[1], task="objective")
