"""Snapshots of what a step changes, to undo the steps of a check."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.seeding import random_state, set_random_state


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the state of a model, its gradients, its optimizers and the random generators.

    Attributes:
        values: parameters and buffers by name.
        gradients: gradients of the trainable parameters.
        optimizers: the state of each optimizer, and the options of its groups.
        random: the state of the random generators.
    """

    values: dict[str, Tensor]
    gradients: list[Tensor | None]
    optimizers: list[tuple[dict[Any, Any], list[dict[str, Any]]]]
    random: Mapping[str, Any]

    @classmethod
    def of(
        cls, values: Mapping[str, Tensor], parameters: Sequence[Tensor], optimizers: Sequence[Optimizer]
    ) -> Snapshot:
        """Copy the current state.

        Args:
            values: parameters and buffers of the model by name.
            parameters: its trainable parameters.
            optimizers: the optimizers.
        """
        return cls(
            {name: value.detach().clone() for name, value in values.items()},
            [_clone(parameter.grad) for parameter in parameters],
            [_optimizer_state(optimizer) for optimizer in optimizers],
            random_state(),
        )

    def restore(
        self,
        model: nn.Module,
        values: Mapping[str, Tensor],
        parameters: Sequence[Tensor],
        optimizers: Sequence[Optimizer],
    ) -> None:
        """Restore the state of the same objects, and set these parameters and buffers as the model's."""
        with torch.no_grad():
            for name, value in self.values.items():
                values[name].copy_(value)
        for name, value in values.items():  # a model or a failed trace may have replaced them
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, value)
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = _clone(gradient)
        for optimizer, (state, options) in zip(optimizers, self.optimizers, strict=True):
            optimizer.state.clear()
            optimizer.state.update({p: copy.deepcopy(values) for p, values in state.items()})
            for group, former in zip(optimizer.param_groups, options, strict=True):
                for key in group.keys() - former.keys() - {"params"}:
                    del group[key]
                group.update(copy.deepcopy(former))
        set_random_state(self.random)


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    state = {parameter: copy.deepcopy(values) for parameter, values in optimizer.state.items()}
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return state, groups


def _clone(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()
