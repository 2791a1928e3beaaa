"""Weight histograms with one panel per layer: initial weights, or their change over the epochs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trainer.plots.style import COLOURS, DPI, ORDERED_COLOURS, format_number, settings, write
from trainer.plots.titles import WIDTH

Item = TypeVar("Item")

MAX_LAYERS = 24
MAX_SNAPSHOTS = 8


def plot_histograms(
    title: str,
    snapshots: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    save: Callable[[Figure, Path], None] | None = None,
) -> Path:
    """Draw the weight histograms into one figure and return its path. The file suffix selects the format.

    A single snapshot is drawn filled. Several are drawn as outlines coloured by epoch, the first one dashed
    in black. Areas are normalised, so that snapshots with different bins are comparable. If there are many
    layers or snapshots, an evenly spaced selection is drawn, including the first and the last.

    Args:
        title: title of the figure.
        snapshots: one or more, each `{"step", "epoch", "layers": {name: {"edges": [B + 1], "counts": [B]}}}`.
        path: the file to write.
        save: function that writes a figure to its path; None = `style.write`.
    """
    assert snapshots, "at least one snapshot is required"
    path.parent.mkdir(parents=True, exist_ok=True)
    with settings():
        figure = _draw(title, snapshots)
    (save or write)(figure, path)
    return path


def _draw(title: str, snapshots: Sequence[Mapping[str, Any]]) -> Figure:
    names = list(snapshots[0]["layers"])
    chosen = _evenly(names, MAX_LAYERS)
    drawn = _evenly(snapshots, MAX_SNAPSHOTS)
    columns = {0: 1, 1: 1, 2: 2, 4: 2}.get(len(chosen), 3 if len(chosen) <= 9 else 4)
    rows = max(1, -(-len(chosen) // columns))
    figure = Figure(figsize=(max(7.0, 2.5 * columns), 1.1 + 1.75 * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, WIDTH)]
    if len(chosen) < len(names):
        lines.append(f"({len(chosen)} of {len(names)} layers)")
    figure.suptitle("\n".join(lines))
    grid = figure.subplots(rows, columns, squeeze=False)
    last_epoch = max(float(snapshot["epoch"]) for snapshot in drawn) or 1.0
    shades = matplotlib.colormaps[ORDERED_COLOURS]
    for axes, name in zip(grid.flat, chosen, strict=False):
        for i, snapshot in enumerate(drawn):
            if layer := snapshot["layers"].get(name):
                single = len(drawn) == 1
                start = i == 0 and not single
                colour = COLOURS["blue"] if single else shades(0.9 * float(snapshot["epoch"]) / last_epoch)
                _draw_layer(
                    axes, layer, colour=COLOURS["black"] if start else colour, filled=single, dashed=start
                )
        axes.set_title(name)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.spines[["top", "left"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
        axes.xaxis.set_major_formatter(FuncFormatter(format_number))
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    figure.supxlabel("weight", fontsize=10.5)
    figure.supylabel("density", fontsize=10.5)
    if len(drawn) > 1:
        ramp = matplotlib.colors.ListedColormap(shades(np.linspace(0, 0.9, 256)))
        figure.colorbar(
            ScalarMappable(Normalize(0, last_epoch), ramp),
            ax=grid,
            label="epoch (dashed black: the first)",
            aspect=30,
        )
    return figure


def _draw_layer(
    axes: Axes, layer: Mapping[str, Sequence[float]], *, colour: Any, filled: bool, dashed: bool
) -> None:
    edges = np.asarray(layer["edges"], dtype=np.float64)
    counts = np.asarray(layer["counts"], dtype=np.float64)
    widths = np.diff(edges)
    if not counts.sum() or not np.isfinite(edges).all():
        return
    if not (widths > 0).all():
        # All weights are equal, for example after `zeros_`, so the density is not defined: draw a line at the
        # value. The invisible points set the limits of the axis if no other snapshot does.
        value = float(edges[0])
        margin = abs(value) / 2 or 0.01
        axes.plot([value - margin, value + margin], [0, 0], linestyle="none")
        axes.axvline(value, color=colour, linestyle="--" if dashed else "-", linewidth=2)
        return
    density = counts / counts.sum() / widths
    if filled:
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.85)
    else:
        axes.stairs(
            density,
            edges,
            color=colour,
            linestyle="--" if dashed else "-",
            linewidth=1.4,
            zorder=3 if dashed else 2,
        )


def _evenly(items: Sequence[Item], limit: int) -> list[Item]:
    if len(items) <= limit:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, limit)]
