"""The figures of one run: loss, metrics, learning rate, gradient norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.metrics import BUILT_IN, LOSS, Metric, metric_name
from trainer.plots.style import (
    COLOURS,
    LINES,
    ORDERED_COLOURS,
    Array,
    Line,
    format_axis,
    legend,
    limits,
    new_figure,
    settings,
    smooth,
    write,
)
from trainer.plots.titles import title

Table = Mapping[str, list[float | None]]

TRAIN, VAL, TRAIN_EVAL, TEST = LINES[0], LINES[1], LINES[2], Line(COLOURS["black"], "none", "*")
FEW_POINTS = 12
MANY_POINTS = 2000


@dataclass(frozen=True)
class Curves:
    """The records of a run as plain tables.

    Args:
        config: the resolved config as plain dicts.
        steps: the columns of steps.csv.
        epochs: the columns of epochs.csv.
        summary: summary.json; None while the run is in progress.
        metrics: the metrics of the run in addition to the built-in ones.
        defaults: default options by optimizer name; the title leaves them out.
        inputs: input features per sample, for the title of an mlp; None = unknown.
        outputs: number of classes or targets, for the same title; None = unknown.
    """

    config: Mapping[str, Any]
    steps: Table
    epochs: Table
    summary: Mapping[str, Any] | None = None
    metrics: Sequence[Metric] = ()
    defaults: Mapping[str, Mapping[str, Any]] | None = None
    inputs: int | None = None
    outputs: int | None = None


def plot_run(
    curves: Curves,
    folder: Path,
    *,
    formats: Sequence[str] = ("png",),
    part: slice = slice(None),
    save: Callable[[Figure, Path], None] | None = None,
    failed: Callable[[str, Exception], None] | None = None,
) -> list[Path]:
    """Draw every figure for which the run has data, and return the paths in drawing order.

    `loss` and `loss_logx` are always drawn; metrics (as `accuracy`), `lr` and `gradients` if their columns
    have values.

    Args:
        curves: the run.
        folder: output folder, created if it does not exist.
        formats: png, svg or pdf, one file of each.
        part: which figures, in drawing order.
        save: function that writes a figure to its path; None = `style.write`.
        failed: called with the name of a figure that cannot be drawn and the reason; None = raise the error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in list(_drawings(curves))[part]:
        try:
            with settings():
                figure = draw(curves)
            if figure is None:
                continue
            for file_format in formats:
                path = folder / f"{name}.{file_format}"
                (save or write)(figure, path)
                paths.append(path)
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
    return paths


def draw_loss(curves: Curves, *, log_steps: bool = False) -> Figure | None:
    """Return a figure of minibatch and evaluation losses against steps; log y unless losses are negative."""
    step, loss = _points(curves.steps, "loss")
    evaluations = [
        ("train, running mean", TRAIN, *_points(curves.epochs, "train_loss")),
        ("train, eval mode", TRAIN_EVAL, *_points(curves.epochs, "train_eval_loss")),
        ("validation", VAL, *_points(curves.epochs, "val_loss")),
    ]
    evaluations = [one for one in evaluations if len(one[2])]
    if not len(step) and not evaluations:
        return None
    figure, axes = _figure(curves)
    values = [loss, *(one[3] for one in evaluations)]
    log = not any((v < 0).any() for v in values)
    _set_steps(axes, [step, *(one[2] for one in evaluations)], log=log_steps)
    _set_values(axes, values, log=log)
    _draw_cloud(axes, step, loss, LINES[5], "minibatch")
    for label, line, x, y in evaluations:
        _draw_evaluations(axes, x, y, line, label)
    _draw_test(axes, curves, LOSS)
    _mark_end(axes, curves, step, loss, evaluations)
    axes.set_ylabel(f"loss ({_loss_name(curves.config)})")
    return _finish(figure, axes, curves)


def draw_loss_logx(curves: Curves) -> Figure | None:
    """Return a figure of the loss against the logarithm of the step, which shows the first steps."""
    return draw_loss(curves, log_steps=True)


def draw_metric(curves: Curves, metric: Metric) -> Figure | None:
    """Return a figure of the evaluations of a metric, or None if the run has none."""
    series = [
        ("train, running mean", TRAIN, *_points(curves.epochs, f"train_{metric.name}")),
        ("train, eval mode", TRAIN_EVAL, *_points(curves.epochs, f"train_eval_{metric.name}")),
        ("validation", VAL, *_points(curves.epochs, f"val_{metric.name}")),
    ]
    series = [(label, line, x, metric.scale * y) for label, line, x, y in series if len(x)]
    test = _test(curves, metric.name)
    if not series and test is None:
        return None
    figure, axes = _figure(curves)
    _set_steps(axes, [one[2] for one in series] + ([np.array([test[0]])] if test else []))
    later = [y[x > 0] for _, _, x, y in series] + ([np.array([metric.scale * test[1]])] if test else [])
    every = [y for _, _, _, y in series] + later
    if metric.log and all((values > 0).all() for values in every):
        _set_values(axes, every, log=True)
    else:
        # The untrained network would squeeze the rest against an edge: leave it out of the limits.
        spread, full_spread = (_spread(values) for values in (later, every))
        several = any(np.count_nonzero(x > 0) > 1 for _, _, x, _ in series)
        y_limits = limits(later if several and spread and full_spread > 2 * spread else every, log=False)
        low, high = y_limits or (0.0, float(metric.scale))
        if metric.unit == "%":
            low, high = max(low, -2.0), min(high, 100.0 + 0.04 * (100.0 - low))
        if low >= high:
            low, high = 0.0, float(metric.scale)
        axes.set_ylim(low, high)
        format_axis(axes.yaxis, low, high, log=False)
    for label, line, x, y in series:
        _draw_evaluations(axes, x, y, line, label)
    _draw_test(axes, curves, metric)
    steps, losses = _points(curves.steps, "loss")
    _mark_end(axes, curves, steps, losses, series)
    axes.set_ylabel(metric.with_unit(metric.label))
    return _finish(figure, axes, curves)


def draw_lr(curves: Curves) -> Figure | None:
    """Return a figure of the learning rate per parameter group; log y if they span a factor above 10."""
    names = [name for name in curves.steps if name == "lr" or name.startswith("lr.")]
    series = [(name.removeprefix("lr."), *_points(curves.steps, name)) for name in names]
    series = [one for one in series if len(one[1])]
    if not series:
        return None
    figure, axes = _figure(curves)
    positive = np.concatenate([y[np.isfinite(y) & (y > 0)] for _, _, y in series])
    log = bool(positive.size) and float(positive.max() / positive.min()) > 10
    _set_steps(axes, [x for _, x, _ in series])
    _set_values(axes, [y for _, _, y in series], log=log, from_zero=True)
    for i, (label, x, y) in enumerate(series):
        line = LINES[i % len(LINES)]
        drawn_x, drawn_y = _schedule_line(x, y)
        axes.plot(
            drawn_x,
            _positive(drawn_y) if log else drawn_y,
            color=line.colour,
            linestyle=line.dashes,
            marker=line.marker if len(x) == 1 else "",
            # Lines of groups with the same rate overlap: draw lower ones wider, so that they stay visible.
            linewidth=2 + 1.4 * (len(series) - 1 - i) / max(len(series) - 1, 1),
            label="learning rate" if label == "lr" else label,
        )
    axes.set_ylabel("learning rate")
    return _finish(figure, axes, curves)


def draw_gradients(curves: Curves) -> Figure | None:
    """Return a figure of the total gradient norm and the norm per parameter, if they were logged."""
    step, total = _points(curves.steps, "grad_norm")
    names = [name for name in curves.steps if name.startswith("grad_norm.")]
    parts = [(name.removeprefix("grad_norm."), *_points(curves.steps, name)) for name in names]
    parts = [one for one in parts if len(one[1])]
    if not len(step) and not parts:
        return None
    figure, axes = _figure(curves)
    _set_steps(axes, [step, *(x for _, x, _ in parts)])
    _set_values(axes, [total, *(smooth(y) for _, _, y in parts)], log=True)
    black = Line(COLOURS["black"], "-", "o")
    _draw_cloud(axes, step, total, black, "all parameters")
    if len(parts) < len(LINES):
        looks = list(LINES[: len(parts)])
    else:
        shades = matplotlib.colormaps[ORDERED_COLOURS](np.linspace(0, 0.95, len(parts)))
        looks = [Line(matplotlib.colors.to_hex(shade), "-", "o") for shade in shades]
    named = {0, len(parts) // 2, len(parts) - 1} if len(parts) >= len(LINES) else set(range(len(parts)))
    for i, ((name, x, y), line) in enumerate(zip(parts, looks, strict=True)):
        marker = line.marker if len(x) < FEW_POINTS else ""
        label = name if i in named else "_"
        axes.plot(
            x,
            _positive(smooth(y)),
            color=line.colour,
            linestyle=line.dashes,
            marker=marker,
            label=label,
            linewidth=1.3,
        )
    axes.set_ylabel("gradient norm (2-norm)")
    return _finish(figure, axes, curves)


DRAWINGS: dict[str, Callable[[Curves], Figure | None]] = {
    "loss": draw_loss,
    "loss_logx": draw_loss_logx,
    "lr": draw_lr,
    "gradients": draw_gradients,
}
"""The figures in addition to those of the metrics, which have the names of the metrics."""


def _drawings(curves: Curves) -> Iterator[tuple[str, Callable[[Curves], Figure | None]]]:
    """Yield the name and the function of every figure."""
    measured = {metric_name(column) for column in curves.epochs}
    metrics = {metric.name: metric for metric in (*BUILT_IN.values(), *curves.metrics) if metric != LOSS}
    for name, draw in DRAWINGS.items():
        if name == "lr":
            for metric in metrics.values():
                if metric.name in measured:
                    yield metric.name, partial(draw_metric, metric=metric)
        yield name, draw


def _points(table: Table, name: str) -> tuple[Array, Array]:
    """Return the steps [N] and values [N] of the non-empty cells of a column.

    Values far outside the range of float32 become infinity or 0, because matplotlib cannot place ticks on an
    axis up to 1e308.
    """
    pairs = [
        (x, y) for x, y in zip(table.get("step", []), table.get(name, []), strict=False) if y is not None
    ]
    cells = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    x, y = cells[:, 0], cells[:, 1]
    y[np.abs(y) > 1e60] = np.inf
    y[np.abs(y) < 1e-60] = 0
    return x, y


def _schedule_line(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the line of a schedule: single jumps are drawn vertical, gradual changes are connected."""
    changes = np.concatenate([[False], y[1:] != y[:-1], [False]])
    jumps = np.flatnonzero(changes[1:-1] & ~changes[:-2] & ~changes[2:]) + 1
    return np.insert(x, jumps, x[jumps]), np.insert(y, jumps, y[jumps - 1])


def _positive(values: Array) -> Array:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _spread(values: Sequence[Array]) -> float:
    finite = np.concatenate([np.empty(0), *[v[np.isfinite(v)] for v in values]])
    return float(np.ptp(finite)) if finite.size else 0.0


def _figure(curves: Curves) -> tuple[Figure, Axes]:
    return new_figure(
        title(curves.config, defaults=curves.defaults, inputs=curves.inputs, outputs=curves.outputs)
    )


def _finish(figure: Figure, axes: Axes, curves: Curves) -> Figure:
    _draw_epochs(axes, curves)
    legend(figure)
    return figure


def _set_steps(axes: Axes, steps: Sequence[Array], *, log: bool = False) -> None:
    last = max([1.0, *(float(x.max()) for x in steps if len(x))])
    if log:
        axes.set_xscale("log")
        low, high = 0.9, max(last, 2.0) * (max(last, 2.0) ** 0.03)
        axes.set_xlabel("training step (updates), logarithmic")
    else:
        low, high = -0.02 * last, 1.03 * last
        axes.set_xlabel("training step (updates)")
    axes.set_xlim(low, high)
    format_axis(axes.xaxis, low, high, log=log)
    if not log and last < 7:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def _set_values(axes: Axes, values: Sequence[Array], *, log: bool, from_zero: bool = False) -> None:
    y_limits = limits(values, log=log)
    if log:
        axes.set_yscale("log")
    if y_limits is None:
        y_limits = (0.1, 10.0) if log else (0.0, 1.0)
    elif from_zero and not log:
        y_limits = (0.0, y_limits[1])
    axes.set_ylim(*y_limits)
    format_axis(axes.yaxis, *y_limits, log=log)


def _draw_epochs(axes: Axes, curves: Curves) -> None:
    """Add an upper axis in epochs, if an epoch above 0 was recorded."""
    per_epoch = None
    for table in (curves.epochs, curves.steps):
        step, epoch = _points(table, "epoch")
        if len(step) and epoch[-1] > 0:
            per_epoch = step[-1] / epoch[-1]
    if per_epoch is None:
        return
    upper = axes.secondary_xaxis("top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
    upper.set_xlabel("epoch")
    low, high = (edge / per_epoch for edge in axes.get_xlim())
    format_axis(upper.xaxis, low, high, log=axes.get_xscale() == "log")


def _draw_cloud(axes: Axes, x: Array, y: Array, line: Line, label: str) -> None:
    """Draw the raw points faintly with a smoothed line; few points are connected without smoothing."""
    drawn_y = _positive(y) if axes.get_yscale() == "log" else y
    if len(x) < FEW_POINTS:
        axes.plot(x, drawn_y, color=line.colour, marker=".", linewidth=1.0, label=label)
        return
    few = len(x) < 500
    axes.plot(
        x, drawn_y, "o", color=line.colour, markersize=2.6 if few else 1.8, markeredgewidth=0,
        alpha=0.5 if few else max(0.1, 0.5 * (500 / len(x)) ** 0.5), rasterized=len(x) > MANY_POINTS,
    )  # fmt: skip
    if axes.get_yscale() == "log" and (y == 0).any():
        axes.plot(
            x[y == 0], np.zeros(np.count_nonzero(y == 0)), marker="v", linestyle="none", color=line.colour,
            alpha=0.5, transform=axes.get_xaxis_transform(), label=f"{label} exactly 0 (below the axis)",
        )  # fmt: skip
    line_y = smooth(y)
    axes.plot(x, _positive(line_y) if axes.get_yscale() == "log" else line_y, color=line.colour)
    # One entry for both: the points are too faint to recognise in a legend.
    axes.plot([], [], color=line.colour, marker="o", markersize=3, label=f"{label} (line: smoothed)")


def _draw_evaluations(axes: Axes, x: Array, y: Array, line: Line, label: str) -> None:
    drawn_y = _positive(y) if axes.get_yscale() == "log" else y
    log_steps = axes.get_xscale() == "log"
    axes.plot(
        _positive(x) if log_steps else x,
        drawn_y,
        color=line.colour,
        linestyle=line.dashes,
        marker=line.marker if len(x) <= 60 else "",
        label=label,
        zorder=3,
    )
    start = drawn_y[x == 0]
    if log_steps and start.size and np.isfinite(start[0]):
        axes.set_xlabel("training step (updates), logarithmic; hollow: before the first")
        axes.plot(
            [0.0], start[:1], marker=line.marker, color=line.colour, markerfacecolor="white", zorder=4,
            transform=axes.get_yaxis_transform(), clip_on=False,
        )  # fmt: skip


def _test(curves: Curves, name: str) -> tuple[float, float] | None:
    """Return the step at which the test split was evaluated, and the result."""
    summary = curves.summary or {}
    test = summary.get("test")
    if not test or not isinstance(test.get(name), int | float) or not math.isfinite(test[name]):
        return None
    moment = summary.get(str(test.get("checkpoint", "final"))) or summary.get("final") or {}
    step = moment.get("step", summary.get("steps"))
    return None if step is None else (float(step), float(test[name]))


def _draw_test(axes: Axes, curves: Curves, metric: Metric) -> None:
    test = _test(curves, metric.name)
    if test is None or (axes.get_yscale() == "log" and test[1] <= 0):
        return
    low, high = axes.get_ylim()
    value = metric.scale * test[1]
    label = f"test {format(test[1], metric.spec or '.4g').replace('%', ' %')}"
    axes.plot(
        [test[0]], [value], marker=TEST.marker, color=TEST.colour, linestyle="none", markersize=11,
        markeredgecolor="white", label=label, zorder=5, clip_on=False,
    )  # fmt: skip
    axes.set_ylim(min(low, value), max(high, value))


def _mark_end(axes: Axes, curves: Curves, step: Array, loss: Array, evaluations: Sequence[Any]) -> None:
    """Mark where the run diverged: at the first non-finite loss, or at the last loss if it grew too large."""
    bad = [x[~np.isfinite(y)] for x, y in [(step, loss), *((one[2], one[3]) for one in evaluations)]]
    end_candidates = [float(x[0]) for x in bad if len(x)]
    diverged = (curves.summary or {}).get("status") == "diverged"
    if not end_candidates and diverged:
        end_candidates = [float(x[-1]) for x in (step, *(one[2] for one in evaluations)) if len(x)][:1]
    if not end_candidates:
        return
    end_x = max(min(end_candidates), axes.get_xlim()[0])
    axes.plot(
        [end_x], [0.96], marker="X", markersize=11, color=COLOURS["black"], markeredgecolor="white",
        linestyle="none", transform=axes.get_xaxis_transform(), zorder=6, clip_on=False,
    )  # fmt: skip
    low, high = axes.transData.transform([[axes.get_xlim()[0], 1], [axes.get_xlim()[1], 1]])[:, 0]
    pixel_x = axes.transData.transform((end_x, 1))[0]
    left = (pixel_x - low) / (high - low) > 0.75
    axes.annotate(
        "diverged", (end_x, 0.96), xycoords=axes.get_xaxis_transform(), xytext=(-9 if left else 9, 0),
        textcoords="offset points", ha="right" if left else "left", va="center", weight="bold",
    )  # fmt: skip


def _loss_name(config: Mapping[str, Any]) -> str:
    loss = config.get("loss", "loss")
    name = loss if isinstance(loss, str) else str(loss.get("name", "loss"))
    return name.rpartition(":")[2].replace("_", " ")
