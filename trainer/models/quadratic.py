"""A quadratic objective of noise, with a chosen spectrum and a known minimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.seeding import generator


class _Quadratic(nn.Module):
    """(theta - x)^T Q (theta - x) / 2 minus its value at theta = 0, [N, 1], for x [N, D]."""

    hessian: Tensor

    def __init__(self, hessian: Tensor, start: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((len(hessian),), start))
        self.register_buffer("hessian", hessian, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # The term x^T Q x / 2 does not depend on theta; without it, no digits are lost near the minimum.
        return ((self.theta / 2 - x) @ (self.hessian @ self.theta)).unsqueeze(1)


def quadratic(
    input_shape: tuple[int, ...],
    *,
    eigenvalues: Sequence[Annotated[float, Field(ge=0)]] | None = None,
    rotate: bool = True,
    start: float = 1.0,
    problem_seed: Annotated[int, Field(ge=0)] = 0,
) -> nn.Module:
    """Return the objective f(theta) = mean over x of (theta - x)^T Q (theta - x) / 2, minus its minimum.

    Over a whole split of the data set `quadratic`, in which x has mean 0, the loss is theta^T Q theta / 2:
    the minimum is 0, at theta = 0. The gradient over a batch is Q (theta - mean of x). The default is the
    problem `quadratic_deep` of DeepOBS, with other random numbers.

    Source: Schneider et al. 2019, "DeepOBS: A Deep Learning Optimizer Benchmark Suite".

    Args:
        input_shape: (D,), the number of parameters.
        eigenvalues: the D eigenvalues of Q; null = a tenth of them uniform in [30, 60], the others in [0, 1].
        rotate: rotate the eigenvectors of Q at random; false = they are the axes.
        start: initial value of all D parameters.
        problem_seed: seed of the eigenvalues and the rotation; the same for all values of `seed`.
    """
    if len(input_shape) != 1:
        raise ConfigError(
            f"quadratic needs vectors, but the samples have shape {list(input_shape)}",
            key="name",
            expected="vectors [D], as those of the data set quadratic",
        )
    dim = input_shape[0]
    stream = generator("quadratic/problem", problem_seed)
    if eigenvalues is None:
        drawn = torch.rand(dim, generator=stream, dtype=torch.float64)
        large = round(0.1 * dim)
        drawn[dim - large :] = 30 + 30 * drawn[dim - large :]
    elif len(eigenvalues) != dim:
        raise ConfigError(
            f"there are {len(eigenvalues)} eigenvalues for {dim} parameters",
            key="eigenvalues",
            expected=f"{dim} numbers",
        )
    else:
        drawn = torch.tensor(eigenvalues, dtype=torch.float64)
    hessian = torch.diag(drawn)
    if rotate:
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=stream, dtype=torch.float64))
        hessian = q @ hessian @ q.T
    return _Quadratic(hessian.float(), start)
