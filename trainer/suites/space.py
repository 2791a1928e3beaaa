"""The search space of a challenge: the learning rates of the suite, or what the user states."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError
from trainer.sweep.command_line import values_of
from trainer.sweep.space import Axis, parse_axis

LR = "optimizer.lr"
_RANGE = re.compile(r"([^,\[\]{}]+)\.\.([^,\[\]{}]+)\Z")


@dataclass(frozen=True, slots=True)
class Space:
    """The search space and its strategy.

    Args:
        axes: the axes in the syntax of a sweep file, by dotted key.
        strategy: `grid`, or `random` if the axes have more combinations than trials or are ranges.
        trials: number of settings.
    """

    axes: Mapping[str, Any]
    strategy: str
    trials: int


def parse_search(text: str) -> tuple[str, Any]:
    """Return the key and the axis of `KEY=LOW..HIGH` or `KEY=VALUE,VALUE`, as in a sweep file.

    A range whose ends are positive and differ by a factor of 10 or more is logarithmic. A key without a dot
    is an option of the optimizer.

    Raises:
        ConfigError: the text is neither.
    """
    key, _, value = text.partition("=")
    key = key.strip()
    full = key if "." in key else f"optimizer.{key}"
    where = f"--search {text}"
    match = _RANGE.match(value.strip())
    if match:
        try:
            low, high = float(match[1]), float(match[2])
        except ValueError:
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            expected = "LOW..HIGH with two numbers, such as 1e-4..1"
            raise ConfigError(f"{value} is not a range", where=where, expected=expected)
        return full, {"log_uniform" if low > 0 and high >= 10 * low else "uniform": [low, high]}
    values = values_of(value)
    if not key or not values:
        expected = "KEY=LOW..HIGH or KEY=VALUE,VALUE, such as lr=1e-4..1 momentum=0,0.9"
        raise ConfigError(f"{text!r} is not a search space", where=where, expected=expected)
    return full, values


def space_of(stated: Mapping[str, Any], default: Mapping[str, Any], budget: int, trials: int | None) -> Space:
    """Return the search space of an optimizer.

    A single numeric range is searched on a grid, as the baselines are; several axes with more combinations
    than trials are searched at random.

    Args:
        stated: the axes that the user stated.
        default: the axis of the learning rate in the suite; used unless one is stated. Empty if the optimizer
            has no learning rate.
        budget: number of settings of each baseline.
        trials: number of settings that the user stated; None = that of the baselines.
    """
    axes = {**default, **stated}
    count = trials or budget
    parsed = {key: parse_axis(key, value) for key, value in axes.items()}
    if not parsed:
        return Space({}, "grid", 1)
    if len(parsed) == 1:
        ((key, axis),) = parsed.items()
        numeric = axis.kind == "log_uniform" or (axis.kind == "list" and _positive(axis))
        if axis.is_range and axis.kind != "int" and count > 1:
            return Space({key: spaced(axis, count)}, "grid", count)
        if axis.kind == "list" and key not in stated and len(axis.values) != count and numeric:
            low, high = min(axis.values), max(axis.values)
            return Space({key: spaced(Axis(key, "log_uniform", low=low, high=high), count)}, "grid", count)
    combinations = math.prod(math.inf if axis.is_range else len(axis.values) for axis in parsed.values())
    if combinations <= count:
        return Space(axes, "grid", int(combinations))
    return Space(axes, "random", count)


def _positive(axis: Axis) -> bool:
    return all(isinstance(value, int | float) and value > 0 for value in axis.values)


def spaced(axis: Axis, count: int) -> Sequence[float]:
    """Return evenly spaced values of a range, to three digits; on a logarithmic scale for `log_uniform`."""
    if count == 1:
        return [axis.low]
    shares = [number / (count - 1) for number in range(count)]
    if axis.kind == "log_uniform":
        values = [math.exp(math.log(axis.low) + share * math.log(axis.high / axis.low)) for share in shares]
    else:
        values = [axis.low + share * (axis.high - axis.low) for share in shares]
    return list(dict.fromkeys(float(f"{value:.3g}") for value in values))
