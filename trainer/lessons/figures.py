"""Draws the figure of a lesson from the files of its runs."""

from __future__ import annotations

import io
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from trainer.compare.figure_style import STYLES, FigureStyle, line_for, settings
from trainer.lessons.table import Curves, Difference, Lesson, Panel, StepTimes, TrainVal, Weights
from trainer.plots.style import (
    COLOURS,
    FIGURE_INCHES,
    LINES,
    Array,
    Line,
    format_axis,
    limits,
    render,
    smooth,
)
from trainer.plots.titles import title as run_title
from trainer.runs import rundir

PANEL_INCHES = (4.7, 3.3)
COLOURS_OF_A_FILE = 96
"""Enough for a line drawing; the file is a third as large."""

Runs = Mapping[str, rundir.Run]


def draw_lesson(
    lesson: Lesson,
    runs: Runs,
    path: Path,
    figure_style: FigureStyle = STYLES["screen"],
    *,
    note: str = "",
) -> None:
    """Write a lesson's figure in the format of the path: png, svg or pdf.

    Args:
        lesson: what it shows.
        runs: its runs by label, all of them.
        path: the file to write, in place.
        figure_style: its width relative to that of other figures, fonts and line widths.
        note: text below the title, wrapped to the width of the figure; empty = none.
    """
    columns = min(lesson.columns, len(lesson.panels))
    rows = -(-len(lesson.panels) // columns)
    scale = figure_style.inches[0] / FIGURE_INCHES[0]
    width = scale * PANEL_INCHES[0] * columns * (0.8 if columns > 2 else 1)
    height = scale * (PANEL_INCHES[1] * rows * (0.8 if rows > 1 else 1) + 0.7)
    with settings(figure_style):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        text = textwrap.fill(note, int(72 * width / (0.6 * figure_style.font)))
        figure.suptitle("\n".join(filter(None, [lesson.title, _subtitle(list(runs.values())), text])))
        repeats = {
            run.label: [other.label for other in lesson.runs if other.repeats == run.label]
            for run in lesson.runs
        }
        styles = {run.label: line_for(i, figure_style) for i, run in enumerate(lesson.runs)}
        for axes, panel in zip(
            figure.subplots(rows, columns, squeeze=False).flat, lesson.panels, strict=False
        ):
            axes.set_title(panel.title)
            _draw(axes, panel, runs, styles, repeats)
        _legend(figure, figure_style)
    if path.suffix != ".png":
        rundir.write_atomically(path, render(figure, path.suffix.removeprefix(".")))
        return
    drawing = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
    content = io.BytesIO()
    drawing.quantize(COLOURS_OF_A_FILE, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    rundir.write_atomically(path, content.getvalue())


def _subtitle(runs: Sequence[rundir.Run]) -> str:
    """Return what all runs have in common: network, data and seed."""
    environment = json.loads((runs[0].path / rundir.ENVIRONMENT).read_text(encoding="utf-8"))
    shape, outputs = environment["data"]["input_shape"], environment["data"]["num_classes"]
    inputs = int(np.prod(shape))
    titles = [run_title(run.config, inputs=inputs, outputs=outputs, width=sys.maxsize) for run in runs]
    models = {title.split(" · ")[0] for title in titles}
    return " · ".join([" and ".join(sorted(models)), "one seed"])


def _legend(figure: Figure, figure_style: FigureStyle) -> None:
    """Draw one legend for all panels below them."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        widest = max(map(len, handles)) * 6.4 + 55
        columns = max(1, min(len(handles), int(72 * figure.get_figwidth() / widest)))
        columns = -(-len(handles) // -(-len(handles) // columns))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def _draw(
    axes: Axes,
    panel: Panel,
    runs: Runs,
    styles: Mapping[str, Line],
    repeats: Mapping[str, Sequence[str]],
) -> None:
    if isinstance(panel, Curves):
        _draw_curves(axes, panel, runs, styles)
    elif isinstance(panel, Difference):
        _draw_difference(axes, panel, runs, styles)
    elif isinstance(panel, StepTimes):
        _draw_step_times(axes, panel, runs, styles, repeats)
    elif isinstance(panel, TrainVal):
        _draw_train_val(axes, panel, runs)
    else:
        _draw_weights(axes, panel, runs)


def column(run: rundir.Run, name: str, x: str) -> tuple[Array, Array]:
    """Return x and y [N] of a column where it has values; numbers too large for an axis become infinite.

    A column of a parameter group has the full name, e.g. `lr.output`.
    """
    table = run.epochs if name in run.epochs else run.steps
    pairs = [(a, b) for a, b in zip(table[x], table[name], strict=True) if b is not None]
    cells = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    y = np.where(np.abs(cells[:, 1]) > 1e30, np.inf, cells[:, 1])
    return cells[:, 0], y


def _draw_curves(axes: Axes, panel: Curves, runs: Runs, styles: Mapping[str, Line]) -> None:
    xs, ys = [], []
    labels = list(panel.runs or runs)
    for index, label in enumerate(labels):
        x, y = column(runs[label], panel.column, panel.x)
        y = 100 * y if panel.percent else y
        style, curve = styles[label], y
        if panel.smooth and len(y) > 12:
            curve = smooth(y)
            axes.plot(
                x,
                y,
                ".",
                color=style.colour,
                markersize=2,
                alpha=max(0.12, min(0.5, 40 / len(x))),
                zorder=1,
            )
        # A curve that later ones cover is wider, so that it stays visible.
        covered = sum(_coincide(runs[label], runs[other], panel) for other in labels[index + 1 :])
        axes.plot(
            x, curve, color=style.colour, linestyle=style.dashes, linewidth=1.5 + 1.8 * covered, label=label,
            alpha=0.6 if covered else 1,
            marker=style.marker if len(x) <= 25 else "",
        )  # fmt: skip
        _mark_divergence(axes, runs[label], x, y, style)
        xs.append(x)
        ys.append(curve if panel.smooth and len(y) > 12 else y)
    _scale(axes, panel, xs, ys)


def _coincide(one: rundir.Run, other: rundir.Run, panel: Curves) -> bool:
    """Return whether the curves of two runs cover each other."""
    first, second = column(one, panel.column, panel.x)[1], column(other, panel.column, panel.x)[1]
    if len(first) != len(second):
        return False
    if not panel.log_y and len(first) > 2:  # the axis shows differences from a later value, not from 0
        size = np.ptp(np.concatenate([first[1:], second[1:]]))
    else:
        size = np.maximum(np.abs(first), 1e-12)
    with np.errstate(all="ignore"):
        return bool(np.nanmedian(np.abs(first - second) / size) < 0.02)


def _mark_divergence(axes: Axes, run: rundir.Run, x: Array, y: Array, style: Line) -> None:
    """Mark the end of a run whose loss was no longer finite."""
    if run.status["status"] != "diverged" or not len(x):
        return
    axes.plot(
        [x[-1]], [0.97], marker="X", markersize=10, color=style.colour, markeredgecolor="white",
        transform=axes.get_xaxis_transform(), clip_on=False, zorder=6,
    )  # fmt: skip
    axes.annotate(
        "diverged", (x[-1], 0.97), xycoords=axes.get_xaxis_transform(), xytext=(8, 0),
        textcoords="offset points", va="center", color=style.colour, annotation_clip=False,
    )  # fmt: skip


LABELS = {"step": "training step", "epoch": "epoch", "samples": "images seen"}


def _scale(axes: Axes, panel: Curves, xs: Sequence[Array], ys: Sequence[Array]) -> None:
    last = max((float(x[-1]) for x in xs if len(x)), default=1.0)
    first = min((float(x[x > 0][0]) for x in xs if (x > 0).any()), default=1.0)
    if panel.log_x:
        axes.set_xscale("log")
        low, high = 0.8 * first, 1.3 * last
    else:
        low, high = -0.02 * last, 1.03 * last
    axes.set_xlim(low, high)
    format_axis(axes.xaxis, low, high, log=panel.log_x)
    axes.set_xlabel(LABELS[panel.x] + (", logarithmic" if panel.log_x else ""))
    later = [y[x > 0] for x, y in zip(xs, ys, strict=True)]
    y_limits = limits(ys, log=panel.log_y)
    if panel.x == "epoch" and _range(later, panel.log_y) < 0.5 * _range(ys, panel.log_y):
        # The untrained network's value would compress the rest of the curve, so it can be outside the limits.
        y_limits = limits(later, log=panel.log_y)
    if y_limits:
        if panel.log_y:
            axes.set_yscale("log")
        if panel.percent:
            y_limits = (max(y_limits[0], 0.0), min(y_limits[1], 101.0))
        axes.set_ylim(*y_limits)
        format_axis(axes.yaxis, *y_limits, log=panel.log_y)
    axes.set_ylabel(panel.ylabel)


def _range(ys: Sequence[Array], log: bool) -> float:
    y_limits = limits(ys, log=log)
    if y_limits is None:
        return 0.0
    return math.log10(y_limits[1] / y_limits[0]) if log else y_limits[1] - y_limits[0]


def _draw_difference(axes: Axes, panel: Difference, runs: Runs, styles: Mapping[str, Line]) -> None:
    step, expected = column(runs[panel.reference], "loss", "step")
    zeros = False
    for label in panel.runs:
        _, loss = column(runs[label], "loss", "step")
        away, style = np.abs(loss - expected), styles[label]
        if not away.any():
            zeros = True
            axes.plot(
                step, np.full(len(step), 0.035), color=style.colour, linestyle=style.dashes, linewidth=3,
                transform=axes.get_xaxis_transform(), label=label,
            )  # fmt: skip
            axes.annotate(
                f"exactly 0 at all {len(step):,} steps logged", (0.5, 0.06), xycoords="axes fraction",
                ha="center", va="bottom", color=style.colour,
            )  # fmt: skip
            continue
        axes.plot(
            step,
            np.where(away > 0, away, np.nan),
            ".",
            color=style.colour,
            markersize=3,
            alpha=0.7,
            label=label,
        )
    axes.set_yscale("log")
    axes.set_ylim(1e-11 if zeros else 1e-8, 1e-2)
    axes.set_xlabel("training step")
    axes.set_ylabel("|difference of the losses|")
    format_axis(axes.xaxis, 0, float(step[-1]), log=False)


def step_milliseconds(run: rundir.Run) -> float:
    """Return the mean milliseconds per step of a finished run."""
    assert run.result is not None, "a finished run has a result"
    return 1000 * run.result.train_seconds / max(run.result.steps, 1)


def _draw_step_times(
    axes: Axes,
    panel: StepTimes,
    runs: Runs,
    styles: Mapping[str, Line],
    repeats: Mapping[str, Sequence[str]],
) -> None:
    all_times = [[step_milliseconds(runs[name]) for name in (label, *repeats[label])] for label in panel.runs]
    middle = [float(np.median(times)) for times in all_times]
    error_bars = [[m - min(t) for m, t in zip(middle, all_times, strict=True)],
             [max(t) - m for m, t in zip(middle, all_times, strict=True)]]  # fmt: skip
    bars = axes.bar(panel.runs, middle, color=[styles[label].colour for label in panel.runs], width=0.6)
    axes.errorbar(panel.runs, middle, error_bars, fmt="none", ecolor="black", elinewidth=1, capsize=4)
    axes.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    axes.set_ylim(0, 1.1 * max(map(max, all_times)))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("milliseconds per step")


def _draw_train_val(axes: Axes, panel: TrainVal, runs: Runs) -> None:
    run, ys = runs[panel.run], []
    for name, label, style in (
        ("train_eval_loss", "training loss", LINES[0]),
        ("val_loss", "validation loss", LINES[1]),
    ):
        x, y = column(run, name, "epoch")
        axes.plot(x, y, color=style.colour, linestyle=style.dashes, linewidth=1.7, label=label)
        ys.append(y)
    best = int(np.argmin(ys[1]))
    axes.plot(
        x[best], ys[1][best], marker="o", color=COLOURS["black"], markersize=5, linestyle="none", zorder=5,
        label="lowest validation loss",
    )  # fmt: skip
    _, _, accuracy = (None, *column(run, "val_accuracy", "epoch"))
    axes.annotate(
        f"best {ys[1].min():.3f}\nlast {ys[1][-1]:.3f}\naccuracy {100 * accuracy[-1]:.1f} %", (0.04, 0.05),
        xycoords="axes fraction", va="bottom", fontsize=9, linespacing=1.3,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(3e-4, 4)
    format_axis(axes.yaxis, 3e-4, 4, log=True)
    axes.set_xlabel("epoch")


def _draw_weights(axes: Axes, panel: Weights, runs: Runs) -> None:
    snapshots = rundir.read_histograms(runs[panel.run].path)
    last = f"after epoch {snapshots[-1]['epoch']:g}"
    # Greys: the colours are those of the runs.
    for number, (snapshot, label) in enumerate(((snapshots[0], "start"), (snapshots[-1], last))):
        layer = snapshot["layers"][panel.weight]
        edges, counts = np.asarray(layer["edges"]), np.asarray(layer["counts"], dtype=np.float64)
        density = counts / counts.sum() / np.diff(edges)
        axes.stairs(
            density,
            edges,
            fill=number == 0,
            color="#b0b0b0" if number == 0 else COLOURS["black"],
            linewidth=1.4,
            label=label,
        )
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.set_xlabel("weight")
