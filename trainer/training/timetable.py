"""When things are due: the length of a run in steps, and the rhythms within it.

Pure arithmetic over step counts; no clock, no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.config.models import Every


@dataclass(frozen=True, slots=True)
class Interval:
    """Something due every `period` steps; fractions of a step round to the next whole one."""

    period: float

    @classmethod
    def of(cls, every: Every, steps_per_epoch: int) -> Interval:
        """Turn `{epochs: e}` or `{steps: n}` into steps."""
        return cls(float(every.steps) if every.steps is not None else (every.epochs or 1) * steps_per_epoch)

    def due(self, step: int) -> bool:
        """Return whether a multiple of the period lies in (step - 1, step]."""
        # The small number keeps 3 * (1/3 epoch) from missing the epoch's last step by a rounding error; it is
        # far less than a step, however long the period.
        return (step + min(1e-9 * self.period, 1e-3)) % self.period < 1

    def next(self, step: int) -> int:
        """Return the first step after this one at which it is due."""
        found = max(step + 1, int((step // self.period + 1) * self.period) - 1)
        while not self.due(found):
            found += 1
        return found


def run_length(*, epochs: float | None, steps: int | None, steps_per_epoch: int) -> int | None:
    """Return the run's length in steps, at least 1; None when only a time budget ends it."""
    if steps is not None:
        return steps
    return None if epochs is None else max(1, math.ceil(epochs * steps_per_epoch - 1e-9))
