"""The style of figures: colours, lines, axes and file output."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from trainer.errors import FigureError, first_line

Array = NDArray[np.float64]

# Okabe and Ito's palette: distinguishable with all common colour-vision deficiencies.
# https://jfly.uni-koeln.de/color/
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
ORDERED_COLOURS = "viridis"

FIGURE_INCHES = (7.0, 4.3)
DPI = 150
SETTINGS: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "figure.titlesize": 10.5,
    "legend.fontsize": 10,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.05,
    "svg.hashsalt": "optlab",
    "path.simplify": True,
}
# Without dates and versions in the metadata, the same run gives the same bytes.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True, slots=True)
class Line:
    """Line style of one series; colour, dashes and marker all differ, for greyscale print."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]] = "-"
    marker: str = "o"


LINES = (
    Line(COLOURS["blue"], "-", "o"),
    Line(COLOURS["vermillion"], "--", "s"),
    Line(COLOURS["green"], "-.", "^"),
    Line(COLOURS["purple"], ":", "D"),
    Line(COLOURS["orange"], (0, (5, 1)), "v"),
    Line(COLOURS["sky"], (0, (3, 1, 1, 1)), "P"),
    Line(COLOURS["black"], (0, (1, 1)), "X"),
)


def new_figure(heading: str) -> tuple[Figure, Axes]:
    """Return an empty figure of the default size with a heading, and its axes."""
    figure = Figure(figsize=FIGURE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading)
    return figure, figure.add_subplot()


@contextmanager
def settings(own: Mapping[Any, Any] = SETTINGS) -> Iterator[None]:
    """Draw and write figures with these settings, and matplotlib's defaults for all others.

    The user's settings (a matplotlibrc that requires LaTeX or a missing font) are restored afterwards.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(own)
        yield


def render(figure: Figure, file_format: str) -> bytes:
    """Return the figure as png, svg or pdf; the same figure gives the same bytes.

    Raises:
        FigureError: matplotlib cannot draw it.
    """
    content = io.BytesIO()
    try:
        with settings():
            figure.savefig(content, format=file_format, metadata=METADATA[file_format])
    except Exception as error:
        raise FigureError(first_line(error)) from error
    return content.getvalue()


def write(figure: Figure, path: Path) -> None:
    """Write the figure directly to a path, in the format of its suffix."""
    path.write_bytes(render(figure, path.suffix.removeprefix(".")))


def legend(figure: Figure) -> None:
    """Put a legend below the axes, where it hides no data; a single series gets no legend."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(handles) < 2:
        return
    columns = len(labels)
    # Legends are filled column by column; a character is about 6 points wide, handle and gaps take about 50.
    while columns > 1:
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        if sum(6.2 * width + 52 for width in widest) < 72 * figure.get_figwidth():
            break
        columns -= 1
    columns = -(-len(labels) // -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def format_number(value: float, _position: int | None = None) -> str:
    """Return a tick label: plain digits from 0.0001 to 999,999, a power of ten otherwise."""
    if value == 0 or 1e-4 * (1 - 1e-9) <= abs(value) < 1e6:
        return f"{value:,.10g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = value / 10**exponent
    power = f"10^{{{exponent}}}"
    return f"${power}$" if round(factor, 6) == 1 else rf"${factor:.4g}\times{power}$"


def format_axis(axis: Axis, low: float, high: float, *, log: bool) -> None:
    """Set readable ticks with plain numbers on an axis from `low` to `high`.

    By default, a log axis of less than a decade has at most one labelled tick.
    """
    axis.set_major_formatter(FuncFormatter(format_number))
    axis.set_minor_formatter(NullFormatter())
    if not log:
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        return
    decades = math.log10(high / low)
    if decades < 0.6:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    elif decades < 2.6:
        subs = (1.0, 2.0, 3.0, 5.0) if decades < 1.3 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=100))
    elif decades < 9:
        axis.set_major_locator(LogLocator(numticks=12))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=100))
    else:
        stride = math.ceil(decades / 7)
        first = math.ceil(math.log10(low))
        powers = [10.0**exponent for exponent in range(first, math.floor(math.log10(high)) + 1, stride)]
        axis.set_major_locator(FixedLocator(powers))
        axis.set_minor_locator(NullLocator())


def limits(values: Sequence[Array], *, log: bool) -> tuple[float, float] | None:
    """Return the range of all finite values with a margin, or None if there are no finite values."""
    finite = np.concatenate([np.empty(0), *[v[np.isfinite(v)] for v in values]])
    if log:
        finite = finite[finite > 0]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    if log:
        margin = max(0.06 * math.log10(high / low), 0.02)
        return low / 10**margin, high * 10**margin
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def smooth(values: Array) -> Array:
    """Return the centred moving mean over about a fifteenth of the points; NaN where it is undefined.

    The window is always symmetric, so the line does not lag behind a falling loss. Towards the start the
    window shrinks to the first point, which keeps the first steps of a run sharp. Towards the end it shrinks
    to half its width and the line ends there, because a mean of the last one or two points would show noise
    as a trend. Non-finite values remain gaps, and each segment between them is smoothed separately.

    Args:
        values: [N], in the order of the steps.
    """
    # The limit keeps the cost linear. Each window is summed anew: in a running sum, a loss of 1e30 would
    # leave rounding errors in all later values.
    half = min(max(len(values) // 30, 1), 200)
    result = np.full(len(values), np.nan)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(values), [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        stretch = values[start:stop]
        last = len(stretch) - 1
        full = range(half, last - half + 1)
        if full:
            window = np.full(2 * half + 1, 1 / (2 * half + 1))
            result[start + full.start : start + full.stop] = np.convolve(stretch, window, mode="valid")
        ends = [*range(min(half, last + 1)), *range(max(half, last - half + 1), last + 1)]
        for i in ends:
            half_width = min(i, last - i)
            if i < half or half_width >= max(half // 2, 1):
                result[start + i] = stretch[i - half_width : i + half_width + 1].mean()
    return result
