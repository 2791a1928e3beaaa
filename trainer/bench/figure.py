"""Draw a bar chart of microseconds per step, one bar per loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.bench.measure import Row
from trainer.plots.style import COLOURS, format_axis, new_figure, settings, write


def draw(rows: Sequence[Row], heading: str, path: Path) -> None:
    """Write a bar chart of the medians with their spread; the suffix of the path selects the format.

    optlab's own loops are dark and hatched, to be distinguishable in greyscale.
    """
    with settings():
        figure, axes = new_figure(heading)
        for position, row in enumerate(reversed(rows)):
            own = row.name.startswith("optlab")
            axes.barh(
                position,
                row.median,
                xerr=row.spread,
                color=COLOURS["blue"] if own else "#c9c9c9",
                edgecolor="white" if own else COLOURS["black"],
                hatch="//" if own else None,
                linewidth=0.8,
                error_kw={"capsize": 3},
            )
            axes.text(row.median + row.spread, position, f"  {row.median:,.0f}", va="center", ha="left")
        axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
        high = 1.12 * max(row.median + row.spread for row in rows)
        axes.set_xlim(0, high)
        format_axis(axes.xaxis, 0, high, log=False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("microseconds per step (median, half the interquartile range)")
        write(figure, path)
