"""From the user's description to the schedule of one optimizer, tried out before the run."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from trainer.errors import ConfigError, Problem
from trainer.schedules.schedule import Chain, Schedule, learning_rate
from trainer.user_code import place_of, what_happened

REHEARSED = 10_000
"""Intervals that are tried out before the run (0.1 s); a fault beyond them shows only in the run."""

DERIVED: dict[str, frozenset[str]] = {
    "CosineAnnealingLR": frozenset({"T_max"}),
    "CyclicLR": frozenset({"max_lr"}),
    "OneCycleLR": frozenset({"total_steps", "max_lr"}),
}
"""Options that `build_schedule` fills in when they are absent or null: see `derived_options`."""


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """One schedule as the user describes it.

    Args:
        builder: called as `builder(optimizer, **options)`.
        name: its config name, for messages.
        options: its keywords.
        interval: what its counts count.
        warmup: intervals of linear warm-up before it starts; 0 = none.
        monitor: the metric that ReduceLROnPlateau watches; None = the default, and for all others.
        until: in a list, the interval of the run at which the next schedule takes over.
    """

    builder: Callable[..., LRScheduler]
    name: str
    options: Mapping[str, Any]
    interval: Literal["epoch", "step"] = "epoch"
    warmup: int = 0
    monitor: str | None = None
    until: int | None = None


def build_schedule(
    optimizer: Optimizer,
    specs: Sequence[ScheduleSpec],
    *,
    length: int | None,
    default_monitor: str = "val_loss",
) -> Schedule:
    """Build the schedule of one optimizer.

    One spec is torch's schedule itself. Warm-up is a LinearLR from lr / (warmup + 1) that reaches lr when the
    main one starts. Several specs (and warm-up) go into a SequentialLR: each counts from its own start, and
    starts from the optimizer's learning rate.

    Args:
        optimizer: whose groups are scheduled; untouched when an error is raised.
        specs: at least one, in their order.
        length: the run's length in the specs' interval; None when only a time budget ends it.
        default_monitor: what a ReduceLROnPlateau without a metric watches.

    Raises:
        ConfigError: options that torch refuses or that would fail during the run; `key` is relative to the
            spec, with its index before it in a list (`1.until`).
    """
    assert specs, "no schedule is no Schedule"
    if any(learning_rate(group) is None for group in optimizer.param_groups):
        raise ConfigError(
            f"{type(optimizer).__name__} has no learning rate in its parameter groups: there is nothing to "
            "schedule",
            key=_prefix(specs, 0) + "name",
            fix="say scheduler=null, or choose an optimizer with an lr",
        )
    problems = _misplaced(specs, length)
    for index, spec in enumerate(specs):
        problems += _momentum(optimizer, spec, _prefix(specs, index))
    if problems:
        raise ConfigError.of(problems)
    _rehearse(optimizer, specs, length)
    monitor = (specs[0].monitor or default_monitor) if _is_plateau(specs[0]) else None
    return Schedule(_assemble(optimizer, specs, length), specs[0].interval, monitor)


def derived_options(
    optimizer: Optimizer, spec: ScheduleSpec, remaining: int | None, *, key: str = ""
) -> dict[str, Any]:
    """Return the options of a spec that are absent or null and follow from the run.

    T_max and total_steps are what remains of the run (less warm-up, up to `until`); max_lr of OneCycleLR and
    CyclicLR is each group's lr.

    Args:
        optimizer: gives the learning rates.
        spec: the schedule.
        remaining: intervals from its start to its end.
        key: prefix of the error's key.
    """
    counted = None not in (spec.options.get("epochs"), spec.options.get("steps_per_epoch"))
    derived: dict[str, Any] = {}
    for name in sorted(DERIVED.get(_class_name(spec), ())):
        if spec.options.get(name) is not None or (name == "total_steps" and counted):
            continue
        if name == "max_lr":
            derived[name] = [group["lr"] for group in optimizer.param_groups]
        elif remaining is None:
            raise ConfigError(
                f"{spec.name} needs {name}: only a time budget ends this run, so its length is unknown",
                key=key + name,
                fix=f"set {name}, or give the run a length (train.epochs or train.steps)",
            )
        else:
            derived[name] = remaining
    return derived


def _prefix(specs: Sequence[ScheduleSpec], index: int) -> str:
    return f"{index}." if len(specs) > 1 else ""


def _class_name(spec: ScheduleSpec) -> str:
    return spec.builder.__name__ if isinstance(spec.builder, type) else ""


def _signature(builder: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(builder).parameters)


def _is_plateau(spec: ScheduleSpec) -> bool:
    return isinstance(spec.builder, type) and issubclass(spec.builder, ReduceLROnPlateau)


def _misplaced(specs: Sequence[ScheduleSpec], length: int | None) -> list[Problem]:
    """Return what is wrong with how the schedules follow one another."""
    problems: list[Problem] = []
    several = len(specs) > 1
    start = 0
    for index, spec in enumerate(specs):
        at = _prefix(specs, index)
        unit = f"{spec.interval}s"
        last = index == len(specs) - 1
        if spec.interval != specs[0].interval:
            problems.append(
                Problem(
                    f"{spec.name} counts {unit}, the first of the list {specs[0].interval}s",
                    f"{at}interval",
                    fix="give all schedules of a list the same interval",
                )
            )
        if last and spec.until is not None:
            problems.append(
                Problem(f"until is {spec.until}, and no schedule follows {spec.name}", f"{at}until")
            )
        if not last and spec.until is None:
            problems.append(
                Problem(
                    f"{spec.name} does not say when {specs[index + 1].name} takes over",
                    f"{at}until",
                    expected=f"the {spec.interval} of the run, on all schedules but the last",
                )
            )
        elif not last and spec.until is not None and spec.until <= start + spec.warmup:
            problems.append(
                Problem(
                    f"{spec.name} ends at {spec.until} and starts at {start + spec.warmup}",
                    f"{at}until",
                    expected="ascending values, with room for the warm-up",
                )
            )
        if spec.warmup < 0:
            problems.append(Problem(f"warmup is {spec.warmup}", f"{at}warmup", expected="at least 0"))
        if length is not None:
            name, milestone = ("warmup", start + spec.warmup) if spec.warmup else ("", 0)
            if not last and spec.until is not None and milestone < length:
                name, milestone = "until", spec.until
            if name and milestone >= length:
                what = spec.name if name == "warmup" else specs[index + 1].name
                problems.append(
                    Problem(
                        f"{what} would start at {milestone}, and the run ends after {length} {unit}",
                        at + name,
                        expected=f"below {length - (start if name == 'warmup' else 0)}",
                        fix="lengthen the run, or shorten this",
                    )
                )
        if (several or spec.warmup) and (reason := _stands_alone(spec)):
            where = "in a list" if several else "after warm-up"
            problems.append(Problem(f"{spec.name} cannot stand {where}: {reason}", at + "name"))
        if spec.monitor is not None and not _is_plateau(spec):
            problems.append(
                Problem(
                    f"{spec.name} follows no metric",
                    at + "monitor",
                    fix="leave it out; only ReduceLROnPlateau has one",
                )
            )
        if _is_plateau(spec) and "accuracy" in (spec.monitor or "") and spec.options.get("mode") != "max":
            problems.append(
                Problem(
                    f"mode 'min' would lower the learning rate whenever {spec.monitor} improves",
                    at + "mode",
                    fix="say mode: max",
                )
            )
        start = spec.until or start
    return problems


def _stands_alone(spec: ScheduleSpec) -> str:
    """Return why a schedule cannot share an optimizer with others; empty when it can."""
    if _is_plateau(spec):
        return "it waits for a metric, the others count intervals"
    if _class_name(spec) in ("OneCycleLR", "CyclicLR"):
        return (
            "it sets the learning rates and momenta when it is made, also those of its neighbours; "
            "its rising phase (pct_start, step_size_up) is a warm-up of its own"
        )
    return ""


def _momentum(optimizer: Optimizer, spec: ScheduleSpec, key: str) -> list[Problem]:
    """Return what is wrong with cycling a momentum that is not there.

    torch itself lets SGD with momentum 0 pass and then switches momentum on.
    """
    default = inspect.signature(spec.builder).parameters.get("cycle_momentum")
    if default is None or not spec.options.get("cycle_momentum", default.default):
        return []
    name = type(optimizer).__name__
    if "betas" in optimizer.defaults:
        return []
    if "momentum" not in optimizer.defaults:
        what, fix = f"{name} has neither momentum nor betas", "say cycle_momentum: false"
    elif any(not group["momentum"] for group in optimizer.param_groups):
        what = f"{name}'s momentum is 0: cycling would switch it on"
        fix = "say cycle_momentum: false, or give the optimizer a momentum"
    else:
        return []
    return [Problem(f"{spec.name} cycles the momentum, and {what}", key + "cycle_momentum", fix=fix)]


class _StandIn(Optimizer):
    """An optimizer with another's groups and options over parameters of its own, which it leaves alone."""

    def __init__(self, original: Optimizer) -> None:
        groups = [
            {name: _copy(value) for name, value in group.items() if name != "params"}
            | {"params": [nn.Parameter(torch.zeros(1))]}
            for group in original.param_groups
        ]
        super().__init__(groups, {name: _copy(value) for name, value in original.defaults.items()})


def _copy(value: Any) -> Any:
    """Return a copy; the value itself where that fails (a user's optimizer may keep a lock in its groups)."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _rehearse(optimizer: Optimizer, specs: Sequence[ScheduleSpec], length: int | None) -> None:
    """Run the schedule on a stand-in, so that what would fail in the middle of the run is told before it."""
    stand_in = _StandIn(optimizer)
    # Copies: a user's callable may count its calls.
    copies = [
        dataclasses.replace(spec, options={name: _copy(value) for name, value in spec.options.items()})
        for spec in specs
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = _assemble(stand_in, copies, length)
        for interval in range(min(1 if length is None else length, REHEARSED)):
            for group in stand_in.param_groups:
                if not (group["lr"] >= 0 and math.isfinite(group["lr"])):
                    raise _fault(specs, interval, f"gives a learning rate of {group['lr']}")
            if isinstance(scheduler, ReduceLROnPlateau):
                return
            try:
                scheduler.step()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # torch's arithmetic, or a user's function
                raise _fault(specs, interval + 1, _in_words(error)) from error


def _in_words(error: BaseException) -> str:
    place = place_of(error)
    return what_happened(error) + (f" ({place})" if place else "")


def _fault(specs: Sequence[ScheduleSpec], interval: int, what: str) -> ConfigError:
    """Return the error of the schedule that is in charge at an interval."""
    index = sum(interval >= spec.until for spec in specs if spec.until is not None)
    spec = specs[index]
    return ConfigError(
        f"{spec.name} {what} at {spec.interval} {interval}", key=_prefix(specs, index) + "name"
    )


def _assemble(optimizer: Optimizer, specs: Sequence[ScheduleSpec], length: int | None) -> LRScheduler:
    """Build the parts on an optimizer and chain them."""
    parts: list[LRScheduler] = []
    milestones: list[int] = []
    start = 0
    for index, spec in enumerate(specs):
        key = _prefix(specs, index)
        if spec.warmup:
            parts.append(LinearLR(optimizer, start_factor=1 / (spec.warmup + 1), total_iters=spec.warmup))
            start += spec.warmup
            milestones.append(start)
        end = spec.until or length
        parts.append(_part(optimizer, spec, None if end is None else end - start, key=key))
        if spec.until is not None:
            start = spec.until
            milestones.append(start)
    return parts[0] if len(parts) == 1 else Chain(optimizer, parts, milestones)


def _part(optimizer: Optimizer, spec: ScheduleSpec, remaining: int | None, *, key: str) -> LRScheduler:
    options = dict(spec.options) | derived_options(optimizer, spec, remaining, key=key)
    known = _signature(spec.builder)
    if callable(fn := options.get("lr_lambda")) and not hasattr(fn, "__dict__"):
        options["lr_lambda"] = lambda t: fn(t)  # torch saves a function's __dict__; built-in ones have none
    try:
        scheduler = spec.builder(optimizer, **options)
    except ConfigError as error:
        raise ConfigError.of(
            [Problem(p.what, key + p.key, p.where, p.expected, p.fix) for p in error.problems]
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        words = str(error) or type(error).__name__
        blamed = [name for name in (*options, *known) if name in words]
        if place_of(error) or not isinstance(error, Exception):
            words = _in_words(error)
        raise ConfigError(f"{spec.name}: {words}", key=key + (blamed[0] if blamed else "name")) from error
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            f"{spec.name} gave a {type(scheduler).__name__}",
            key=key + "name",
            expected="a torch.optim.lr_scheduler.LRScheduler",
        )
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and remaining is not None and total < remaining:
        raise ConfigError(
            f"{spec.name} ends after {total} {spec.interval}s (then torch fails), the run after {remaining}",
            key=key + "total_steps",
            fix="leave out total_steps; it is then the run's length",
        )
    return scheduler
