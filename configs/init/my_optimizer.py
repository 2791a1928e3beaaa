"""An optimizer to edit: Signum, the sign of a running mean of the gradients.

https://arxiv.org/abs/1802.04434
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MyOptimizer(torch.optim.Optimizer):
    """Signum: `m = momentum * m + (1 - momentum) * grad`, then `param = param - lr * sign(m)`.

    The arguments after `params` are the options of the optimizer in a config. They are listed by
    `optlab show optimizer my_optimizer.py:MyOptimizer`.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.003, momentum: float = 0.9) -> None:
        if lr < 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update all parameters once."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]  # saved in checkpoints
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(param)
                state["mean"].lerp_(param.grad, 1 - group["momentum"])
                param.sub_(state["mean"].sign(), alpha=group["lr"])
