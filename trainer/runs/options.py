"""Options that every way of starting a run accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.console.training import TrainingProgress
from trainer.records import EvalRecord
from trainer.runs.drawing import Draw, draw_run
from trainer.training.loaded_data import LoadedData

PruneCheck = Callable[[EvalRecord], bool]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is executed and displayed. Except for pruning, no option changes its results.

    Args:
        progress: progress display; None = quiet.
        wait: wait until another process that writes to the run directory is done.
        loaded_data: the data of the config, already loaded; None = load it.
        should_prune: called after every evaluation except the first and last; true stops the run as pruned.
        draw: draws the figures at the end.
    """

    progress: TrainingProgress | None = None
    wait: bool = False
    loaded_data: LoadedData | None = None
    should_prune: PruneCheck | None = None
    draw: Draw = draw_run


DEFAULTS = RunOptions()
