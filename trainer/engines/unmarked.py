"""`optimizer.step()` and `zero_grad()` without the marks that torch sets around them for its profiler.

The marks take 40 and 20 us, profiler or not: together a sixth of a small network's step. Where the profiler
runs, a hook is registered or an optimizer has a step of its own, torch's methods are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import Any
from weakref import ref

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

_profiler: Any = torch.autograd.profiler  # it has no types
_MARKED = Optimizer.profile_hook_step(Optimizer.step).__code__
_ZERO_GRAD = Optimizer.zero_grad


def step(optimizer: Any) -> None:
    """Do what `optimizer.step()` does."""
    unmarked = unmarked_step(optimizer)
    if unmarked is None or has_hooks(optimizer) or _profiler._is_profiler_enabled:
        optimizer.step()
        return
    optimizer._opt_called = True  # torch's schedulers look whether there was a step
    unmarked(optimizer)


def zero_grad(optimizer: Optimizer) -> None:
    """Do what `optimizer.zero_grad()` does."""
    method = getattr(optimizer.zero_grad, "__func__", None)
    if method is not _ZERO_GRAD or _profiler._is_profiler_enabled:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def unmarked_step(optimizer: Optimizer) -> Callable[[Optimizer], object] | None:
    """Return the step that the optimizer's class defines; None where more than the mark lies before it."""
    method: Any = vars(optimizer).get("step")
    if method is None:
        method = type(optimizer).step
    elif _is_schedulers(method, optimizer):
        method = method.__wrapped__
    is_marked = isfunction(method) and method.__code__ is _MARKED
    return getattr(method, "__wrapped__", None) if is_marked else None


def has_hooks(optimizer: Any) -> bool:
    """Return whether someone waits for the optimizer's steps, or for those of all."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _is_schedulers(method: Any, optimizer: Optimizer) -> bool:
    """Whether torch's schedulers have put the method there, which notes a step and takes it."""
    if not isfunction(method) or method.__code__.co_filename != lr_scheduler.__file__:
        return False
    kept = [cell.cell_contents for cell in method.__closure__ or ()]
    return any(isinstance(one, ref) and one() is optimizer for one in kept)
