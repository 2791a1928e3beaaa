"""What a sweep came to: outcomes of runs, values of settings, winners, and the files that tell of them."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.records import RunResult, Status
from trainer.runs import rundir
from trainer.statistics import mean_interval
from trainer.sweep.models import Objective, Variant
from trainer.sweep.plan import RunSpec
from trainer.sweep.space import edge
from trainer.training import selection
from trainer.training.selection import run_value, setting_value

RESULTS = "results.csv"
SUMMARY = "summary.json"
BEST = "best.yaml"
CONFIDENCE = 0.95
DONE: tuple[Status, ...] = ("completed", "early_stopped", "diverged", "pruned")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its status, what it came to, and why it failed."""

    status: Status
    result: RunResult | None = None
    message: str = ""


def read_outcome(folder: Path) -> Outcome | None:
    """Return how the run in a directory ended; None when there is none, or it has not."""
    status = rundir.read_status(folder)
    if status is None or status["status"] == "running":
        return None
    result = rundir.read_result(folder) if status["status"] in DONE else None
    if result is None and status["status"] in DONE:
        return None
    return Outcome(status["status"], result, str(status.get("message") or ""))


def value_of(outcome: Outcome, objective: Objective) -> float | None:
    """Return what a run is worth (see `selection.run_value`); None = the run failed or was pruned."""
    return run_value(outcome.status, outcome.result, objective.rule)


@dataclass(slots=True)
class Setting:
    """One setting of a variant and how its runs ended, by seed."""

    number: int
    values: Mapping[str, Any]
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def value(self, seeds: Sequence[int], objective: Objective) -> float | None:
        """Return its worth over all seeds; None while one is missing, failed or pruned."""
        found = [value_of(self.outcomes[seed], objective) for seed in seeds if seed in self.outcomes]
        values = [value for value in found if value is not None]
        return setting_value(values, objective.rule) if len(values) == len(seeds) else None


def best_setting(
    settings: Iterable[Setting], seeds: Sequence[int], objective: Objective
) -> tuple[Setting, float] | None:
    """Return the best setting and its worth; None when none ended well. See `selection.best_setting`."""
    known = list(settings)
    values = [setting.value(seeds, objective) for setting in known]
    pairs = zip((setting.values for setting in known), values, strict=True)
    place = selection.best_setting(pairs, objective.direction)
    if place is None:
        return None
    value = values[place]
    assert value is not None
    return known[place], value


def rows(runs: Iterable[tuple[RunSpec, Outcome | None]], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per run: where it belongs, its axes, its status, its measurements and its cost."""
    found = []
    for spec, outcome in runs:
        row: dict[str, Any] = {"variant": spec.variant, "stage": spec.stage, "trial": spec.trial}
        row |= {key: spec.values.get(key) for key in axes}
        row |= {"seed": spec.seed, "status": outcome.status if outcome else "missing"}
        result = outcome.result if outcome else None
        if result:
            row |= {"steps": result.steps, "epochs": result.epochs}
            row |= dict(result.final.values) if result.final else {}
            row |= (
                {f"best_{name}": value for name, value in result.best.values.items()} if result.best else {}
            )
            row |= {"best_epoch": result.best.epoch} if result.best else {}
            row |= (
                {f"test_{name}": result.test[name] for name in ("loss", "accuracy") if name in result.test}
                if result.test
                else {}
            )
            row |= {
                "train_seconds": result.train_seconds,
                "total_seconds": result.total_seconds,
                "ms_per_step": 1000 / result.steps_per_second if result.steps_per_second else None,
                "peak_memory_bytes": result.peak_memory_bytes,
                "optimizer_state_bytes": result.optimizer_state_bytes,
            }
        row |= {"run": str(spec.folder), "message": outcome.message if outcome else ""}
        found.append(row)
    return found


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV: every column that some row has, in the order of their first sight."""
    columns = list(dict.fromkeys(key for row in table for key in row))
    columns = [key for key in columns if key not in ("run", "message")] + ["run", "message"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in table:
        writer.writerow([_cell(row.get(key)) for key in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def summarise(
    variant: Variant,
    settings: Sequence[Setting],
    finals: Mapping[int, Outcome],
    seeds: Sequence[int],
    objective: Objective | None,
) -> dict[str, Any]:
    """Return one variant's part of summary.json."""
    outcomes = [outcome for setting in settings for outcome in setting.outcomes.values()]
    part: dict[str, Any] = {
        "settings": len(settings),
        "runs": len(outcomes),
        "statuses": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "best": None,
        "edges": [],
        "final": None,
    }
    best = best_setting(settings, seeds, objective) if objective else None
    if best and objective:
        setting, value = best
        part["best"] = {
            "values": dict(setting.values),
            "trial": setting.number,
            objective.metric: value,
            "per_seed": {seed: value_of(setting.outcomes[seed], objective) for seed in seeds},
        }
        advice = [edge(axis, setting.values[axis.key]) for axis in variant.axes]
        part["edges"] = [text for text in advice if text]
    if finals:
        part["final"] = _final(dict(sorted(finals.items())))
    return part


def _final(finals: Mapping[int, Outcome]) -> dict[str, Any]:
    """Return a winner's test results: mean, ends of its t interval and standard deviation over seeds.

    Where some of the runs diverged, the mean is that of the others, which are the better ones: it has no
    interval, and `n` says how many runs there were.
    """
    found: dict[str, Any] = {
        "n": len(finals),
        "statuses": dict(sorted(Counter(outcome.status for outcome in finals.values()).items())),
        "confidence": CONFIDENCE,
    }
    for metric in ("loss", "accuracy"):
        values = [
            float(value)
            for outcome in finals.values()
            if outcome.status != "diverged" and outcome.result and outcome.result.test
            if (value := outcome.result.test.get(metric)) is not None and math.isfinite(float(value))
        ]
        if values:
            interval = mean_interval(values, confidence=CONFIDENCE)
            whole = len(values) == len(finals)
            found[f"test_{metric}"] = {
                "mean": interval.estimate,
                "low": interval.low if whole else None,
                "high": interval.high if whole else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
    return found
