"""Build the schedule of an optimizer from its specs, and simulate it before the run."""

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
from trainer.schedules.schedule import Adapter, Chain, Schedule, learning_rate
from trainer.seeding import preserved
from trainer.user_code import cited_definition, code_location, describe_with_line

SIMULATED_INTERVALS = 10_000
"""Number of intervals simulated before the run (0.1 s); later errors are found only during the run."""

DERIVED: dict[str, frozenset[str]] = {
    "CosineAnnealingLR": frozenset({"T_max"}),
    "CyclicLR": frozenset({"max_lr"}),
    "OneCycleLR": frozenset({"total_steps", "max_lr"}),
}
"""Options that `build_schedule` sets if they are absent or null; see `derived_options`."""


LENGTHS = (
    *("total_steps", "num_training_steps", "max_steps", "total_iters", "max_iters", "num_iterations"),
    *("t_initial", "t_max", "T_max", "num_epochs", "max_epochs", "total_epochs", "epochs"),
)
"""Required options of users' and other packages' schedules that `build_schedule` sets if they are absent: to
the number of intervals from the schedule's start to its end. Likewise a required `max_lr`, to the lr."""


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule as described in the config.

    Args:
        builder: called as `builder(optimizer, **options)`.
        name: its config name, for messages.
        options: keyword arguments of the builder.
        interval: unit of all its counts.
        warmup: intervals of linear warm-up before it starts; 0 = none.
        monitor: metric of ReduceLROnPlateau; None = the default. None for other schedules.
        higher_is_better: whether higher values of `monitor` are better.
        until: in a list, the interval of the run at which the next schedule starts.
    """

    builder: Callable[..., Any]
    name: str
    options: Mapping[str, Any]
    interval: Literal["epoch", "step"] = "epoch"
    warmup: int = 0
    monitor: str | None = None
    higher_is_better: bool = False
    until: int | None = None


def build_schedule(
    optimizer: Optimizer,
    specs: Sequence[ScheduleSpec],
    *,
    length: int | None,
    default_monitor: str = "val_loss",
) -> Schedule:
    """Build the schedule of one optimizer.

    A single spec gives torch's schedule. Warm-up is a LinearLR from lr / (warmup + 1) to lr, before the main
    schedule starts. Several specs, or warm-up, are combined in a SequentialLR: each schedule counts
    intervals from its own start, and starts from the optimizer's learning rate.

    Args:
        optimizer: the optimizer to schedule; not modified if an error is raised.
        specs: one or more schedules, in order.
        length: length of the run in the specs' interval; None if only a time budget ends the run.
        default_monitor: metric of a ReduceLROnPlateau without `monitor`.

    Raises:
        ConfigError: torch rejects the options, or the schedule would fail during the run. `key` is relative
            to the spec; in a list, it starts with the index (`1.until`).
    """
    assert specs, "at least one spec is required"
    if any(learning_rate(group) is None for group in optimizer.param_groups):
        raise ConfigError(
            f"{type(optimizer).__name__} has no learning rate in its parameter groups, so there is nothing "
            "to schedule",
            key=_prefix(specs, 0) + "name",
            fix="set scheduler=null, or use an optimizer with an lr",
        )
    problems = _sequence_problems(specs, length)
    for index, spec in enumerate(specs):
        problems += _momentum_problems(optimizer, spec, _prefix(specs, index))
    if problems:
        raise ConfigError.of(problems)
    rates = _simulate(optimizer, specs, length)
    for index, spec in enumerate(specs):
        if _is_users(spec) and rates != _simulate(optimizer, specs, length):
            raise ConfigError(
                f"{spec.name} is not deterministic: it gives other learning rates when it is built again"
                + cited_definition(spec.name),
                key=_prefix(specs, index) + "name",
                fix="draw random numbers from the global generators of torch, Python or NumPy",
            )
    monitor = (specs[0].monitor or default_monitor) if _is_plateau(specs[0]) else None
    derived = _derived_lengths(specs, length)
    return Schedule(_assemble(optimizer, specs, length), specs[0].interval, monitor, derived)


def _derived_lengths(specs: Sequence[ScheduleSpec], length: int | None) -> dict[str, int]:
    """Return the length of the run for each option of a user's schedule that depends on it."""
    if length is None:
        return {}
    return {
        f"{_prefix(specs, index)}{name}": length
        for index, spec in enumerate(specs)
        for name in _own_lengths(spec)
        if spec.options.get(name) is None
    }


def _is_users(spec: ScheduleSpec) -> bool:
    """Return whether a schedule is neither torch's nor one of this package."""
    return (getattr(spec.builder, "__module__", "") or "").partition(".")[0] not in ("torch", "trainer")


def _own_lengths(spec: ScheduleSpec) -> list[str]:
    """Return the required lengths of a user's schedule."""
    if not _is_users(spec):
        return []
    signature = inspect.signature(spec.builder).parameters
    return [
        name for name in LENGTHS if name in signature and signature[name].default is inspect.Parameter.empty
    ]


def derived_options(
    optimizer: Optimizer, spec: ScheduleSpec, remaining: int | None, *, key: str = ""
) -> dict[str, Any]:
    """Return values for options of a spec that are absent or null and can be derived from the run.

    T_max and total_steps are the number of intervals from the schedule's start to its end; max_lr of
    OneCycleLR and CyclicLR is the lr of each group.

    Args:
        optimizer: the optimizer with the learning rates.
        spec: the schedule.
        remaining: intervals from its start (after warm-up) to its end; None if unknown.
        key: prefix of the key in errors.
    """
    counted = None not in (spec.options.get("epochs"), spec.options.get("steps_per_epoch"))
    derived: dict[str, Any] = {}
    own = _own_lengths(spec)
    signature = inspect.signature(spec.builder).parameters
    is_torchs = _class_name(spec) in DERIVED and spec.builder.__module__.startswith("torch.")
    if not is_torchs and "max_lr" in signature and signature["max_lr"].default is inspect.Parameter.empty:
        own.append("max_lr")
    for name in sorted(DERIVED[_class_name(spec)]) if is_torchs else own:
        if spec.options.get(name) is not None or (name == "total_steps" and counted):
            continue
        if name == "max_lr":
            rates = [group["lr"] for group in optimizer.param_groups]
            derived[name] = rates if is_torchs else max(rates)
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
    """Return whether a schedule follows a metric: ReduceLROnPlateau, or a class that its name says does."""
    is_torchs = isinstance(spec.builder, type) and issubclass(spec.builder, ReduceLROnPlateau)
    return is_torchs or _is_own_plateau(spec)


def _is_own_plateau(spec: ScheduleSpec) -> bool:
    is_own = isinstance(spec.builder, type) and not issubclass(spec.builder, LRScheduler)
    return is_own and "plateau" in _class_name(spec).lower()


def _sequence_problems(specs: Sequence[ScheduleSpec], length: int | None) -> list[Problem]:
    """Return the problems with the order, lengths and combination of the schedules."""
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
                    f"{spec.name} counts {unit}, the first schedule counts {specs[0].interval}s",
                    f"{at}interval",
                    fix="give all schedules of a list the same interval",
                )
            )
        if last and spec.until is not None:
            problems.append(
                Problem(f"until is {spec.until}, but no schedule follows {spec.name}", f"{at}until")
            )
        if not last and spec.until is None:
            problems.append(
                Problem(
                    f"{spec.name} does not state when {specs[index + 1].name} starts",
                    f"{at}until",
                    expected=f"the {spec.interval} of the run; required for all schedules except the last",
                )
            )
        elif not last and spec.until is not None and spec.until <= start + spec.warmup:
            problems.append(
                Problem(
                    f"{spec.name} ends at {spec.until} and starts at {start + spec.warmup}",
                    f"{at}until",
                    expected="ascending values, larger than the end of the warm-up",
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
                        f"{what} would start at {milestone}, but the run ends after {length} {unit}",
                        at + name,
                        expected=f"below {length - (start if name == 'warmup' else 0)}",
                        fix="use a smaller value, or a longer run",
                    )
                )
        if (several or spec.warmup) and (reason := _why_not_combinable(spec)):
            where = "in a list" if several else "after warm-up"
            problems.append(Problem(f"{spec.name} cannot be used {where}: {reason}", at + "name"))
        if spec.monitor is not None and not _is_plateau(spec):
            problems.append(
                Problem(
                    f"{spec.name} does not use a metric",
                    at + "monitor",
                    fix="leave it out; only ReduceLROnPlateau uses a metric",
                )
            )
        if _is_own_plateau(spec) and not spec.higher_is_better and spec.options.get("mode") == "max":
            problems.append(
                Problem(
                    f"mode 'max' would lower the learning rate whenever {spec.monitor} improves",
                    at + "mode",
                    fix="set mode: min, or monitor a metric of which higher values are better",
                )
            )
        if _is_plateau(spec) and spec.higher_is_better and spec.options.get("mode") != "max":
            problems.append(
                Problem(
                    f"mode 'min' would lower the learning rate whenever {spec.monitor} improves",
                    at + "mode",
                    fix="set mode: max",
                )
            )
        start = spec.until or start
    return problems


def _why_not_combinable(spec: ScheduleSpec) -> str:
    """Return why a schedule cannot be combined with others; empty if it can."""
    if _is_plateau(spec):
        return "it follows a metric, and the others count intervals"
    if _class_name(spec) in ("OneCycleLR", "CyclicLR"):
        return (
            "when it is built, it sets the learning rates and momenta, which the other schedules share; "
            "its rising phase (pct_start, step_size_up) is already a warm-up"
        )
    return ""


def _momentum_problems(optimizer: Optimizer, spec: ScheduleSpec, key: str) -> list[Problem]:
    """Return the problems with cycling the momentum of an optimizer without momentum.

    torch accepts SGD with momentum 0, and then enables momentum.
    """
    default = inspect.signature(spec.builder).parameters.get("cycle_momentum")
    if default is None or not spec.options.get("cycle_momentum", default.default):
        return []
    name = type(optimizer).__name__
    if "betas" in optimizer.defaults:
        return []
    if "momentum" not in optimizer.defaults:
        what, fix = f"{name} has neither momentum nor betas", "set cycle_momentum: false"
    elif any(not group["momentum"] for group in optimizer.param_groups):
        what = f"{name}'s momentum is 0, and cycling would enable it"
        fix = "set cycle_momentum: false, or set the optimizer's momentum"
    else:
        return []
    return [Problem(f"{spec.name} cycles the momentum, and {what}", key + "cycle_momentum", fix=fix)]


class _StandIn(Optimizer):
    """An optimizer with the groups and options of another one, but its own parameters, which never change."""

    def __init__(self, original: Optimizer) -> None:
        groups = [
            {name: _copy(value) for name, value in group.items() if name != "params"}
            | {"params": [nn.Parameter(torch.zeros(1))]}
            for group in original.param_groups
        ]
        super().__init__(groups, {name: _copy(value) for name, value in original.defaults.items()})


def _copy(value: Any) -> Any:
    """Return a copy, or the value itself if it cannot be copied (a lock in a user's optimizer)."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _simulate(optimizer: Optimizer, specs: Sequence[ScheduleSpec], length: int | None) -> list[float]:
    """Return the learning rates on a stand-in optimizer, so that errors are reported before the run."""
    stand_in = _StandIn(optimizer)
    # Copy the options: a user's callable may count its calls.
    copies = [
        dataclasses.replace(spec, options={name: _copy(value) for name, value in spec.options.items()})
        for spec in specs
    ]
    with warnings.catch_warnings(), preserved():
        warnings.simplefilter("ignore")
        schedule = Schedule(_assemble(stand_in, copies, length), specs[0].interval)
        rates: list[float] = []
        for interval in range(min(1 if length is None else length, SIMULATED_INTERVALS)):
            for group in stand_in.param_groups:
                rate = learning_rate(group)
                if rate is None or not (rate >= 0 and math.isfinite(rate)):
                    given = f"a {type(group.get('lr')).__name__}" if rate is None else rate
                    raise _fault(specs, interval, f"gives a learning rate of {given}")
                rates.append(rate)
            if _is_plateau(specs[0]):
                break
            try:
                schedule.step()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # torch's arithmetic, or a user's function
                raise _fault(specs, interval + 1, error) from error
    return rates


def _fault(specs: Sequence[ScheduleSpec], interval: int, what: str | BaseException) -> ConfigError:
    """Return the error of the schedule that is active at an interval."""
    index = sum(interval >= spec.until for spec in specs if spec.until is not None)
    spec = specs[index]
    text = what if isinstance(what, str) else describe_with_line(what, spec.name)
    return ConfigError(
        f"{spec.name} {text} at {spec.interval} {interval}", key=_prefix(specs, index) + "name"
    )


def _assemble(
    optimizer: Optimizer, specs: Sequence[ScheduleSpec], length: int | None
) -> LRScheduler | Adapter:
    """Build the schedules and combine them."""
    parts: list[Any] = []
    milestones: list[int] = []
    start = 0
    for index, spec in enumerate(specs):
        key = _prefix(specs, index)
        if spec.warmup:
            parts.append(LinearLR(optimizer, start_factor=1 / (spec.warmup + 1), total_iters=spec.warmup))
            start += spec.warmup
            milestones.append(start)
        end = spec.until or length
        part = _part(optimizer, spec, None if end is None else end - start, key=key)
        if isinstance(part, Adapter) and (spec.warmup or len(specs) > 1):
            where = "in a list" if len(specs) > 1 else "after warm-up"
            raise ConfigError(
                f"{spec.name} cannot be used {where}: it is not an LRScheduler",
                key=key + "name",
                fix="use it alone, with a warm-up of its own",
            )
        parts.append(part)
        if spec.until is not None:
            start = spec.until
            milestones.append(start)
    if len(parts) == 1:
        only: LRScheduler | Adapter = parts[0]
        return only
    return Chain(optimizer, parts, milestones)


def _part(
    optimizer: Optimizer, spec: ScheduleSpec, remaining: int | None, *, key: str
) -> LRScheduler | Adapter:
    options = dict(spec.options) | derived_options(optimizer, spec, remaining, key=key)
    known = _signature(spec.builder)
    if "t_in_epochs" in known:  # timm's name of the interval
        options["t_in_epochs"] = spec.interval == "epoch"
    if callable(fn := options.get("lr_lambda")) and not hasattr(fn, "__dict__"):
        options["lr_lambda"] = lambda t: fn(t)  # torch saves a function's __dict__; built-in ones have none
    try:
        scheduler: Any = spec.builder(optimizer, **options)
    except ConfigError as error:
        raise ConfigError.of(
            [Problem(p.what, key + p.key, p.where, p.expected, p.fix) for p in error.problems]
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        message = str(error) or type(error).__name__
        blamed = [name for name in (*options, *known) if name in message]
        if code_location(error) or not isinstance(error, Exception):
            message = describe_with_line(error, spec.name)
        raise ConfigError(f"{spec.name}: {message}", key=key + (blamed[0] if blamed else "name")) from error
    if not isinstance(scheduler, LRScheduler):
        if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "__dict__"):
            raise ConfigError(
                f"{spec.name} returned a {type(scheduler).__name__}",
                key=key + "name",
                expected="a schedule: an object with the method step",
            )
        return Adapter(scheduler, optimizer, spec.interval)
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and remaining is not None and total < remaining:
        raise ConfigError(
            f"{spec.name} ends after {total} {spec.interval}s (torch then fails), the run after {remaining}",
            key=key + "total_steps",
            fix="leave out total_steps; it is then the length of the run",
        )
    found: LRScheduler = scheduler
    return found
