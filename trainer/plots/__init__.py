"""The figures of a run: drawn from its tables alone, without torch and without pyplot (floor 3).

Knows nothing of run directories: the caller reads the tables and may say how a figure reaches the disk.
"""

from __future__ import annotations

from trainer.plots.histograms import plot_histograms
from trainer.plots.run import Curves, plot_run
from trainer.plots.style import COLOURS, render, write
from trainer.plots.titles import title

__all__ = ["COLOURS", "Curves", "plot_histograms", "plot_run", "render", "title", "write"]
