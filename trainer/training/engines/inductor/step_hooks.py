"""What is called around an optimizer's own update, so that a compiled step does not leave it out.

Reads private names of torch.optim; only compiled runs import it.
"""

from __future__ import annotations

from inspect import isfunction
from typing import Any
from weakref import ref

from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def has_own_step(optimizer: Optimizer) -> bool:
    """Return whether the instance was given a `step` of its own, other than by torch's schedulers."""
    method: Any = vars(optimizer).get("step")
    if method is None:
        return False
    return not (_is_schedulers(method, optimizer) and method.__wrapped__ is type(optimizer).step)


def has_hooks(optimizer: Any) -> bool:
    """Return whether hooks wait for the optimizer's steps, or for those of all optimizers."""
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
