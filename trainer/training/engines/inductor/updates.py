"""The updates of torch.optim as functions of tensors, so that a compiled step can include them.

The arithmetic is that of `SGD.step` and `Adam.step` (also used by AdamW). Their learning rates and other
numbers are 0-d tensors here, so one program serves all values; only options that change the operations are
constants of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

Group = Mapping[str, Any]
State = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Update:
    """How a program includes the update of an optimizer.

    Args:
        options: group -> the values of all options that the update depends on.
        numbers: group -> the options that are inputs of the program; the first is the learning rate.
        structure: group -> what is constant in the program: options that change its operations.
        state: group -> names of the state that the optimizer keeps for each parameter.
        apply: (parameters, gradients, state, numbers [0-d float64 each], group); updates parameters and state
            in place.
        direction: name of the state that gives the sign of the step, if a gradient of only rounding errors
            causes a full step of either sign (Adam); None if the step is proportional to the gradient.
    """

    options: Callable[[Group], tuple[Any, ...]]
    numbers: Callable[[Group], tuple[float, ...]]
    structure: Callable[[Group], tuple[bool, ...]]
    state: Callable[[Group], tuple[str, ...]]
    apply: Callable[[list[Tensor], list[Tensor], State, Sequence[Tensor], Group], None]
    direction: str | None


def update_of(optimizer: Optimizer) -> Update | None:
    """Return the update of an optimizer; None if it is not supported, so that the optimizer steps eagerly."""
    update = _UPDATES.get(type(optimizer))
    groups = optimizer.param_groups
    if update is None or any(group.get("differentiable") or group.get("capturable") for group in groups):
        return None
    if any(parameter.is_complex() for group in groups for parameter in group["params"]):
        return None
    # A tensor may be changed in place, which comparing options would not notice.
    numbers = [number for group in groups for number in update.numbers(group)]
    return None if any(isinstance(number, Tensor) for number in numbers) else update


def _sgd(
    parameters: list[Tensor], gradients: list[Tensor], state: State, numbers: Sequence[Tensor], group: Group
) -> None:
    lr, momentum, dampening, weight_decay = numbers
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, torch._foreach_mul(parameters, weight_decay)))
    if group["momentum"]:
        buffers = [*state["momentum_buffer"]]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, torch._foreach_mul(gradients, 1 - dampening))
        if group["nesterov"]:
            gradients = list(torch._foreach_add(gradients, torch._foreach_mul(buffers, momentum)))
        else:
            gradients = buffers
    torch._foreach_add_(parameters, torch._foreach_mul(gradients, -lr))


def _adam(
    parameters: list[Tensor], gradients: list[Tensor], state: State, numbers: Sequence[Tensor], group: Group
) -> None:
    """Update as torch's capturable Adam does, but with float64 step counts.

    In float32, the bias corrections drift from eager ones.
    """
    lr, beta1, beta2, eps, weight_decay = numbers
    for index, (parameter, own_gradient) in enumerate(zip(parameters, gradients, strict=True)):
        gradient = -own_gradient if group["maximize"] else own_gradient
        mean, square = state["exp_avg"][index], state["exp_avg_sq"][index]
        kept_step = state["step"][index]
        step = kept_step.double() + 1
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            parameter.mul_(1 - lr * weight_decay)
        elif group["weight_decay"]:
            gradient = gradient + parameter * weight_decay
        mean.add_((gradient - mean) * (1 - beta1))
        square.mul_(beta2).add_(gradient * (1 - beta2) * gradient)
        negative_size = -(lr / (1 - beta1**step))
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"][index]
            square = largest.copy_(torch.maximum(largest, square))
        scale = (1 - beta2**step).sqrt() * negative_size
        parameter.addcdiv_(mean, (square.sqrt() / scale).add_(eps / negative_size))
        kept_step.copy_(step)


def _sgd_structure(group: Group) -> tuple[bool, ...]:
    return group["nesterov"], group["maximize"], bool(group["momentum"]), bool(group["weight_decay"])


def _adam_structure(group: Group) -> tuple[bool, ...]:
    decoupled = group["decoupled_weight_decay"]
    return group["amsgrad"], group["maximize"], decoupled, bool(group["weight_decay"])


def _adam_numbers(group: Group) -> tuple[float, ...]:
    return group["lr"], *group["betas"], group["eps"], group["weight_decay"]


def _adam_state(group: Group) -> tuple[str, ...]:
    names = ("exp_avg", "exp_avg_sq", "step")
    return (*names, "max_exp_avg_sq") if group["amsgrad"] else names


_SGD = Update(
    options=itemgetter("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    numbers=itemgetter("lr", "momentum", "dampening", "weight_decay"),
    structure=_sgd_structure,
    state=lambda group: ("momentum_buffer",) if group["momentum"] else (),
    apply=_sgd,
    direction=None,
)
_ADAM = Update(
    options=itemgetter("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    numbers=_adam_numbers,
    structure=_adam_structure,
    state=_adam_state,
    apply=_adam,
    direction="exp_avg",
)
_UPDATES: dict[type[Optimizer], Update] = {SGD: _SGD, Adam: _ADAM, AdamW: _ADAM}
