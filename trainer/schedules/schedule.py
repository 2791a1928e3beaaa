"""The schedule of an optimizer as the training loop uses it, with its state as plain values."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, SequentialLR


def learning_rate(group: Mapping[str, Any]) -> float | None:
    """Return the learning rate of a parameter group; None if it has none, as in a user's optimizer."""
    rate = group.get("lr")
    if isinstance(rate, Tensor):
        return rate.item() if rate.numel() == 1 and not rate.is_complex() else None
    return float(rate) if isinstance(rate, int | float) else None


def cycled_options(optimizer: Optimizer) -> list[str]:
    """Return the options besides the learning rate that OneCycleLR or CyclicLR changes in the groups."""
    group = optimizer.param_groups[0]
    if "base_momentum" not in group:
        return []
    return ["betas.0" if "betas" in group else "momentum"]


_METRICS = ("metric", "metrics")


class Adapter:
    """Gives a schedule that is no LRScheduler the methods of one.

    Its `step` (or `step_update`, if it counts steps) is called without arguments, or with the number of
    completed intervals if it requires one. It may lack `state_dict`; then its attributes are its state.

    Args:
        scheduler: an object with the method `step`.
        optimizer: the optimizer that it schedules.
        interval: what it counts.
    """

    def __init__(self, scheduler: Any, optimizer: Optimizer, interval: Literal["epoch", "step"]) -> None:
        self.optimizer = optimizer
        self._scheduler = scheduler
        self._count = 0
        by_update = interval == "step" and callable(getattr(scheduler, "step_update", None))
        self._method = scheduler.step_update if by_update else scheduler.step
        required = [p for p in inspect.signature(self._method).parameters.values() if p.default is p.empty]
        named = [p.name for p in required if p.kind is not p.VAR_POSITIONAL]
        self._takes_count = bool(named) and named[0] not in _METRICS

    def step(self, metric: float | None = None) -> None:
        """Advance to the next interval, or pass a metric to a schedule that follows one."""
        self._count += 1
        count = [self._count] * self._takes_count
        if metric is None:
            self._method(*count)
            return
        known = inspect.signature(self._method).parameters
        self._method(*count, **{next(name for name in _METRICS if name in known): metric})

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the number of intervals and the schedule's own."""
        return {"count": self._count, "state": dict(self._state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`, whose values that are not plain may be missing."""
        self._count = state["count"]
        if callable(getattr(self._scheduler, "load_state_dict", None)):
            self._scheduler.load_state_dict({**self._state(), **state["state"]})
        else:
            vars(self._scheduler).update(state["state"])

    def _state(self) -> Mapping[str, Any]:
        has_state_dict = callable(getattr(self._scheduler, "state_dict", None))
        state: Mapping[str, Any] = self._scheduler.state_dict() if has_state_dict else vars(self._scheduler)
        return state


def make_rates_plain(optimizer: Optimizer) -> None:
    """Convert learning rates that a schedule computed with NumPy to numbers that a checkpoint can save."""
    for group in optimizer.param_groups:
        if isinstance(group.get("lr"), numpy.generic):
            group["lr"] = float(group["lr"])


class Schedule:
    """The schedule of one optimizer, as the training loop uses it.

    Args:
        scheduler: the underlying scheduler.
        interval: when the loop calls `step`: after every `epoch` or every `step`.
        monitor: metric that the loop passes to `observe` after each evaluation; None = no metric.
        derived: options that are derived from the length of the run and are not in the schedule's state.
    """

    def __init__(
        self,
        scheduler: LRScheduler | Adapter,
        interval: Literal["epoch", "step"],
        monitor: str | None = None,
        derived: Mapping[str, int] | None = None,
    ) -> None:
        self.interval = interval
        self.monitor = monitor
        self.derived = derived or {}
        self._scheduler = scheduler
        self._stepped = False
        make_rates_plain(scheduler.optimizer)

    def step(self) -> None:
        """Advance to the next interval. Does nothing if the schedule follows a metric."""
        if self.monitor is not None:
            return
        if self._stepped:
            self._scheduler.step()
            make_rates_plain(self._scheduler.optimizer)
            return
        # On the first call, torch warns if optimizer.step() was not called before. That is wrong after a
        # compiled step, or if a gradient scaler skipped the first update; the loop keeps the order.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._scheduler.step()
        make_rates_plain(self._scheduler.optimizer)
        self._stepped = True

    def observe(self, metric: float) -> None:
        """Pass the metric of an evaluation to a schedule that follows a metric."""
        if isinstance(self._scheduler, ReduceLROnPlateau | Adapter):
            self._scheduler.step(metric)
            make_rates_plain(self._scheduler.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that changes during a run: plain values, without functions and weak references."""
        return _state(self._scheduler)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict` of a schedule with the same specs.

        Load the state of the optimizer as well: its groups hold the current learning rates.
        """
        _load(self._scheduler, state)


class Chain(SequentialLR):
    """A SequentialLR in which each schedule starts from the optimizer's learning rate.

    torch does this only for schedules with a closed form. MultiplicativeLR (and a user's own without one)
    would continue from the last value of its predecessor: after warm-up, below the learning rate.
    """

    def step(self, epoch: int | None = None) -> None:
        """Advance to the next interval. `epoch` is torch's deprecated argument; do not use it."""
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


def _parts(scheduler: LRScheduler | Adapter) -> list[LRScheduler]:
    return list(scheduler._schedulers) if isinstance(scheduler, SequentialLR) else []


def _state(scheduler: LRScheduler | Adapter) -> dict[str, Any]:
    """Return torch's state dict with only the plain values; the others are rebuilt from the config."""
    plain = _plain(scheduler.state_dict())
    if parts := _parts(scheduler):
        plain["_schedulers"] = [_state(part) for part in parts]
    return plain


def _load(scheduler: LRScheduler | Adapter, state: Mapping[str, Any]) -> None:
    """Load the values from `_state` over those of a new schedule (copied, because torch keeps references)."""
    parts = _parts(scheduler)
    saved = {name: copy.deepcopy(value) for name, value in state.items() if name != "_schedulers"}
    scheduler.load_state_dict(scheduler.state_dict() | saved)
    for part, part_state in zip(parts, state.get("_schedulers", []), strict=True):
        _load(part, part_state)


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the plain values of a state; numbers of NumPy become Python's."""
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if name == "state" and type(value) is dict:  # of an adapter
            plain[name] = _plain(value)
        elif isinstance(value, numpy.generic):
            plain[name] = value.item()
        elif _is_plain(value):
            plain[name] = copy.deepcopy(value)
    return plain


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
