"""A built schedule as the loop uses it, and its state as plain values."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, SequentialLR


def learning_rate(group: Mapping[str, Any]) -> float | None:
    """Return a parameter group's learning rate; None where it has none, as a user's optimizer may."""
    rate = group.get("lr")
    if isinstance(rate, Tensor):
        return rate.item() if rate.numel() == 1 and not rate.is_complex() else None
    return float(rate) if isinstance(rate, int | float) else None


class Schedule:
    """The schedule of one optimizer, as the loop uses it.

    Args:
        scheduler: torch's (or ours, or a list in one).
        interval: what `step` counts: the loop calls it after every `epoch` or every `step`.
        monitor: the metric to `observe` after every evaluation; None = it follows no metric.
    """

    def __init__(
        self, scheduler: LRScheduler, interval: Literal["epoch", "step"], monitor: str | None = None
    ) -> None:
        self.interval = interval
        self.monitor = monitor
        self._scheduler = scheduler
        self._stepped = False

    def step(self) -> None:
        """Go on to the next interval (nothing to do where a metric decides)."""
        if self.monitor is not None:
            return
        if self._stepped:
            self._scheduler.step()
            return
        # torch looks once whether optimizer.step() came first, and is misled by a compiled step, or by a
        # gradient scaler that left out the first update. The loop keeps the order.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._scheduler.step()
        self._stepped = True

    def observe(self, metric: float) -> None:
        """Tell the metric of an evaluation to a schedule that follows one."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(metric)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes during a run: plain values only, functions and weak references left out."""
        return _state(self._scheduler)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, in a schedule built from the same specs.

        Load the optimizer's state as well: its groups hold the learning rates of this moment.
        """
        _load(self._scheduler, state)


class Chain(SequentialLR):
    """SequentialLR whose parts all start from the optimizer's learning rate.

    torch restarts those with a closed form there, but lets MultiplicativeLR (and a user's own without one) go
    on from wherever its predecessor stood: after warm-up, from below the learning rate.
    """

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next interval (`epoch` is torch's deprecated argument, not for use)."""
        at = self.last_epoch + 1
        if at not in self._milestones:
            super().step()
            return
        part = self._schedulers[self._milestones.index(at) + 1]
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        part._is_initial = True
        super().step()
        part._is_initial = False


def _parts(scheduler: LRScheduler) -> list[LRScheduler]:
    return list(scheduler._schedulers) if isinstance(scheduler, SequentialLR) else []


def _state(scheduler: LRScheduler) -> dict[str, Any]:
    """Return torch's state dict without what is not plain: that is made again from the config."""
    state = scheduler.state_dict().items()
    plain = {name: copy.deepcopy(value) for name, value in state if _is_plain(value)}
    if parts := _parts(scheduler):
        plain["_schedulers"] = [_state(part) for part in parts]
    return plain


def _load(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Load what `_state` kept over what the fresh schedule has (copied: torch keeps what it is given)."""
    parts = _parts(scheduler)
    saved = {name: copy.deepcopy(value) for name, value in state.items() if name != "_schedulers"}
    scheduler.load_state_dict(scheduler.state_dict() | saved)
    for part, part_state in zip(parts, state.get("_schedulers", []), strict=True):
        _load(part, part_state)


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
