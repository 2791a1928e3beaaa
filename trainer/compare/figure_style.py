"""Figure styles of comparisons: screen, slides, paper and greyscale print."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.errors import ConfigError
from trainer.plots import style
from trainer.plots.style import DPI, FIGURE_INCHES, LINES, SETTINGS, Line, format_axis


@dataclass(frozen=True, slots=True)
class Look:
    """Size, fonts and line widths of a figure.

    Args:
        inches: width and height.
        font: size of all text, in points.
        line: line width, in points.
        grey: draw in greys; lines differ in dashes and markers.
    """

    inches: tuple[float, float] = FIGURE_INCHES
    font: float = 10.5
    line: float = 1.8
    grey: bool = False


LOOKS: dict[str, Look] = {
    "screen": Look(),
    "slides": Look((10.0, 5.6), font=16.0, line=3.0),
    "paper": Look((5.0, 3.3), font=8.5, line=1.3),
    "print": Look((6.5, 4.2), font=10.0, line=1.5, grey=True),
}
GREYS = ("#000000", "#555555", "#888888", "#333333", "#707070", "#9a9a9a", "#202020")


def find_look(style: str, inches: tuple[float, float] | None = None) -> Look:
    """Return the look of a style, optionally with another size. Raise ConfigError if the style is unknown."""
    if style not in LOOKS:
        raise ConfigError(f"unknown style {style!r}", key="--style", expected=", ".join(LOOKS))
    look = LOOKS[style]
    if inches is None:
        return look
    if not all(1 <= side <= 60 for side in inches):
        raise ConfigError(
            f"a figure of {inches[0]:g} x {inches[1]:g} inches",
            key="--size",
            expected="1 to 60 inches a side",
        )
    return Look(inches, look.font, look.line, look.grey)


def settings(look: Look) -> AbstractContextManager[None]:
    """Return a context manager that applies this look and restores matplotlib's settings afterwards."""
    sizes = ("font.size", "axes.titlesize", "figure.titlesize", "legend.fontsize", "axes.labelsize")
    own: dict[Any, Any] = {
        **SETTINGS,
        **dict.fromkeys(sizes, look.font),
        "xtick.labelsize": look.font,
        "ytick.labelsize": look.font,
        "lines.linewidth": look.line,
        "lines.markersize": 3.2 * look.line,
    }
    return style.settings(own)


def new_figure(heading: str, look: Look, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with a heading, and its `rows x columns` axes with shared scales, row by row."""
    width, height = look.inches
    if rows > 2:
        height *= rows / 2
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(fitted(heading, look)))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = [one for row in grid for one in row]
    for one in axes:
        # Ticks are created while drawing, possibly under other settings: set what they need here.
        one.tick_params(
            which="both", labelsize=look.font * (1 if rows * columns == 1 else 0.8),
            grid_color=SETTINGS["grid.color"], grid_linewidth=SETTINGS["grid.linewidth"],
        )  # fmt: skip
    return figure, axes


def fitted(text: str, look: Look) -> str:
    """Return text wrapped to the width of the figure, preferably between its parts."""
    width = max(int(72 * look.inches[0] / (0.54 * look.font)), 20)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for part in paragraph.split(" · "):
            joined = f"{line} · {part}" if line else part
            if line and len(joined) > width:
                lines.append(line)
                line = part
            else:
                line = joined
        lines.append(line)
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return text escaped so that matplotlib draws it literally (no math mode, no hidden legend entry).

    Names come from configs, and matplotlib fails on a pair of dollar signs around text that is not math.
    """
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def line_for(index: int, look: Look) -> Line:
    """Return the line style of the i-th series; after the seventh, colours and dashes are combined anew."""
    line = LINES[index % len(LINES)]
    if index >= len(LINES):
        line = Line(line.colour, LINES[(index + index // len(LINES)) % len(LINES)].dashes, line.marker)
    return Line(GREYS[index % len(GREYS)], line.dashes, line.marker) if look.grey else line


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], look: Look) -> None:
    """Put a legend below the axes, in as many columns as fit; a single entry gets no legend."""
    if len(labels) < 2:
        return
    columns = len(labels)
    while columns > 1:
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        # A character is about 0.6 font sizes wide; handle and gaps take 5.5 font sizes.
        if sum((0.6 * width + 5.5) * look.font for width in widest) < 72 * figure.get_figwidth():
            break
        columns -= 1
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    if rows > 3:  # Make the figure taller for a long legend, which would otherwise shrink the axes.
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + (rows - 3) * 1.6 * look.font / 72)
    figure.legend(handles, list(map(plain, labels)), loc="outside lower center", ncols=columns)


def scale_x(axes: Axes, low: float, high: float, *, log: bool) -> None:
    """Set limits, scale and readable ticks of the horizontal axis."""
    axes.set_xscale("log" if log else "linear")
    axes.set_xlim(low, high)
    format_axis(axes.xaxis, low, high, log=log)


def scale_y(axes: Axes, low: float, high: float, *, log: bool) -> None:
    """Set limits, scale and readable ticks of the vertical axis."""
    axes.set_yscale("log" if log else "linear")
    axes.set_ylim(low, high)
    format_axis(axes.yaxis, low, high, log=log)
