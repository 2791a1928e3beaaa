"""Detect hooks and replaced `step` methods of optimizers, which a compiled step would not call.

Uses private names of torch.optim; only the compiled engine imports this module.
"""

from __future__ import annotations

from inspect import isfunction
from typing import Any
from weakref import ref

from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def has_own_step(optimizer: Optimizer) -> bool:
    """Return whether the `step` of the instance was replaced, other than by torch's schedulers."""
    method: Any = vars(optimizer).get("step")
    if method is None:
        return False
    return not (_is_schedulers(method, optimizer) and method.__wrapped__ is type(optimizer).step)


def has_hooks(optimizer: Any) -> bool:
    """Return whether step hooks are registered for the optimizer or for all optimizers."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _is_schedulers(method: Any, optimizer: Optimizer) -> bool:
    """Return whether the method is the wrapper that torch's schedulers install to count steps."""
    if not isfunction(method) or method.__code__.co_filename != lr_scheduler.__file__:
        return False
    kept = [cell.cell_contents for cell in method.__closure__ or ()]
    return any(isinstance(one, ref) and one() is optimizer for one in kept)
