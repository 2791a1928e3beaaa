"""Figures of tuning: sensitivity to a swept key, heat map of two, expected best of k trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.compare.curves import common_title
from trainer.compare.figure_style import (
    STYLES,
    FigureStyle,
    legend,
    line_for,
    new_figure,
    scale_x,
    scale_y,
    set_y_label,
    settings,
)
from trainer.compare.groups import Group
from trainer.compare.objective import Selection
from trainer.compare.tuning import Family, HeatMapCell
from trainer.metrics import Metric
from trainer.plots.style import Array, Line, format_number, limits
from trainer.statistics import ExpectedBest, Sensitivity


def draw_sensitivity(
    sensitivities: Mapping[str, Sensitivity],
    key: str,
    selection: Selection,
    groups: Sequence[Group],
    numbers: Mapping[str, int],
    *,
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure:
    """Draw the result against a swept key, with intervals, the good range and diverged settings.

    Args:
        sensitivities: the sensitivity of each family.
        key: the swept key.
        selection: how settings are compared.
        groups: the groups of these families.
        numbers: the number of each family's line.
        figure_style: size, fonts and line widths.
    """
    factor = selection.metric.scale
    settings_ = sorted({value for one in sensitivities.values() for value in one.settings})
    above = [value for value in settings_ if value > 0]
    log_x = settings_[0] >= 0 and bool(above) and above[-1] / above[0] >= 10
    # A log axis has no 0: if the sweep includes 0, draw it one decade left of the smallest value.
    zero = above[0] / 10 if log_x and settings_[0] == 0 else 0.0
    means = [m for one in sensitivities.values() for m in one.centre if m is not None]
    log_y = selection.metric.log and bool(means) and min(means) > 0
    with settings(figure_style):
        parts = [
            f"bar on the axis: within {100 * next(iter(sensitivities.values())).within:.3g} % of the best"
        ]
        if any(low is not None for one in sensitivities.values() for low in one.low):
            parts.append("vertical lines: confidence interval of each mean (Student t)")
        parts += (
            ["X: runs diverged"] if any(map(any, (one.diverged for one in sensitivities.values()))) else []
        )
        parts += (
            ["ring: best at the edge of the grid"]
            if any(o.best_at_edge for o in sensitivities.values())
            else []
        )
        heading = f"{common_title(groups)}\n{' · '.join(parts)}"
        figure, (axes,) = new_figure(heading, figure_style)
        if log_x:
            scale_x(axes, (zero or above[0]) / 1.4, above[-1] * 1.4, log=True)
            if zero:
                ticks = [tick for tick in axes.get_xticks() if above[0] / 1.4 <= tick <= above[-1] * 1.4]
                axes.set_xticks([zero, *ticks], ["0", *map(format_number, ticks)])
                axes.set_xticks([], minor=True)
        else:
            pad = 0.05 * (settings_[-1] - settings_[0]) or 1.0
            scale_x(axes, settings_[0] - pad, settings_[-1] + pad, log=False)
        ends = [
            e
            for one in sensitivities.values()
            for e in (*one.low, *one.high)
            if e is not None and (e > 0 or not log_y)
        ]
        positive_means = [m for m in means if m > 0 or not log_y]
        if log_y and positive_means:
            ends = [end for end in ends if min(positive_means) / 10 < end < max(positive_means) * 10]
        y_limits = limits([factor * np.array([*positive_means, *ends], dtype=np.float64)], log=log_y) or (
            0.1,
            1.0,
        )
        if selection.metric.unit == "%":
            y_limits = max(y_limits[0], -2.0), min(y_limits[1], 100 + 0.04 * (100 - max(y_limits[0], 0.0)))
        scale_y(axes, *y_limits, log=log_y)
        handles = []
        for index, (name, one) in enumerate(sensitivities.items()):
            line = line_for(numbers[name], figure_style)
            handles.append(_draw_family(axes, one, index, line, selection.metric, figure_style, zero))
        axes.set_xlabel(key + (", logarithmic" if log_x else "") + (" but for 0" if zero else ""))
        set_y_label(axes, selection.metric.with_unit(selection.label), figure_style)
        legend(figure, handles, [figure_style.label(name) or "all" for name in sensitivities], figure_style)
    return figure


def _draw_family(
    axes: Any,
    one: Sensitivity,
    index: int,
    line: Line,
    metric: Metric,
    figure_style: FigureStyle,
    zero: float,
) -> Any:
    factor, percent = metric.scale, metric.unit == "%"
    low_edge, high_edge = axes.get_ylim()
    x = np.array([value or zero for value in one.settings])
    y = np.array([math.nan if m is None else factor * m for m in one.centre])
    low = np.array([math.nan if v is None else factor * v for v in one.low])
    high = np.array([math.nan if v is None else factor * v for v in one.high])
    # A setting with diverged runs has no mean, so the line has a gap there.
    (handle,) = axes.plot(x, y, color=line.colour, linestyle=line.dashes, marker=line.marker, zorder=3)
    ends = np.isfinite(low) & np.isfinite(high)
    if percent:  # the interval of Student's t is symmetric and can leave the range of the metric
        low, high = np.maximum(low, 0.0), np.minimum(high, 100.0)
    axes.vlines(
        x[ends], np.clip(low[ends], low_edge, None), np.clip(high[ends], None, high_edge),
        color=line.colour, linewidth=0.8 * figure_style.line, alpha=0.6,
    )  # fmt: skip
    diverged = np.array(one.diverged) > 0
    if diverged.any():
        # At the side of the bad values; below, the bars of the good ranges are at the edge.
        height = 0.97 - 0.05 * index if metric.mode == "min" else 0.1 + 0.05 * index
        axes.plot(
            x[diverged], np.full(int(diverged.sum()), height), "X", markersize=8,
            color=line.colour, markeredgecolor="black", markeredgewidth=0.7,
            transform=axes.get_xaxis_transform(), zorder=5,
        )  # fmt: skip
    if one.good_from is not None and one.good_to is not None:
        # Bars of families lie above one another; the axes have about half the height of the figure.
        width = 2.5 * figure_style.line
        height = (0.6 + 1.3 * index) * width / (36 * figure_style.inches[1])
        axes.plot(
            [one.good_from or zero, one.good_to or zero], [height] * 2, color=line.colour,
            linewidth=width, solid_capstyle="butt", alpha=0.7, transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    if one.best_at_edge and one.best is not None:
        best = one.settings.index(one.best)
        axes.plot(
            [x[best]], [y[best]], "o", markersize=15, markerfacecolor="none", markeredgecolor=line.colour,
            markeredgewidth=1.6, zorder=4, clip_on=False,
        )  # fmt: skip
    return handle


def draw_heat_map(
    cells: Mapping[tuple[float, float], HeatMapCell],
    family: Family,
    selection: Selection,
    keys: tuple[str, str],
    *,
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure:
    """Draw the result over two swept keys.

    A cell with diverged runs shows their number and has no colour, because the mean of the others is biased.

    Args:
        cells: the result of `tuning.heat_map_cells`.
        family: groups that differ in these keys.
        selection: how settings are compared.
        keys: keys of the x and y axes; if less than half of the grid was run (a search), draw points.
        figure_style: size, fonts and line widths.
    """
    across, up = (sorted({setting[i] for setting in cells}) for i in (0, 1))
    means = np.full((len(up), len(across)), np.nan)
    for (x, y), cell in cells.items():
        means[up.index(y), across.index(x)] = selection.metric.scale * cell.score
    with settings(figure_style):
        named = f"{figure_style.label(family.name)}: " if family.name else ""
        value_label = selection.metric.with_unit(selection.label)
        figure, (axes,) = new_figure(f"{common_title(family.groups)}\n{named}{value_label}", figure_style)
        if 2 * len(cells) < means.size:
            _scatter(axes, means, cells, across, up, figure_style, selection=selection)
        else:
            _write_cells(axes, means, cells, across, up, figure_style, selection=selection)
            axes.set_xticks(range(len(across)), [format_number(value) for value in across])
            axes.set_yticks(range(len(up)), [format_number(value) for value in up])
            axes.grid(visible=False)
        axes.set_xlabel(keys[0])
        axes.set_ylabel(keys[1])
    return figure


def _scatter(
    axes: Axes,
    means: Array,
    cells: Mapping[tuple[float, float], HeatMapCell],
    across: Sequence[float],
    up: Sequence[float],
    figure_style: FigureStyle,
    *,
    selection: Selection,
) -> None:
    """Draw the settings of a search as points, coloured by their means."""
    for values, scale in ((across, scale_x), (up, scale_y)):
        log = values[0] > 0 and values[-1] / values[0] >= 10
        margin = (values[-1] / values[0]) ** 0.12 if log else 0.12 * (values[-1] - values[0])
        low, high = (
            (values[0] / margin, values[-1] * margin) if log else (values[0] - margin, values[-1] + margin)
        )
        scale(axes, low, high, log=log)
    shade, low, high = _shades(means, selection)
    colours = matplotlib.colormaps["Greys" if figure_style.grey else "YlGnBu"]
    for x, y in cells:
        row, column = up.index(y), across.index(x)
        diverged = not math.isfinite(means[row, column])
        colour = "none" if diverged else colours((shade[row, column] - low) / (high - low))
        axes.plot(
            [x], [y], "X" if diverged else "o", markersize=1.1 * figure_style.font, markerfacecolor=colour,
            markeredgecolor="black", markeredgewidth=0.6,
        )  # fmt: skip
        text = "diverged" if diverged else f"{means[row, column]:.3g}"
        axes.annotate(
            text, (x, y), xytext=(0, 0.75 * figure_style.font), textcoords="offset points", ha="center",
            fontsize=0.75 * figure_style.font,
        )  # fmt: skip


def _shades(means: Array, selection: Selection) -> tuple[Array, float, float]:
    """Return the coloured values (losses by their logarithm), and the lightest (worst) and darkest value."""
    finite = means[np.isfinite(means)]
    shade = np.log10(means) if selection.metric.log and finite.size and float(finite.min()) > 0 else means
    ends = (float(np.nanmin(shade)), float(np.nanmax(shade))) if finite.size else (0.0, 1.0)
    # The best value gets a medium colour, so that black numbers are readable on it.
    span = (ends[1] - ends[0] or 1.0) / 0.6
    lightest, sign = (ends[0], 1) if selection.rule.mode == "max" else (ends[1], -1)
    return shade, lightest, lightest + sign * span


def _write_cells(
    axes: Axes,
    means: Array,
    cells: Mapping[tuple[float, float], HeatMapCell],
    across: Sequence[float],
    up: Sequence[float],
    figure_style: FigureStyle,
    *,
    selection: Selection,
) -> None:
    """Colour each cell by its mean (the best is the darkest) and write the mean into it."""
    shade, low, high = _shades(means, selection)
    colours = matplotlib.colormaps["Greys" if figure_style.grey else "YlGnBu"]
    axes.imshow((shade - low) / (high - low), cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto")
    for (x, y), cell in cells.items():
        column, row = across.index(x), up.index(y)
        text = (
            f"{means[row, column]:.3g}" if not cell.diverged else f"{cell.diverged} of {cell.runs}\ndiverged"
        )
        axes.text(column, row, text, ha="center", va="center", fontsize=0.75 * figure_style.font)


def draw_budget(
    curves: Mapping[str, ExpectedBest],
    selection: Selection,
    groups: Sequence[Group],
    numbers: Mapping[str, int],
    *,
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure:
    """Draw the expected best of k random trials with its interval, one line per family.

    Args:
        curves: the curve of each family that has one.
        selection: how settings are compared.
        groups: the groups of these families.
        numbers: the number of each family's line.
        figure_style: size, fonts and line widths.
    """
    factor = selection.metric.scale
    with settings(figure_style):
        heading = (
            f"{common_title(groups)}\nexpected best of k random trials · band: nominal 95 % bootstrap "
            "interval; it covers less as k approaches the number of trials"
        )
        figure, (axes,) = new_figure(heading, figure_style)
        last = max(one.budgets[-1] for one in curves.values())
        scale_x(axes, 0.9, last * 1.1, log=True)
        ends = [factor * end for one in curves.values() for end in (one.low, one.high, one.mean)]
        scale_y(axes, *(limits(ends, log=False) or (0.0, 1.0)), log=False)
        handles = []
        for name, one in curves.items():
            line = line_for(numbers[name], figure_style)
            x = np.array(one.budgets, dtype=np.float64)
            axes.fill_between(
                x, factor * one.low, factor * one.high, color=line.colour, alpha=0.16, linewidth=0
            )
            (handle,) = axes.plot(
                x, factor * one.mean, color=line.colour, linestyle=line.dashes, marker=line.marker,
                markevery=max(len(x) // 12, 1),
            )  # fmt: skip
            handles.append(handle)
        axes.set_xlabel("trials k, logarithmic")
        measured = selection.rule.metric.replace("_", " ")
        set_y_label(axes, selection.metric.with_unit(f"expected best {measured}"), figure_style)
        labels = [f"{figure_style.label(name)} ({one.n} trials)" for name, one in curves.items()]
        legend(figure, handles, labels, figure_style)
    return figure
