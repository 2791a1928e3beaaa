"""Figure styles of comparisons: screen, slides, paper and greyscale print."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.errors import ConfigError
from trainer.plots import style
from trainer.plots.style import DPI, FIGURE_INCHES, LINES, SETTINGS, Line, format_axis


@dataclass(frozen=True, slots=True)
class FigureStyle:
    """Size, fonts and line widths of a figure.

    Args:
        inches: width and height.
        font: size of all text, in points.
        line: line width, in points.
        grey: draw in greys; lines differ in dashes and markers.
        title: replaces what the runs have in common in the heading; empty = no heading; None = unchanged.
        labels: labels of groups by their names.
    """

    inches: tuple[float, float] = FIGURE_INCHES
    font: float = 10.5
    line: float = 1.8
    grey: bool = False
    title: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, name: str) -> str:
        """Return the label of a group or a family of groups."""
        return self.labels.get(name, name)


STYLES: dict[str, FigureStyle] = {
    "screen": FigureStyle(),
    "slides": FigureStyle((10.0, 5.6), font=16.0, line=3.0),
    "paper": FigureStyle((5.0, 3.3), font=8.5, line=1.3),
    "print": FigureStyle((6.5, 4.2), font=10.0, line=1.5, grey=True),
}
GREYS = ("#000000", "#555555", "#888888", "#333333", "#707070", "#9a9a9a", "#202020")


def find_style(
    style: str,
    inches: tuple[float, float] | None = None,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> FigureStyle:
    """Return a style by name, optionally with another size, a title and labels; see `FigureStyle`.

    Raises:
        ConfigError: the name is unknown, or the size is out of range.
    """
    if style not in STYLES:
        raise ConfigError(f"unknown style {style!r}", key="--style", expected=", ".join(STYLES))
    figure_style = replace(STYLES[style], title=title, labels=labels or {})
    if inches is None:
        return figure_style
    if not all(1 <= side <= 60 for side in inches):
        raise ConfigError(
            f"a figure of {inches[0]:g} x {inches[1]:g} inches",
            key="--size",
            expected="1 to 60 inches a side",
        )
    return replace(figure_style, inches=inches)


def settings(figure_style: FigureStyle) -> AbstractContextManager[None]:
    """Return a context manager that applies this style and restores matplotlib's settings afterwards."""
    sizes = ("font.size", "axes.titlesize", "figure.titlesize", "legend.fontsize", "axes.labelsize")
    own: dict[Any, Any] = {
        **SETTINGS,
        **dict.fromkeys(sizes, figure_style.font),
        "xtick.labelsize": figure_style.font,
        "ytick.labelsize": figure_style.font,
        "lines.linewidth": figure_style.line,
        "lines.markersize": 3.2 * figure_style.line,
    }
    return style.settings(own)


def new_figure(
    heading: str, figure_style: FigureStyle, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a heading, and its `rows x columns` axes with shared scales, row by row."""
    width, height = figure_style.inches
    if rows > 2:
        height *= rows / 2
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if figure_style.title:
        heading = "\n".join([figure_style.title, *heading.split("\n")[1:]])
    if figure_style.title != "":
        figure.suptitle(plain(fitted(heading, figure_style)))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = [one for row in grid for one in row]
    for one in axes:
        # Ticks are created while drawing, possibly under other settings: set what they need here.
        one.tick_params(
            which="both", labelsize=figure_style.font * (1 if rows * columns == 1 else 0.8),
            grid_color=SETTINGS["grid.color"], grid_linewidth=SETTINGS["grid.linewidth"],
        )  # fmt: skip
    return figure, axes


def fitted(text: str, figure_style: FigureStyle) -> str:
    """Return text wrapped to the width of the figure, preferably between its parts."""
    width = max(int(72 * figure_style.inches[0] / (0.54 * figure_style.font)), 20)
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
            *complete, line = textwrap.wrap(line, width) or [""]
            lines += complete
        lines.append(line)
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return text escaped so that matplotlib draws it literally (no math mode, no hidden legend entry).

    Names come from configs, and matplotlib fails on a pair of dollar signs around text that is not math.
    """
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def line_for(index: int, figure_style: FigureStyle) -> Line:
    """Return the line style of the i-th series; after the seventh, colours and dashes are combined anew."""
    line = LINES[index % len(LINES)]
    if index >= len(LINES):
        line = Line(line.colour, LINES[(index + index // len(LINES)) % len(LINES)].dashes, line.marker)
    return Line(GREYS[index % len(GREYS)], line.dashes, line.marker) if figure_style.grey else line


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], figure_style: FigureStyle) -> None:
    """Put a legend below the axes, in as many columns as fit; a single entry gets no legend."""
    if len(labels) < 2:
        return
    widest_label = int((72 * figure.get_figwidth() / figure_style.font - 5.5) / 0.6)
    labels = [textwrap.fill(label, max(widest_label, 12)) for label in labels]
    columns = len(labels)
    while columns > 1:
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        # A character is about 0.6 font sizes wide; handle and gaps take 5.5 font sizes.
        if sum((0.6 * width + 5.5) * figure_style.font for width in widest) < 72 * figure.get_figwidth():
            break
        columns -= 1
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    if rows > 3:  # Make the figure taller for a long legend, which would otherwise shrink the axes.
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + (rows - 3) * 1.6 * figure_style.font / 72)
    figure.legend(handles, list(map(plain, labels)), loc="outside lower center", ncols=columns)


def set_y_label(axes: Axes, text: str, figure_style: FigureStyle) -> None:
    """Set the label of the vertical axis, wrapped to about the height of the panel.

    Heading, ticks and legend take about 12 font sizes of the figure's height.
    """
    points = 72 * figure_style.inches[1] - 12 * figure_style.font
    axes.set_ylabel(textwrap.fill(text, max(int(points / (0.54 * figure_style.font)), 12)))


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
