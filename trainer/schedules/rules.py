"""The available schedules by name: those that torch exports and two defined here."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from trainer.errors import ConfigError


class InverseTime(LRScheduler):
    """Inverse-time decay: lr_t = lr_0 / (1 + decay * t), where t counts intervals.

    Args:
        optimizer: the optimizer to schedule.
        decay: decay per interval, at least 0.

    Example:
        >>> schedule = InverseTime(optimizer, decay=0.01)

    Robbins and Monro, A Stochastic Approximation Method, 1951.
    """

    def __init__(self, optimizer: Optimizer, *, decay: float) -> None:
        if not decay >= 0:
            raise ConfigError(f"decay is {decay}", key="decay", expected="at least 0")
        self.decay = decay
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group at this interval."""
        return [lr / (1 + self.decay * self.last_epoch) for lr in self.base_lrs]


class Piecewise(LRScheduler):
    """Piecewise constant learning rates from a table.

    Args:
        optimizer: the optimizer to schedule; its groups must have the same lr, since the table is absolute.
        table: interval (from 0) -> learning rate from this interval on. Before the first entry, the
            optimizer's own learning rate is used.

    Example:
        >>> schedule = Piecewise(optimizer, table={0: 0.1, 20: 0.01})
    """

    def __init__(self, optimizer: Optimizer, *, table: dict[int, float]) -> None:
        for start, lr in table.items():
            if start < 0 or not (lr >= 0 and math.isfinite(lr)):
                raise ConfigError(
                    f"the table has the entry {start}: {lr}",
                    key="table",
                    expected="intervals of at least 0 and finite learning rates of at least 0",
                )
        if not table:
            raise ConfigError("the table is empty", key="table", expected="such as {0: 0.1, 20: 0.01}")
        self.table = dict(sorted(table.items()))
        super().__init__(optimizer)
        if len(set(self.base_lrs)) > 1:
            raise ConfigError(
                f"the parameter groups have different learning rates, {self.base_lrs}, "
                "and a table of absolute values would override them",
                key="table",
                fix="leave out the groups' lr, or use a schedule with relative factors, such as MultiStepLR",
            )

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group at this interval."""
        reached = [lr for start, lr in self.table.items() if start <= self.last_epoch]
        return [reached[-1]] * len(self.base_lrs) if reached else list(self.base_lrs)


def torch_schedulers() -> dict[str, type[LRScheduler]]:
    """Return all schedules of torch.optim.lr_scheduler by name, except those that combine schedules."""
    return {
        name: getattr(torch_schedules, name)
        for name in sorted(torch_schedules.__all__)
        if name not in ("LRScheduler", "SequentialLR", "ChainedScheduler")
    }


OWN_SCHEDULERS: dict[str, type[LRScheduler]] = {"inverse_time": InverseTime, "piecewise": Piecewise}
"""The schedules defined here, by config name."""

SCHEDULES: dict[str, type[LRScheduler]] = {**torch_schedulers(), **OWN_SCHEDULERS}
"""All schedules by config name."""
