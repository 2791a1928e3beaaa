"""Numbers, durations and text as they are shown in a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from trainer.metrics import Metric


def clean(text: str) -> str:
    """Return the text with its control characters escaped, except newlines and tabs."""
    return escape_characters(text, lambda c: c if c == "\t" else repr(c)[1:-1])


def one_line(text: str) -> str:
    """Return the text with all control characters escaped, including newlines (for cells, names, paths)."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


_UNUSUAL = re.compile(r"[^ -~\n]")


def escape_characters(text: str, write: Callable[[str], str]) -> str:
    """Return the text with `write(c)` in place of every character that is neither printable nor a newline.

    Only characters outside of printable ASCII are checked one by one: 15 MB of JSON take 0.05 s, not 0.7 s.
    """
    return _UNUSUAL.sub(lambda match: c if (c := match.group()).isprintable() else write(c), text)


def indent_lines(text: str) -> str:
    """Return the text with all lines but the first indented, so that none looks like a separate message."""
    first, *more = text.split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ") else f"    {line}" for line in more)])


def format_cell(value: Any, spec: str = "") -> str:
    """Return a value formatted for a table: None as a dash, numbers by `spec` or with six digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value}"
        return format(value, spec or (".6g" if isinstance(value, float) else "d"))
    return one_line(str(value))


def format_seconds(seconds: float) -> str:
    """Return a duration in a suitable unit: `0.84 s`, `12.3 s`, `3:05 min`, `2:03:10 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{clock_time(seconds)} {'min' if seconds < 3599.5 else 'h'}"


def clock_time(seconds: float) -> str:
    """Return a duration as `3:05` or `2:03:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_rate(value: float) -> str:
    """Return a rate per second: three digits, or whole numbers with thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_loss(value: float | None) -> str:
    """Return a loss with four decimals, or in scientific notation if it is very small or large."""
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def format_value(value: float | None, metric: Metric) -> str:
    """Return a value of a metric, as `94.12%`; one without a format is shown as a loss."""
    return format_cell(value, metric.spec) if metric.spec else format_loss(value)
