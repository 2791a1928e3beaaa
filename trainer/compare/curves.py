"""Training curves of groups: a thin line per seed, the centre, a band, and markers for diverged runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.compare.entries import Entry, canonical, differs, metrics_of
from trainer.compare.figure_style import (
    STYLES,
    FigureStyle,
    legend,
    line_for,
    new_figure,
    plain,
    scale_x,
    scale_y,
    set_y_label,
    settings,
)
from trainer.compare.groups import Group
from trainer.metrics import Metric, find
from trainer.plots.style import Array, Line, limits, smooth
from trainer.plots.titles import part_name, title
from trainer.statistics import band as band_over
from trainer.statistics import common_grid
from trainer.statistics.curves import BandKind

Axis = Literal["step", "epoch", "samples", "seconds"]
Scale = Literal["semilogy", "semilogx", "linear", "loglog"]

X_LABELS = {
    "step": "training step (updates)",
    "epoch": "epoch",
    "samples": "training samples seen",
    "seconds": "seconds of training (without evaluations)",
}
_SPLITS = {
    "train": ("training", "running mean"),
    "train_eval": ("training", "eval mode"),
    "val": ("validation", ""),
}
BANDS = {
    "std": "band: ±1 standard deviation",
    "min_max": "band: lowest to highest",
    "quantiles": "band: quartiles",
    "t": "band: pointwise 95 % confidence interval of the mean (Student t)",
    "bootstrap": "band: pointwise bootstrap interval, nominally 95 %",
}
OVERLAID = 7
PANELS = 20
GRID_POINTS = 400
FEW = 25


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """One run's curve: x and y values [N], and whether the run diverged at its end."""

    x: Array
    y: Array
    diverged: bool


def draw_curves(
    groups: Sequence[Group],
    metric: str,
    *,
    x: Axis = "step",
    scale: Scale | None = None,
    centre: Literal["mean", "median"] = "mean",
    band: BandKind | None = "min_max",
    seeds: bool = True,
    smoothed: bool = True,
    heading: str | None = None,
    figure_style: FigureStyle = STYLES["screen"],
    multiples: bool | None = None,
    numbers: Mapping[str, int] | None = None,
) -> Figure | None:
    """Draw a metric of several groups during training. Return None if no run recorded it.

    The centre and its band end where the first run of a group ends; runs that continue are shown by their
    thin lines only. Runs are treated as step functions on the grid of all their records.

    Args:
        groups: groups of one problem, as returned by `group_runs`.
        metric: `loss` (minibatch loss, from steps.csv), or a column of epochs.csv such as `val_accuracy`.
        x: quantity on the x axis; `seconds` counts training time only.
        scale: axis scale; None = semilogy for losses and other errors, linear for fractions and scores.
        centre: statistic over the seeds.
        band: band over the seeds; None = no band. `std` can reach below 0, where a log axis cuts it off.
        seeds: draw a thin line per seed.
        smoothed: smooth minibatch losses per run (centred window, which shrinks at the start; the line stops
            before the end); other columns are never smoothed.
        heading: title of the figure; None = what the groups have in common.
        figure_style: size, fonts and line widths.
        multiples: draw one panel per group, with the other groups in grey behind it; None = do so for more
            than seven groups.
        numbers: the number of each group's line; None = in the order of the groups.
    """
    measured = find(metric, metrics_of(entry for group in groups for entry in group.entries))
    drawn = [(group, series) for group in groups if (series := _series(group, metric, x, smoothed, measured))]
    if not drawn:
        return None
    # A group has the same line in all figures, also where others have no data.
    numbers = numbers or {group.name: index for index, group in enumerate(groups)}
    lines = {group.name: line_for(numbers[group.name], figure_style) for group in groups}
    as_loss = measured.log and metric != "lr"
    log_x, log_y = _logs(scale, drawn, as_loss=as_loss)
    if log_x:
        drawn = [(group, [_after_start(one) for one in series]) for group, series in drawn]
    along = X_LABELS[x] + (", logarithmic" if log_x else "")
    several = len(drawn) > OVERLAID if multiples is None else multiples and len(drawn) > 1
    panels = drawn[:PANELS] if several else drawn
    fitting = max(1, int(figure_style.inches[0] / (0.17 * figure_style.font)))
    columns = min(math.ceil(math.sqrt(len(panels))), 4, fitting) if several else 1
    rows = -(-len(panels) // columns) if several else 1
    with settings(figure_style):
        figure_title = heading if heading is not None else common_title([group for group, _ in drawn])
        cut = f"\nthe first {PANELS} of {len(drawn)} groups" if len(panels) < len(drawn) else ""
        caption = _caption(drawn, centre, band, smoothed and metric == "loss")
        figure, axes = new_figure(
            "\n".join(filter(None, [figure_title, caption])) + cut, figure_style, rows, columns
        )
        _set_limits(axes[0], drawn, measured, log_x=log_x, log_y=log_y, as_loss=as_loss)
        if several:
            _draw_panels(axes, panels, lines, figure_style, centre, band, seeds, columns)
            figure.supxlabel(along, fontsize=figure_style.font)
            figure.supylabel(column_label(metric, measured), fontsize=figure_style.font)
        else:
            handles = [
                _draw_group(axes[0], group, series, lines[group.name], centre, band, seeds=seeds)
                for group, series in panels
            ]
            axes[0].set_xlabel(along)
            set_y_label(axes[0], column_label(metric, measured), figure_style)
            labels = [_label(group, figure_style) for group, _ in panels]
            legend(figure, handles, labels, figure_style)
    return figure


def column_label(column: str, metric: Metric) -> str:
    """Return the axis label of a column, as `training accuracy (running mean, %)`."""
    split = column.removesuffix(f"_{metric.name}")
    if split not in _SPLITS:
        return {"loss": "training loss", "lr": "learning rate"}.get(column, column)
    split_name, kind = _SPLITS[split]
    details = ", ".join(filter(None, (kind, metric.unit)))
    return f"{split_name} {metric.label}" + (f" ({details})" if details else "")


def has_metric(entry: Entry, metric: str) -> bool:
    """Return whether a run recorded any value of a metric."""
    table = entry.run.steps if metric == "loss" or metric not in entry.run.epochs else entry.run.epochs
    return any(value is not None for value in table.get(metric, []))


def common_title(groups: Sequence[Group]) -> str:
    """Return what all runs have in common, as `MLP (hidden 64) on digits · batch 32 · 5 seeds`."""
    entries = [entry for group in groups for entry in group.entries]
    config = dict(entries[0].run.config)
    config |= {"optimizer": _shared_optimizers(entries), "scheduler": None, "seed": None}
    data = dict(config["data"])
    if differs("data.batch_size", entries):
        data.pop("batch_size", None)
    config["data"] = data
    recorded = entries[0].environment.get("data") or {}
    shape = recorded.get("input_shape")
    same_model = len({canonical(entry.run.config.get("model")) for entry in entries}) == 1
    same_data = len({entry.canonical_of("data.name") for entry in entries}) == 1
    parts = [
        title(
            config,
            defaults=entries[0].environment.get("optimizer_defaults"),
            inputs=math.prod(shape) if shape else None,
            outputs=recorded.get("num_classes"),
            width=1000,
        )
        if same_model and same_data
        else part_name(data)
        if same_data
        else ""
    ]
    counts = {len(group.entries) for group in groups}
    low, high = min(counts), max(counts)
    noun = "seed" if high == 1 else "seeds"
    parts.append(
        f"one {noun}" if high == 1 else f"{low} {noun}" if low == high else f"{low} to {high} {noun}"
    )
    return " · ".join(part.replace("\n", " · ") for part in parts if part)


def _shared_optimizers(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the optimizers of all runs with the options that are equal; none if the runs differ in them."""
    every = [entry.run.config["optimizer"] for entry in entries]
    listed = [one if isinstance(one, list) else [one] for one in every]
    first = listed[0]
    if any([one["name"] for one in other] != [one["name"] for one in first] for other in listed):
        return []
    return [
        {
            key: value
            for key, value in one.items()
            if all(canonical(other[place].get(key)) == canonical(value) for other in listed)
        }
        for place, one in enumerate(first)
    ]


# Series


def _series(group: Group, metric: str, x: Axis, smoothed: bool, measured: Metric) -> list[_Series]:
    series = []
    for entry in group.entries:
        one = _curve(entry, metric, x, measured.scale)
        if one is None:
            continue
        if smoothed and metric == "loss" and len(one.y) >= FEW:
            values = smooth(one.y)
            # Keep the unsmoothed last point of a diverged run: it shows the divergence.
            if one.diverged:
                values[-1] = one.y[-1]
            is_drawn = np.isfinite(values) | ~np.isfinite(one.y)
            one = _Series(one.x[is_drawn], values[is_drawn], one.diverged)
        series.append(one)
    return series


def _curve(entry: Entry, metric: str, x: Axis, factor: float) -> _Series | None:
    run = entry.run
    table = run.epochs if metric in run.epochs and metric != "loss" else run.steps
    if metric not in table:
        return None
    columns = [table["train_seconds" if x == "seconds" else x], table[metric]]
    if any(None in column for column in columns):
        pairs = [pair for pair in zip(*columns, strict=True) if None not in pair]
        columns = [list(column) for column in zip(*pairs, strict=True)]
    if not columns or not columns[0]:
        return None
    places, values = (np.array(column, dtype=np.float64) for column in columns)
    values *= factor
    # matplotlib cannot place ticks on an axis that reaches 1e308.
    values[np.abs(values) > 1e60] = np.inf
    return _Series(places, values, run.status["status"] == "diverged")


def _after_start(one: _Series) -> _Series:
    """Return a curve without x = 0: a log axis would show a flat line up to the next value."""
    after_start = one.x > 0
    return _Series(one.x[after_start], one.y[after_start], one.diverged) if after_start.any() else one


def _logs(
    scale: Scale | None, drawn: Sequence[tuple[Group, list[_Series]]], *, as_loss: bool
) -> tuple[bool, bool]:
    if scale is None:
        smallest = min(
            (y.min() for _, series in drawn for s in series if (y := s.y[np.isfinite(s.y)]).size), default=1
        )
        return False, as_loss and smallest > 0
    return scale in ("semilogx", "loglog"), scale in ("semilogy", "loglog")


# Drawing


def _draw_panels(
    axes: Sequence[Axes],
    drawn: Sequence[tuple[Group, list[_Series]]],
    lines: Mapping[str, Line],
    figure_style: FigureStyle,
    centre: Literal["mean", "median"],
    band: BandKind | None,
    seeds: bool,
    columns: int,
) -> None:
    log_x = axes[0].get_xscale() == "log"
    centres = [_centre(series, centre, None, log=log_x)[:2] for _, series in drawn]
    for one, (group, series) in zip(axes, drawn, strict=False):
        for (other, _), (x, y) in zip(drawn, centres, strict=True):
            if other is not group:
                one.plot(x, y, color="#cccccc", linewidth=0.6, zorder=1.5)
        line = Line(lines[group.name].colour, "-", "")
        _draw_group(one, group, series, line, centre, band, seeds=seeds)
        wide = int(72 * figure_style.inches[0] / columns / (0.63 * figure_style.font))
        label = plain(textwrap.fill(_label(group, figure_style), max(wide, 12)))
        # y=1 is where the title would be; without it, matplotlib spends a fifth of the time on finding that.
        one.set_title(label, fontsize=0.8 * figure_style.font, y=1)
        if one.get_xscale() == "linear":
            one.locator_params(axis="x", nbins=4 if columns < 3 or figure_style.inches[0] > 6 else 3)
    for index, one in enumerate(axes[len(drawn) :], start=len(drawn)):
        one.set_visible(False)
        # The panel above an empty cell is the lowest of its column, so it shows the tick labels.
        axes[index - columns].tick_params(labelbottom=True)


def _draw_group(
    axes: Axes,
    group: Group,
    series: Sequence[_Series],
    line: Line,
    centre: Literal["mean", "median"],
    band: BandKind | None,
    *,
    seeds: bool,
) -> Any:
    """Draw one group and return the handle of its legend entry."""
    log_x, log_y = axes.get_xscale() == "log", axes.get_yscale() == "log"
    x, middle, low, high = _centre(series, centre, band, log=log_x)
    # If the seeds were recorded at different x values (seconds), each value is held until the next one.
    stepwise = not _aligned(series)
    style: Any = {"drawstyle": "steps-post"} if stepwise else {}
    (handle,) = axes.plot(
        x,
        _shown(middle, log_y),
        color=line.colour,
        linestyle=line.dashes,
        zorder=3,
        marker=line.marker,
        markevery=max(len(x) // 12, 1),
        **style,
    )
    if len(series) > 1:
        floor = axes.get_ylim()[0]
        if low is not None and high is not None:
            axes.fill_between(
                x, np.maximum(low, floor) if log_y else low, high,
                color=line.colour, alpha=0.16, linewidth=0, zorder=2, step="post" if stepwise else None,
            )  # fmt: skip
        if seeds:
            for one in series:
                axes.plot(
                    one.x, _shown(one.y, log_y), color=line.colour, linewidth=0.6, alpha=0.5, zorder=2.5,
                    **style,
                )  # fmt: skip
    for one in series:
        if one.diverged:
            _mark_divergence(axes, one, line)
    return handle


def _centre(
    curves: Sequence[_Series], centre: Literal["mean", "median"], band: BandKind | None, *, log: bool
) -> tuple[Array, Array, Array | None, Array | None]:
    """Return x, the centre and the ends of the band, up to the end of the shortest run."""
    if len(curves) == 1:
        return curves[0].x, curves[0].y, None, None
    aligned = _aligned(curves)
    series = [(one.x, one.y) for one in curves]
    few = sum(len(one.x) for one in curves) <= GRID_POINTS
    log = log and not aligned and any((one.x > 0).any() for one in curves)
    grid = common_grid(series, None if aligned or few else GRID_POINTS, scale="log" if log else "linear")
    over = band_over(grid.y, centre=centre, kind=band or "std")
    complete = over.n == len(curves)
    # Stop at the first x without all runs: beyond it the centre covers the surviving runs only.
    if complete.any():
        first = int(complete.argmax())
        stops = np.flatnonzero(~complete[first:])
        complete[first + stops[0] if stops.size else len(complete) :] = False
    x = grid.x[complete]
    if band is None:
        return x, over.centre[complete], None, None
    return x, over.centre[complete], over.low[complete], over.high[complete]


def _aligned(series: Sequence[_Series]) -> bool:
    """Return whether the runs were measured at the same x values, up to the end of each run."""
    positions = [one.x[:-1] if one.diverged else one.x for one in series]
    longest = max(positions, key=len)
    return all(np.array_equal(x, longest[: len(x)]) for x in positions)


def _mark_divergence(axes: Axes, one: _Series, line: Line) -> None:
    """Mark the end of a run that diverged, at its last finite value or at the upper edge."""
    last_x = float(one.x[-1])
    low, high = axes.get_ylim()
    last = one.y[np.isfinite(one.y)]
    value = float(last[-1]) if last.size else high
    axes.plot(
        [max(last_x, axes.get_xlim()[0])], [min(max(value, low), high)], marker="X", markersize=9,
        color=line.colour, markeredgecolor="black", markeredgewidth=0.7, linestyle="none", zorder=5,
        clip_on=False,
    )  # fmt: skip


def _set_limits(
    axes: Axes,
    drawn: Sequence[tuple[Group, list[_Series]]],
    metric: Metric,
    *,
    log_x: bool,
    log_y: bool,
    as_loss: bool,
) -> None:
    every = [one for _, series in drawn for one in series]
    last = max(float(one.x.max()) for one in every)
    first = min((float(one.x[one.x > 0].min()) for one in every if (one.x > 0).any()), default=1.0)
    if log_x and last > first:
        scale_x(axes, first * 0.9, last * 1.1, log=True)
    else:
        last = last or 1.0
        scale_x(axes, -0.02 * last, 1.03 * last, log=False)
    # A diverging loss of 1e30 would flatten all other curves.
    start = [float(one.y[0]) for one in every if np.isfinite(one.y[0]) and one.y[0] > 0]
    top = max(start, default=math.inf) * (100 if log_y else 3) if as_loss else math.inf
    y_limits = limits([one.y[one.y <= top] for one in every], log=log_y)
    later_limits = limits([one.y[(one.x > 0) & (one.y <= top)] for one in every], log=log_y)
    if y_limits and later_limits and (metric.unit == "%" or not log_y):
        # Leave out the untrained network where its value would squeeze the rest of the curve against an edge.
        several = any(np.count_nonzero(one.x > 0) > 1 for one in every)
        zoomed = several and later_limits[1] - later_limits[0] < (y_limits[1] - y_limits[0]) / 2
        y_limits = later_limits if zoomed else y_limits
    if y_limits is None:
        y_limits = (0.1, 10.0) if log_y else (0.0, 1.0)
    if metric.unit == "%":
        y_limits = max(y_limits[0], -2.0), min(y_limits[1], 100.0 + 0.04 * (100.0 - max(y_limits[0], 0.0)))
    scale_y(axes, *y_limits, log=log_y)


def _shown(values: Array, log: bool) -> Array:
    return np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)


def _label(group: Group, figure_style: FigureStyle) -> str:
    name, num_diverged = figure_style.label(group.name), group.diverged
    if not num_diverged:
        return name
    return (
        f"{name} (diverged)"
        if len(group.entries) == 1
        else f"{name} ({num_diverged} of {len(group.entries)} diverged)"
    )


def _caption(
    drawn: Sequence[tuple[Group, list[_Series]]],
    centre: Literal["mean", "median"],
    band: BandKind | None,
    smoothed: bool,
) -> str:
    several = max(len(series) for _, series in drawn) > 1
    parts = []
    if several:
        parts.append(f"line: {centre} of the seeds")
        parts += [BANDS[band]] if band else []
    if smoothed:
        parts.append("minibatch loss, smoothed")
    if any(one.diverged for _, series in drawn for one in series):
        parts.append("X: diverged")
    return " · ".join(parts)
