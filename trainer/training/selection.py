"""Which evaluation is the best, when to stop early, and which setting is the best (floor 1; no torch)."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trainer.config.models import EarlyStopping
from trainer.records import EvalRecord, Moment, RunResult

Mode = Literal["min", "max"]
OverSeeds = Literal["mean", "median"]
Evaluation = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """What a run and a setting are worth, so that a sweep and a comparison choose the same setting.

    Args:
        metric: a column of epochs.csv, as `val_accuracy`.
        mode: `max` where large is good, `min` where small is.
        over_seeds: how the runs of a setting are summed up.
        evaluation: `best` = at the run's best checkpoint, or at the last evaluation of a run without one;
            `last` = at the last evaluation.
    """

    metric: str
    mode: Mode
    over_seeds: OverSeeds = "mean"
    evaluation: Evaluation = "best"

    @property
    def place(self) -> str:
        """The evaluation in words."""
        return "the best checkpoint" if self.evaluation == "best" else "the last evaluation"

    def __str__(self) -> str:
        end = "highest" if self.mode == "max" else "lowest"
        return f"{end} {self.over_seeds} over seeds of {self.metric} at {self.place}"


def run_value(status: str, result: RunResult | None, rule: SelectionRule) -> float | None:
    """Return what a run is worth; infinitely bad where it diverged, None where it failed or was pruned."""
    if status == "diverged":
        return -math.inf if rule.mode == "max" else math.inf
    if status not in ("completed", "early_stopped") or result is None:
        return None
    moment = (result.best or result.final) if rule.evaluation == "best" else result.final
    return moment.values.get(rule.metric) if moment else None


def setting_value(values: Sequence[float], rule: SelectionRule) -> float | None:
    """Return what a setting is worth, given its runs' values; one that diverged is never outweighed."""
    if not values:
        return None
    for value in values:
        if not math.isfinite(value):
            return -math.inf if rule.mode == "max" else math.inf
    return statistics.fmean(values) if rule.over_seeds == "mean" else statistics.median(values)


def best_setting(settings: Iterable[tuple[Mapping[str, Any], float | None]], mode: Mode) -> int | None:
    """Return the place of the best setting; None where none has a finite value.

    Of equal ones it is that with the smallest value of its first key, then of its second, in the order of the
    keys' names: the choice depends neither on the order in which settings are listed nor on that of training.

    Args:
        settings: the values of its keys, and what each is worth.
        mode: whether large or small is good.
    """
    sign = -1 if mode == "max" else 1
    ranked = [
        (sign * worth, _order(values), place)
        for place, (values, worth) in enumerate(settings)
        if worth is not None and math.isfinite(worth)
    ]
    return min(ranked)[-1] if ranked else None


def _order(values: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    """Return a key that sorts settings of the same keys: numbers by size, before everything else."""
    numbers = {key: isinstance(value, int | float) for key, value in values.items()}
    return [
        (not numbers[key], float(values[key]) if numbers[key] else 0.0, json.dumps(values[key], default=str))
        for key in sorted(values)
    ]


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
