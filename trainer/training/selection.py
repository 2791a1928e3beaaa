"""Select the best evaluation and the best setting, and decide when to stop early. Does not import torch."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trainer.config.models import EarlyStopping
from trainer.metrics import Mode
from trainer.records import EvalRecord, EvalResult, RunResult

OverSeeds = Literal["mean", "median"]
Evaluation = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How runs and settings are ranked. A sweep and a comparison with the same rule choose the same setting.

    Args:
        metric: a column of epochs.csv, such as `val_accuracy`.
        mode: `max` if larger is better, `min` if smaller is better.
        over_seeds: statistic over the runs of a setting.
        evaluation: `best` = the evaluation of the best checkpoint, or the last one if the run has no best
            checkpoint; `last` = the last evaluation.
    """

    metric: str
    mode: Mode
    over_seeds: OverSeeds = "mean"
    evaluation: Evaluation = "best"

    @property
    def checkpoint_name(self) -> str:
        """Name of the evaluation, for messages."""
        return "the best checkpoint" if self.evaluation == "best" else "the last evaluation"

    def __str__(self) -> str:
        end = "highest" if self.mode == "max" else "lowest"
        return f"{end} {self.over_seeds} over seeds of {self.metric} at {self.checkpoint_name}"


def run_value(status: str, result: RunResult | None, rule: SelectionRule) -> float | None:
    """Return the value of a run: infinitely bad if it diverged, None if it failed or was pruned."""
    if status == "diverged":
        return -math.inf if rule.mode == "max" else math.inf
    if status not in ("completed", "early_stopped") or result is None:
        return None
    chosen = (result.best or result.final) if rule.evaluation == "best" else result.final
    return chosen.values.get(rule.metric) if chosen else None


def setting_value(values: Sequence[float], rule: SelectionRule) -> float | None:
    """Return the value of a setting from its runs' values: infinitely bad if one of its runs diverged."""
    if not values:
        return None
    for value in values:
        if not math.isfinite(value):
            return -math.inf if rule.mode == "max" else math.inf
    return statistics.fmean(values) if rule.over_seeds == "mean" else statistics.median(values)


def best_setting(settings: Iterable[tuple[Mapping[str, Any], float | None]], mode: Mode) -> int | None:
    """Return the index of the best setting; None if no setting has a finite value.

    Ties go to the setting with the smallest value of the first key, then of the second, with the keys sorted
    by name. The choice does not depend on the order of the settings or of training.

    Args:
        settings: for each setting, the values of its keys and its own value.
        mode: `max` if larger is better, `min` if smaller is better.
    """
    sign = -1 if mode == "max" else 1
    ranked = [
        (sign * score, _order(values), index)
        for index, (values, score) in enumerate(settings)
        if score is not None and math.isfinite(score)
    ]
    return min(ranked)[-1] if ranked else None


def _order(values: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    """Return a sort key for settings with the same keys: numbers by size, before all other values."""
    numbers = {key: isinstance(value, int | float) for key, value in values.items()}
    return [
        (not numbers[key], float(values[key]) if numbers[key] else 0.0, json.dumps(values[key], default=str))
        for key in sorted(values)
    ]


def improves(value: float | None, best: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Return whether `value` is better than `best` by more than `min_delta`; False for NaN, None and ties."""
    if value is None or math.isnan(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def eval_result(record: EvalRecord) -> EvalResult:
    """Return an evaluation in the form that summary.json stores."""
    return EvalResult(record.step, record.epoch, round(record.train_seconds, 6), dict(record.values))


@dataclass(slots=True)
class Best:
    """The best evaluation so far by one metric, except the one before training; ties keep the earlier one.

    Args:
        metric: a column of epochs.csv.
        mode: `max` if higher values are better, `min` if lower ones are.
        result: the best evaluation; None = there was none.
    """

    metric: str
    mode: Mode
    result: EvalResult | None = None

    def update(self, record: EvalRecord) -> bool:
        """Add an evaluation; return whether it is the new best."""
        best = self.result.values[self.metric] if self.result else None
        if record.step == 0 or not improves(record.values[self.metric], best, self.mode):
            return False
        self.result = eval_result(record)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"moment": None if self.result is None else asdict(self.result)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.result = EvalResult(**state["moment"]) if state["moment"] else None


@dataclass(slots=True)
class Patience:
    """Early stopping: counts evaluations since the monitored metric last improved.

    Args:
        rule: the settings.
        mode: `max` if higher values of the metric are better, `min` if lower ones are.
        best: best value so far.
        waited: evaluations since then.
    """

    rule: EarlyStopping
    mode: Mode
    best: float | None = None
    waited: int = 0

    def update(self, record: EvalRecord) -> bool:
        """Add an evaluation; return whether to stop. The evaluation before training is not counted."""
        value = record.values[self.rule.metric]
        if improves(value, self.best, self.mode, self.rule.min_delta):
            self.best, self.waited = value, 0
        elif record.step > 0:
            self.waited += 1
        return self.is_exhausted()

    def is_exhausted(self) -> bool:
        """Return whether to stop: the patience is used up."""
        return self.waited >= self.rule.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.best, self.waited = state["best"], state["waited"]
