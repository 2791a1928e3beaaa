"""Figures of what a trained model does with samples: reconstructions, new samples, decision boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainer.plots.style import COLOURS, DPI, LINES, Array, format_axis, new_figure

MAX_LEGEND = 10


def drawings(examples: Mapping[str, Any], title: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the name of every figure for which there are examples, and a function that draws it.

    Args:
        examples: see `training.examples.make_examples`.
        title: title of the figures.
    """
    if "reconstructions" in examples:
        yield "reconstructions", lambda: draw_reconstructions(examples, title)
    if "samples" in examples:
        yield "samples", lambda: draw_samples(examples, title)
    if "boundary" in examples:
        yield "decision_boundary", lambda: draw_boundary(examples["boundary"], title)


def draw_reconstructions(examples: Mapping[str, Any], title: str) -> Figure:
    """Return a figure of inputs and their reconstructions: images in two rows, or curves in panels."""
    shape = examples["shape"]
    inputs, outputs = _arrays(examples["inputs"], shape), _arrays(examples["reconstructions"], shape)
    if len(shape) == 3:
        figure, grid = _panels(2, len(inputs), f"{title}\nabove: inputs, below: reconstructions")
        limits = _limits(inputs)
        for column in range(len(inputs)):
            _draw_image(grid[0, column], inputs[column], limits)
            _draw_image(grid[1, column], outputs[column], limits)
        return figure
    columns = min(len(inputs), 5)
    figure, grid = _panels(-(-len(inputs) // columns), columns, title)
    for axes, one, other in zip(grid.flat, inputs, outputs, strict=False):
        axes.plot(one.ravel(), color=LINES[0].colour, label="input")
        axes.plot(other.ravel(), color=LINES[1].colour, linestyle="--", label="reconstruction")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_samples(examples: Mapping[str, Any], title: str) -> Figure:
    """Return a figure of samples that the model has drawn."""
    shape = examples["shape"]
    samples = _arrays(examples["samples"], shape)
    columns = min(len(samples), 8)
    figure, grid = _panels(-(-len(samples) // columns), columns, f"{title}\nsamples of the model")
    limits = _limits(_arrays(examples["inputs"], shape))
    for axes, sample in zip(grid.flat, samples, strict=False):
        if len(shape) == 3:
            _draw_image(axes, sample, limits)
        else:
            axes.plot(sample.ravel(), color=LINES[0].colour)
    return figure


def draw_boundary(boundary: Mapping[str, Any], title: str) -> Figure:
    """Return a figure of the class that the model predicts at each point, and of training samples."""
    x, y = np.array(boundary["x"]), np.array(boundary["y"])
    classes = np.array(boundary["classes"])
    labels, points = np.array(boundary["labels"]), np.array(boundary["points"]).reshape(-1, 2)
    shown = sorted({*classes.ravel().tolist(), *labels.tolist()})
    colours = _class_colours(max(shown) + 1)
    # From white, at the smallest possible probability of the most probable class, to the colour at 1.
    least = 1 / max(len(colours), 2)
    certainty = np.array(boundary["probabilities"], dtype=np.float64)
    strength = np.clip((certainty - least) / (1 - least), 0, 1)[..., None] * 0.55 + 0.1
    image = 1 - strength * (1 - colours[classes])
    figure, axes = new_figure(title)
    axes.grid(visible=False)
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    axes.imshow(np.nan_to_num(image), origin="lower", extent=extent, aspect="auto", interpolation="nearest")
    for one in shown[:-1]:
        axes.contour(x, y, classes <= one, levels=[0.5], colors=COLOURS["black"], linewidths=0.8)
    markers = [LINES[one % len(LINES)].marker for one in shown]
    for one, marker in zip(shown, markers, strict=True):
        chosen = points[labels == one]
        axes.plot(chosen[:, 0], chosen[:, 1], marker, color=colours[one], markersize=3.5,
                  markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    format_axis(axes.xaxis, x[0], x[-1], log=False)
    format_axis(axes.yaxis, y[0], y[-1], log=False)
    axes.set_xlabel("feature 0")
    axes.set_ylabel("feature 1")
    if len(shown) <= MAX_LEGEND:
        handles = [
            Line2D([], [], color=colours[one], marker=marker, linestyle="none", label=f"class {one}")
            for one, marker in zip(shown, markers, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _panels(rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    """Return a figure, and its axes [rows, columns] without ticks."""
    figure = Figure(figsize=(max(5.0, 0.95 * columns), 0.75 + 0.95 * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    return figure, grid


def _arrays(rows: Sequence[Sequence[float | None]], shape: Sequence[int]) -> Array:
    """Return samples [n, *shape]; values that were not finite are NaN."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), *shape)


def _limits(images: Array) -> tuple[float, float]:
    """Return the values to show as black and white."""
    finite = images[np.isfinite(images)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1)


def _draw_image(axes: Axes, image: Array, limits: tuple[float, float]) -> None:
    """Draw an image [C, H, W]: in colour if C is 3, else its first channel in grey."""
    low, high = limits
    unit = np.clip(np.nan_to_num((image - low) / (high - low)), 0, 1)
    axes.set_axis_off()
    axes.imshow(unit.transpose(1, 2, 0) if len(image) == 3 else unit[0], cmap="gray", vmin=0, vmax=1)


def _class_colours(count: int) -> Array:
    """Return a colour per class, [count, 3]."""
    if count <= len(LINES):
        return np.array([matplotlib.colors.to_rgb(line.colour) for line in LINES[:count]])
    return matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))[:, :3]
