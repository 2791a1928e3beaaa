"""`optimizer.step()` and `zero_grad()` without the marks that torch sets around them for its profiler.

The marks take 40 and 20 us, profiler or not: together a sixth of a small network's step. Where a profiler
runs, a hook waits or an optimizer has ways of its own, torch's methods are called as they are.
"""

from __future__ import annotations

from inspect import isfunction
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

_profiler: Any = torch.autograd.profiler  # it has no types
_MARKED = Optimizer.profile_hook_step(Optimizer.step).__code__


def step(optimizer: Any) -> None:
    """Do what `optimizer.step()` does."""
    method: Any = vars(optimizer).get("step", type(optimizer).step)
    if hasattr(method, "_wrapped_by_lr_sched"):  # torch's schedulers have put it there, to note this:
        optimizer._opt_called = True
        method = method.__wrapped__
    if isfunction(method) and method.__code__ is _MARKED and not _is_watched(optimizer):
        cast(Any, method).__wrapped__(optimizer)
    else:
        optimizer.step()


def zero_grad(optimizer: Optimizer) -> None:
    """Do what `optimizer.zero_grad()` does."""
    method = getattr(optimizer.zero_grad, "__func__", None)
    if method is not Optimizer.zero_grad or _profiler._is_profiler_enabled:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def has_hooks(optimizer: Any) -> bool:
    """Return whether someone waits for the optimizer's steps, or for those of all."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _is_watched(optimizer: Any) -> bool:
    return has_hooks(optimizer) or _profiler._is_profiler_enabled
