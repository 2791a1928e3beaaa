"""Optimizers with a training mode and an evaluation mode, as schedule-free methods.

They train at other weights than those to evaluate: `optimizer.eval()` sets the weights to evaluate, and
`optimizer.train()` those to train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def has_modes(optimizer: object) -> bool:
    """Return whether an optimizer has the methods `train` and `eval`."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def train_mode(optimizers: Iterable[Optimizer]) -> None:
    """Set the optimizers that have modes to training mode."""
    for optimizer in optimizers:
        if has_modes(optimizer):
            _call(optimizer, "train")


@contextmanager
def evaluation_weights(optimizers: Iterable[Optimizer], parameters: Sequence[Tensor]) -> Iterator[None]:
    """Set the weights to those to evaluate for the block; does nothing for optimizers without modes.

    The weights for training are restored bit for bit, which `optimizer.train()` alone does only up to
    rounding, so the number of evaluations does not change a run.

    Args:
        optimizers: the optimizers of the model.
        parameters: all parameters of the model.
    """
    # Before its first step, an optimizer has no other weights, and some fail if they are asked for them.
    with_modes = [optimizer for optimizer in optimizers if has_modes(optimizer) and optimizer.state]
    if not with_modes:
        yield
        return
    former = [parameter.detach().clone() for parameter in parameters]
    for optimizer in with_modes:
        _call(optimizer, "eval")
    try:
        yield
    finally:
        for optimizer in with_modes:
            _call(optimizer, "train")
        with torch.no_grad():
            for parameter, value in zip(parameters, former, strict=True):
                parameter.copy_(value)


def _call(optimizer: Any, name: str) -> None:
    getattr(optimizer, name)()
