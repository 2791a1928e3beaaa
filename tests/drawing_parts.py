"""A user's model, optimizer and augmentation that draw from every global random generator."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_numpy: Any = numpy.random  # its global generator


def draw() -> float:
    """Return a sum of numbers from Python's, numpy's and torch's global generators."""
    return random.gauss(0, 1) + float(_numpy.standard_normal()) + float(torch.randn(()))


AT_IMPORT = draw()


class Model(nn.Module):
    """Draws in its constructor and in every forward pass."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.scale = 1 + 0.1 * draw() + 0.1 * AT_IMPORT
        self.layer = nn.Linear(int(numpy.prod(input_shape)), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layer(images.flatten(1)) * (self.scale + 0.1 * draw())
        return outputs


class Optimizer(torch.optim.SGD):
    """Draws in its constructor and in every step."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr * (1 + 0.1 * draw()))

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(1e-3 * draw())


class Augmentation:
    """Draws in its constructor and for every batch."""

    def __init__(self) -> None:
        self.amount = 0.01 * draw()

    def check(self, split: Any, *, key: str) -> None:
        pass

    def draw(self, count: int, shape: Any, generator: torch.Generator) -> dict[str, Tensor]:
        return {"shift": torch.full((count, 1, 1, 1), self.amount + 0.01 * draw())}

    def apply(self, images: Tensor, targets: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return images + params["shift"], targets
