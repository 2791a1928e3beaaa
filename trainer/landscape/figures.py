"""Draw the paths of optimizers on a surface, as a contour figure and as an animated GIF."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from trainer.compare.figure_style import STYLES, FigureStyle, fitted, legend, line_for, settings
from trainer.landscape.paths import Array, Descent
from trainer.plots.style import COLOURS, FIGURE_INCHES, LINES, Line, format_axis, limits, render
from trainer.plots.titles import format_value, part_name
from trainer.problems import Surface

FRAMES = 90
FRAME_MS = 60
LAST_FRAME_MS = 2000
# Colours are used only for the paths; the contours are grey, dark for small values.
CONTOUR_COLOURS = ListedColormap(np.stack([np.linspace(0.72, 0.985, 24)] * 3, axis=1))
View = tuple[tuple[float, float], tuple[float, float]]

MAX_EXTENSION = 0.6
MIN_SHOWN = 1e-14
"""Smaller values of f are drawn at this value: they are dominated by rounding errors."""


def draw_landscape(
    surface: Surface,
    descents: Sequence[Descent],
    heading: str,
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure:
    """Return a figure with the paths on the contours of the surface, and f over the steps."""
    scale = figure_style.inches[0] / FIGURE_INCHES[0]
    with settings(figure_style):
        wide = replace(figure_style, inches=(11.0 * scale, 5.2 * scale))
        figure, (ground, fall) = _frame(fitted(heading, wide), wide.inches, 2)
        view = _view(surface, descents)
        _draw_contours(ground, surface, view)
        start = descents[0].points[0]
        ground.plot(*start, marker="o", color=COLOURS["black"], markersize=6, zorder=5)
        ground.annotate("start", start, xytext=(6, 6), textcoords="offset points", zorder=5)
        styles = [line_for(index, figure_style) for index in range(len(descents))]
        for style, descent in zip(styles, descents, strict=True):
            _draw_path(ground, descent, style)
            values = _clipped(descent.values)
            fall.plot(
                descent.evaluations,
                values,
                color=style.colour,
                linestyle=style.dashes,
                label=label_of(descent) + ("" if _is_inside(descent, view) else "; leaves the panel"),
            )
            if descent.diverged:
                fall.plot(
                    [descent.evaluations[-1]], [0.97], marker="X", markersize=10, color=style.colour,
                    linestyle="none", markeredgecolor="white", transform=fall.get_xaxis_transform(),
                    clip_on=False, zorder=6,
                )  # fmt: skip
        _scale_value_axes(fall, surface, descents)
        handles, labels = fall.get_legend_handles_labels()
        legend(figure, handles, labels, wide)
    return figure


def animate_landscape(surface: Surface, descents: Sequence[Descent], heading: str) -> bytes:
    """Return an animated GIF of the descents; each frame shows all of them at the same step."""
    with settings(STYLES["screen"]):
        figure, (ground,) = _frame(heading, (6.4, 5.0 + 0.22 * len(descents)), 1)
        figure.set_dpi(90)
        _draw_contours(ground, surface, _view(surface, descents))
        styles = _line_styles(len(descents))
        lines = [_line(style, linestyle=style.dashes, linewidth=1.8) for style in styles]
        heads = [_line(style, marker=style.marker, markersize=8, markeredgecolor="white") for style in styles]
        counter = ground.text(
            0.98, 0.97, "", transform=ground.transAxes, ha="right", va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
        for line in (*lines, *heads):
            line.set_animated(True)
            ground.add_line(line)
        counter.set_animated(True)
        figure.legend(
            handles=[
                _line(style, linestyle=style.dashes, marker=style.marker, label=label_of(one))
                for style, one in zip(styles, descents, strict=True)
            ],
            loc="outside lower center",
            ncols=2 if max(len(label_of(one)) for one in descents) < 26 else 1,
        )
        canvas: Any = figure.canvas  # matplotlib leaves these methods untyped
        canvas.draw()
        # Drawing contours takes most of the time, so they are drawn once and copied to each frame.
        empty = canvas.copy_from_bbox(figure.bbox)
        longest = max(int(one.evaluations[-1]) for one in descents)
        unit = "step" if one_per_step(descents) else "gradient"
        frames = []
        for step in _frame_steps(longest):
            canvas.restore_region(empty)
            for line, head, one in zip(lines, heads, descents, strict=True):
                points = one.points[: np.searchsorted(one.evaluations, step, side="right")]
                line.set_data(points[:, 0], points[:, 1])
                head.set_data(points[-1:, 0], points[-1:, 1])
            counter.set_text(f"{unit} {step:,}")
            artists: list[Artist] = [*lines, *heads, counter]
            for artist in artists:
                ground.draw_artist(artist)
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = _palette([COLOURS["yellow"], COLOURS["black"], *(style.colour for style in styles)])
    quantized = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    content = io.BytesIO()
    quantized[0].save(
        content, "GIF", save_all=True, append_images=quantized[1:], loop=0, optimize=False,
        duration=[FRAME_MS] * (len(quantized) - 1) + [LAST_FRAME_MS],
    )  # fmt: skip
    return content.getvalue()


def render_landscape(figure: Figure, file_format: str) -> bytes:
    """Return the figure as png, svg or pdf."""
    return render(figure, file_format)


def label_of(descent: Descent) -> str:
    """Return a label such as `SGD:momentum=0.9 lr=0.01: f = 2.3e-05`; it notes an lr at the grid's edge."""
    name = descent.choice.name  # of a user's own optimizer, the path of its file is left out
    label = descent.choice.text.replace(name, part_name({"name": name}))
    if descent.lr is not None and "lr" not in descent.choice.options:
        label += f" lr={format_value(descent.lr)}"
    label += ": diverged" if descent.diverged else f": f = {descent.values[-1]:.2g}"
    return label + (" (lr at the grid's edge)" if descent.at_edge else "")


def _frame(heading: str, inches: tuple[float, float], panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=inches, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading)
    return figure, list(figure.subplots(1, panels, squeeze=False).flat)


def _palette(colours: Sequence[str]) -> Image.Image:
    """Return a palette of greys, and of each colour blended with the background in steps, for smooth edges.

    A palette computed from the frames would contain almost only greys, and lines would share a colour.
    """
    entries = [(grey, grey, grey) for grey in range(0, 256, 3)]
    for colour in dict.fromkeys(colours):
        red, green, blue = (255 * part for part in to_rgb(colour))
        for share in np.linspace(0.3, 1, 8):
            entries.append(tuple(round(share * part + (1 - share) * 235) for part in (red, green, blue)))
    picture = Image.new("P", (1, 1))
    picture.putpalette([part for entry in entries[:256] for part in entry])
    return picture


def _line(style: Line, **options: Any) -> Line2D:
    return Line2D([], [], color=style.colour, **options)


def _line_styles(count: int) -> list[Line]:
    return [LINES[i % len(LINES)] for i in range(count)]


def _clipped(values: Array) -> Array:
    return np.clip(np.where(np.isfinite(values), values, np.nan), MIN_SHOWN, 1e12)


def _view(surface: Surface, descents: Sequence[Descent]) -> View:
    """Return the ranges of x and y: those of the surface, extended by up to `MAX_EXTENSION` for the paths."""
    points = np.concatenate([one.points for one in descents])
    points = points[np.isfinite(points).all(axis=1)]
    ranges = []
    for (low, high), values in zip((surface.x, surface.y), points.T, strict=True):
        most, margin = MAX_EXTENSION * (high - low), 0.03 * (high - low)
        below, above = float(values.min()) - margin, float(values.max()) + margin
        ranges.append((max(min(low, below), low - most), min(max(high, above), high + most)))
    return ranges[0], ranges[1]


def _is_inside(descent: Descent, view: View) -> bool:
    low, high = np.array(view).T
    return bool(((descent.points >= low) & (descent.points <= high)).all())


def _draw_contours(axes: Axes, surface: Surface, view: View) -> None:
    """Draw contours of log f, evenly spaced, and the minima, with the same scale on both axes."""
    x, y = np.linspace(*view[0], 320), np.linspace(*view[1], 320)
    grid = np.meshgrid(x, y)
    height = surface.value(*(torch.from_numpy(side) for side in grid)).numpy()
    # The offset prevents dense contours around the minima, where log f goes to -infinity.
    log = np.log10(height + 1e-3 * np.median(height))
    levels = np.linspace(log.min(), log.max(), 25)
    axes.contourf(*grid, log, levels=levels, cmap=CONTOUR_COLOURS)
    axes.contour(*grid, log, levels=levels, colors="#8a8a8a", linewidths=0.4, linestyles="solid")
    axes.grid(visible=False)
    minima = np.array(surface.minima)
    axes.plot(
        minima[:, 0], minima[:, 1], "*", color=COLOURS["yellow"], markersize=15,
        markeredgecolor=COLOURS["black"], zorder=4,
    )  # fmt: skip
    for axis, (low, high), name in ((axes.xaxis, view[0], "x"), (axes.yaxis, view[1], "y")):
        format_axis(axis, low, high, log=False)
        axis.set_label_text(name)
    axes.set_xlim(*view[0])
    axes.set_ylim(*view[1])
    axes.set_aspect("equal")


def _draw_path(axes: Axes, descent: Descent, style: Line) -> None:
    points = descent.points
    axes.plot(
        points[:, 0], points[:, 1], color=style.colour, linestyle=style.dashes, marker=".", markersize=3.5,
        markevery=max(1, len(points) // 150), linewidth=1.4, zorder=3,
    )  # fmt: skip
    axes.plot(
        *points[-1],
        marker=style.marker,
        color=style.colour,
        markersize=8,
        markeredgecolor="white",
        zorder=5,
    )


def _scale_value_axes(axes: Axes, surface: Surface, descents: Sequence[Descent]) -> None:
    last = max(int(one.evaluations[-1]) for one in descents)
    y_limits = limits([_clipped(one.values) for one in descents], log=True)
    assert y_limits is not None, "f at the start is finite"
    # If one descent diverges, the others must remain distinguishable.
    top = 1e3 * max(float(one.values[0]) for one in descents)
    y_limits = (y_limits[0], max(min(y_limits[1], top), 2 * y_limits[0]))
    axes.set_yscale("log")
    axes.set_ylim(*y_limits)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    format_axis(axes.xaxis, 0, last, log=False)
    format_axis(axes.yaxis, *y_limits, log=True)
    axes.set_xlabel(
        "step" if one_per_step(descents) else "gradient evaluations (a step takes one, LBFGS's many)"
    )
    axes.set_ylabel(
        "f (0 at the stars" + ("; below 1e-14 drawn there)" if y_limits[0] < 2 * MIN_SHOWN else ")")
    )


def one_per_step(descents: Sequence[Descent]) -> bool:
    """Return whether every step used one gradient evaluation (LBFGS uses many)."""
    return all(one.evaluations[-1] == len(one.points) - 1 for one in descents)


def _frame_steps(longest: int) -> list[int]:
    """Return the steps to show: all of a short descent, otherwise evenly spaced ones."""
    stride = max(1, math.ceil(longest / FRAMES))
    return [*range(0, longest, stride), longest]
