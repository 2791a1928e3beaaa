"""Reject invalid combinations of optimizers and parameters before a run, with the reason.

Covers only cases in which torch fails late, silently or with an unclear message; `build` checks the ranges of
options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.config.models import StepMode
from trainer.errors import ConfigError, Problem
from trainer.optimizers.build import needs_closure
from trainer.optimizers.groups import Group

REFUSED: dict[str, str] = {
    "SparseAdam": "it requires sparse gradients, and the models here have dense ones; use Adam",
}
"""Optimizers of torch that are not supported, with the reason."""


def refuse(
    cls: type[Optimizer],
    options: Mapping[str, Any],
    groups: Sequence[Group],
    parameters: Mapping[str, Tensor],
    *,
    device_type: str,
) -> None:
    """Raise ConfigError with all reasons if an optimizer of torch or of this package cannot train these.

    Args:
        cls: class of the optimizer.
        options: its keyword arguments.
        groups: its parameter groups.
        parameters: the parameters that it owns, by full name.
        device_type: `cpu` or `cuda`.
    """
    problems: list[Problem] = []
    if cls.__name__ in REFUSED and cls is getattr(torch.optim, cls.__name__, None):
        problems.append(Problem(f"{cls.__name__} is not supported: {REFUSED[cls.__name__]}", "name"))
    if options.get("differentiable"):
        problems.append(
            Problem(
                "differentiable: true updates leaf parameters in place under autograd; torch forbids this",
                "differentiable",
                fix="leave it out; it is for differentiating through the optimizer (meta-learning)",
            )
        )
    if options.get("capturable") and device_type == "cpu":
        problems.append(
            Problem(
                "capturable: true is for CUDA graphs, and this run is on the CPU",
                "capturable",
                fix="leave it out, or train on a GPU",
            )
        )
    if issubclass(cls, torch.optim.Muon):
        problems += _muon(cls, parameters)
    if needs_closure(cls) and len(groups) > 1:
        problems.append(
            Problem(
                f"{cls.__name__} searches along one direction for all parameters and has no parameter groups",
                "groups",
                fix="leave out `groups`",
            )
        )
    if problems:
        raise ConfigError.of(problems)


def _muon(cls: type[Optimizer], parameters: Mapping[str, Tensor]) -> list[Problem]:
    others = [f"{name} {list(value.shape)}" for name, value in parameters.items() if value.ndim != 2]
    if not others:
        return []
    return [
        Problem(
            f"{cls.__name__} supports only matrices, and it would own {', '.join(others)}",
            "match",
            expected="parameters of exactly two dimensions",
            fix="make `optimizer` a list: [{name: Muon, match: {ndim: 2}, ...}, {name: AdamW, ...}]; "
            "the second, without a match, gets the rest",
        )
    ]


def refuse_mode(
    name: str,
    mode: StepMode,
    *,
    uses_scaler: bool = False,
    alone: bool = True,
    zero_grad: bool = True,
    reads_gradients: Sequence[str] = (),
) -> None:
    """Raise ConfigError with all reasons if a run cannot step an optimizer in a mode other than `plain`.

    Args:
        name: the name of the optimizer.
        mode: how it is stepped.
        uses_scaler: whether the loss is scaled (float16).
        alone: whether it is the only optimizer of the run.
        zero_grad: whether gradients are reset at every step.
        reads_gradients: the keys of the config that clip or log the gradients.
    """
    if mode == "plain":
        return
    differentiates = mode == "create_graph"
    does = "differentiates its gradients" if differentiates else "evaluates the loss several times per step"
    problems = []
    if uses_scaler:
        problems.append(
            Problem(
                f"{name} {does}; float16 does not support that",
                fix="set train.precision=float32 or bfloat16",
            )
        )
    if not alone and not differentiates:
        problems.append(
            Problem(
                f"{name} recomputes the loss within its step and must be the only optimizer",
                fix="assign all parameters to it, or use another optimizer",
            )
        )
    if differentiates and not zero_grad:
        problems.append(
            Problem(
                f"{name} {does}, and gradients that are never reset would keep the graphs of all steps",
                fix="set train.zero_grad=every_step",
            )
        )
    if mode == "loss_closure":
        problems += [
            Problem(f"{name} computes the gradients itself, so {key} does not apply", fix=f"remove {key}")
            for key in reads_gradients
        ]
    if problems:
        raise ConfigError.of(problems)
