"""The results of a sweep: outcomes of runs, values of settings, best settings and the result files."""

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
    """The outcome of a run: its status, its result and its error message."""

    status: Status
    result: RunResult | None = None
    message: str = ""


def read_outcome(folder: Path) -> Outcome | None:
    """Return the outcome of the run in a directory; None if there is none or it has not ended."""
    status = rundir.read_status(folder)
    if status is None or status["status"] == "running":
        return None
    result = rundir.read_result(folder) if status["status"] in DONE else None
    if result is None and status["status"] in DONE:
        return None
    return Outcome(status["status"], result, str(status.get("message") or ""))


def value_of(outcome: Outcome, objective: Objective) -> float | None:
    """Return the value of a run (see `selection.run_value`); None if it failed or was pruned."""
    return run_value(outcome.status, outcome.result, objective.rule)


@dataclass(slots=True)
class Setting:
    """One setting of a variant, and the outcomes of its runs by seed."""

    number: int
    values: Mapping[str, Any]
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def value(self, seeds: Sequence[int], objective: Objective) -> float | None:
        """Return its value over all seeds; None if a run is missing, failed or pruned."""
        all_values = [value_of(self.outcomes[seed], objective) for seed in seeds if seed in self.outcomes]
        values = [value for value in all_values if value is not None]
        return setting_value(values, objective.rule) if len(values) == len(seeds) else None


def best_setting(
    settings: Iterable[Setting], seeds: Sequence[int], objective: Objective
) -> tuple[Setting, float] | None:
    """Return the best setting and its value, or None. See `selection.best_setting`."""
    known = list(settings)
    values = [setting.value(seeds, objective) for setting in known]
    pairs = zip((setting.values for setting in known), values, strict=True)
    index = selection.best_setting(pairs, objective.direction)
    if index is None:
        return None
    value = values[index]
    assert value is not None
    return known[index], value


def rows(runs: Iterable[tuple[RunSpec, Outcome | None]], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per run: variant, stage, axes, status, measurements and cost."""
    table_rows = []
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
            row |= {f"test_{name}": value for name, value in result.test_values().items()}
            row |= {
                "train_seconds": result.train_seconds,
                "total_seconds": result.total_seconds,
                "ms_per_step": 1000 / result.steps_per_second if result.steps_per_second else None,
                "peak_memory_bytes": result.peak_memory_bytes,
                "optimizer_state_bytes": result.optimizer_state_bytes,
            }
        row |= {"run": str(spec.folder), "message": outcome.message if outcome else ""}
        table_rows.append(row)
    return table_rows


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with the columns of all rows in the order of their first occurrence."""
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
    """Return the part of summary.json for one variant."""
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
    """Return the test results of the final runs: mean, t interval and standard deviation over seeds.

    If some runs diverged, the mean is over the other runs, so it is biased and the interval is omitted. `n`
    is the number of all final runs.
    """
    from trainer.statistics import mean_interval  # imports scipy: 0.6 s, and most sweeps have no final runs

    summary: dict[str, Any] = {
        "n": len(finals),
        "statuses": dict(sorted(Counter(outcome.status for outcome in finals.values()).items())),
        "confidence": CONFIDENCE,
    }
    tests = [
        outcome.result.test_values()
        for outcome in finals.values()
        if outcome.status != "diverged" and outcome.result
    ]
    for metric in dict.fromkeys(name for test in tests for name in test):
        values = [test[metric] for test in tests if metric in test and math.isfinite(test[metric])]
        if values:
            interval = mean_interval(values, confidence=CONFIDENCE)
            all_finite = len(values) == len(finals)
            summary[f"test_{metric}"] = {
                "mean": interval.estimate,
                "low": interval.low if all_finite else None,
                "high": interval.high if all_finite else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
    return summary
