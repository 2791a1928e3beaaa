"""Numbers for JSON, which has neither NaN nor infinity, with six digits."""

from __future__ import annotations

import math
from collections.abc import Iterable

Number = float | str | None


def number(value: float) -> Number:
    """Return a number with six digits; NaN as None, an infinity as `inf` or `-inf`."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return str(float(value))
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def numbers(values: Iterable[float]) -> list[Number]:
    """Return numbers with six digits; see `number`."""
    return [number(float(value)) for value in values]
