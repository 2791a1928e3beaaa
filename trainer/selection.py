"""Which evaluation is the best so far, and when to give up waiting for a better one (floor 1; no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trainer.config.structure import EarlyStopping
from trainer.records import EvalRecord, Moment

Mode = Literal["min", "max"]


def better_direction(metric: str) -> Mode:
    """Return `max` for accuracies and `min` for everything else (losses)."""
    return "max" if metric.endswith("accuracy") else "min"


def improves(value: float | None, best: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Return whether `value` beats `best` by more than `min_delta`; NaN and None never do, a tie does not."""
    if value is None or math.isnan(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def moment_of(record: EvalRecord) -> Moment:
    """Return an evaluation as it stands in summary.json."""
    return Moment(record.step, record.epoch, round(record.train_seconds, 6), dict(record.values))


@dataclass(slots=True)
class Best:
    """The best evaluation so far by one metric, never the one before training; ties keep the earlier."""

    metric: str
    moment: Moment | None = None

    def update(self, record: EvalRecord) -> bool:
        """Take an evaluation; return whether it is the new best."""
        best = self.moment.values[self.metric] if self.moment else None
        if record.step == 0 or not improves(record.values[self.metric], best, better_direction(self.metric)):
            return False
        self.moment = moment_of(record)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"moment": None if self.moment is None else asdict(self.moment)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.moment = Moment(**state["moment"]) if state["moment"] else None


@dataclass(slots=True)
class Patience:
    """Early stopping: counts evaluations since the watched metric last improved."""

    rule: EarlyStopping
    best: float | None = None
    waited: int = 0

    def update(self, record: EvalRecord) -> bool:
        """Take an evaluation and return whether it is time to stop; the one before training is a start."""
        value = record.values[self.rule.metric]
        mode = self.rule.mode or better_direction(self.rule.metric)
        if improves(value, self.best, mode, self.rule.min_delta):
            self.best, self.waited = value, 0
        elif record.step > 0:
            self.waited += 1
        return self.is_exhausted()

    def is_exhausted(self) -> bool:
        """Return whether it is time to stop."""
        return self.waited >= self.rule.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]
