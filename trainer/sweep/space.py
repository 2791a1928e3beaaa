"""The search space of a sweep: axes of values or ranges, their grid, and best values at their edges."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.errors import ConfigError

Kind = Literal["list", "choice", "uniform", "log_uniform", "int"]
RANGES = ("uniform", "log_uniform", "int")
EDGE_FRACTION = 0.05


@dataclass(frozen=True, slots=True)
class Axis:
    """One key that a sweep varies.

    Args:
        key: dotted key of the config.
        kind: `list` (ordered if its values are numbers), `choice` (unordered), or a range.
        values: the values of a list or choice.
        low, high: the ends of a range, both inclusive.
    """

    key: str
    kind: Kind
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def is_range(self) -> bool:
        """Whether it is a range."""
        return self.kind in RANGES

    def probes(self) -> list[Any]:
        """Return the values that are checked before the first run: all values, or the ends of a range."""
        if self.kind == "int":
            return [int(self.low), int(self.high)]
        return [self.low, self.high] if self.is_range else list(self.values)

    def as_config(self) -> Any:
        """Return the axis in the syntax of a sweep file."""
        if self.kind == "list":
            return list(self.values)
        return {self.kind: self.probes()}


def parse_axis(key: str, value: Any) -> Axis:
    """Parse an axis of a sweep file: a list, or a mapping such as `{log_uniform: [1e-4, 1]}`.

    Raises:
        ConfigError: the axis is empty, has duplicate values or an invalid range. The error has no key.
    """
    if isinstance(value, list):
        return Axis(key, "list", _distinct(value))
    kinds = ("log_uniform", "uniform", "int", "choice")
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in kinds:
        raise ConfigError(
            f"{value!r} is not an axis",
            expected="a list of values, or one of {log_uniform: [low, high]}, {uniform: ..}, {int: ..}, "
            "{choice: [..]}",
        )
    kind, content = next(iter(value.items()))
    if not isinstance(content, list):
        raise ConfigError(f"{kind} got {content!r}", expected="a list")
    if kind == "choice":
        return Axis(key, "choice", _distinct(content))
    ends_text = "two whole numbers" if kind == "int" else "two finite numbers"
    numbers = [item for item in content if _is_number(item) and (kind != "int" or item == int(item))]
    if len(content) != 2 or len(numbers) != 2:
        raise ConfigError(f"{kind} got {content!r}", expected=f"{ends_text}, low and high")
    low, high = numbers
    if low >= high:
        raise ConfigError(f"{kind} got the range {low!r} to {high!r}", expected="low < high")
    if kind == "log_uniform" and low <= 0:
        raise ConfigError(f"log_uniform got the lower end {low!r}", expected="a number above 0")
    return Axis(key, kind, low=float(low), high=float(high))


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise ConfigError("the axis is empty", expected="at least one value")
    seen: list[str] = []
    for value in values:
        text = json.dumps(value, default=str)
        if text in seen:
            raise ConfigError(f"the value {value!r} is given twice", fix="keep one of them")
        seen.append(text)
    return tuple(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the values of the axes, last axis fastest; without axes, one empty dict."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def edge(axis: Axis, value: Any) -> str | None:
    """Return advice if the best value is at the edge of its axis, so that a better one may be outside.

    Edges are the smallest and largest value of a list of at least two numbers, and the outer 5 % of a range
    (on a log scale for `log_uniform`).
    """
    if axis.is_range:
        low, high, position = axis.low, axis.high, float(value)
        if axis.kind == "log_uniform":
            low, high, position = math.log(low), math.log(high), math.log(position)
        fraction = (position - low) / (high - low)
        side = "below" if fraction < EDGE_FRACTION else "above" if fraction > 1 - EDGE_FRACTION else None
    else:
        if axis.kind == "choice" or len(axis.values) < 2 or not all(map(_is_number, axis.values)):
            return None
        ends = {min(axis.values): "below", max(axis.values): "above"}
        side = ends.get(value)
        if value == 0 and side == "below":  # 0 turns the option off; smaller values are not valid
            return None
    if side is None:
        return None
    bound = axis.probes()
    end = min(bound) if side == "below" else max(bound)
    if axis.is_range:
        return f"the best {axis.key}, {value:g}, is at the end of its range: extend it {side} {end:g}"
    size = "smallest" if side == "below" else "largest"
    return f"the best {axis.key}, {value:g}, is the {size} value tried: extend it {side} {end:g}"
