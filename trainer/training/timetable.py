"""The length of a run in steps, and the intervals of logging, evaluation and checkpoints.

Pure arithmetic on step counts: no clock, no torch.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from trainer.config.models import Every


@dataclass(frozen=True, slots=True)
class Interval:
    """An action that is due every `period` steps; fractional steps are rounded up."""

    period: float

    @classmethod
    def of(cls, every: Every, steps_per_epoch: int) -> Interval:
        """Convert `{epochs: e}` or `{steps: n}` to steps."""
        if every.steps is not None:
            return cls(float(every.steps))
        # The product of a huge number of epochs can overflow to infinity; such an action is never due anyway.
        return cls(min((every.epochs or 1) * steps_per_epoch, sys.float_info.max))

    def due(self, step: int) -> bool:
        """Return whether a multiple of the period lies in (step - 1, step]."""
        # Without the small offset, a rounding error could make 3 * (1/3 epoch) miss the epoch's last step.
        # It is far less than one step for every period.
        return (step + min(1e-9 * self.period, 1e-3)) % self.period < 1

    def next(self, step: int) -> int:
        """Return the first later step at which the action is due."""
        due_step = max(step + 1, int((step // self.period + 1) * self.period) - 1)
        while not self.due(due_step):
            due_step += 1
        return due_step


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run and the intervals of its actions, in steps.

    Args:
        steps: length; None if only `seconds` ends the run.
        seconds: budget of training time; None = no budget.
        accumulate: batches per step.
        log, evaluate: intervals of the rows in steps.csv and epochs.csv.
        checkpoint: interval of checkpoints; None = at every evaluation, unless checkpoint_seconds is set.
        checkpoint_seconds: training seconds between checkpoints; None = use `checkpoint`.
    """

    steps: int | None
    seconds: float | None
    accumulate: int
    log: Interval
    evaluate: Interval
    checkpoint: Interval | None
    checkpoint_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """The actions that are due after a step.

    Args:
        log: log the step.
        evaluation: evaluate the model.
        checkpoint: save the state.
    """

    log: bool = False
    evaluation: bool = False
    checkpoint: bool = False


def run_length(*, epochs: float | None, steps: int | None, steps_per_epoch: int) -> int | None:
    """Return the length of a run in steps, at least 1; None if only a time budget ends the run."""
    if steps is not None:
        return steps
    return None if epochs is None else max(1, math.ceil(epochs * steps_per_epoch - 1e-9))
