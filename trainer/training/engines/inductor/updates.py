"""The updates of torch.optim as functions of tensors, so that a compiled step can include them.

The arithmetic is torch's: these call the functions behind `SGD.step` and `Adam.step` (also used by AdamW). In
a compile session, torch accepts learning rates and step counts as tensors without reading their values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Group = Mapping[str, Any]
State = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Update:
    """How a program includes the update of an optimizer.

    Args:
        options: names of the group options that are constants of the program.
        state: group -> names of the state that the optimizer keeps for each parameter.
        apply: (parameters, gradients, state, lr [0-d float64], group); updates parameters and state in place.
        direction: name of the state that gives the sign of the step, if a gradient of only rounding errors
            causes a full step of either sign (Adam); None if the step is proportional to the gradient.
    """

    options: tuple[str, ...]
    state: Callable[[Group], tuple[str, ...]]
    apply: Callable[[list[Tensor], list[Tensor], State, Tensor, Group], None]
    direction: str | None


def update_of(optimizer: Optimizer) -> Update | None:
    """Return the update of an optimizer; None if it is not supported, so that the optimizer steps eagerly."""
    groups = optimizer.param_groups
    special = any(group.get("differentiable") or group.get("capturable") for group in groups)
    return None if special else _UPDATES.get(type(optimizer))


def _sgd(parameters: list[Tensor], gradients: list[Tensor], state: State, lr: Tensor, group: Group) -> None:
    buffers: list[Tensor | None] = [*state.get("momentum_buffer", [None] * len(parameters))]
    options = {name: group[name] for name in _SGD.options}
    sgd(parameters, gradients, buffers, foreach=True, fused=False, lr=lr, **options)


def _adam(parameters: list[Tensor], gradients: list[Tensor], state: State, lr: Tensor, group: Group) -> None:
    """Call torch's Adam with float64 step counts: in float32, the bias corrections drift from eager ones."""
    steps = [step.double() for step in state["step"]]
    beta1, beta2 = group["betas"]
    adam(
        parameters,
        gradients,
        [*state["exp_avg"]],
        [*state["exp_avg_sq"]],
        [*state.get("max_exp_avg_sq", [])],
        steps,
        foreach=False,
        fused=False,
        capturable=True,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        **{name: group[name] for name in _ADAM.options if name != "betas"},
    )
    for kept, step in zip(state["step"], steps, strict=True):
        kept.copy_(step)


def _adam_state(group: Group) -> tuple[str, ...]:
    names = ("exp_avg", "exp_avg_sq", "step")
    return (*names, "max_exp_avg_sq") if group["amsgrad"] else names


_SGD = Update(
    options=("weight_decay", "momentum", "dampening", "nesterov", "maximize"),
    state=lambda group: ("momentum_buffer",) if group["momentum"] else (),
    apply=_sgd,
    direction=None,
)
_ADAM = Update(
    options=("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    state=_adam_state,
    apply=_adam,
    direction="exp_avg",
)
_UPDATES: dict[type[Optimizer], Update] = {SGD: _SGD, Adam: _ADAM, AdamW: _ADAM}
