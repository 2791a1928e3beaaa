"""Results, times to targets and cost, per run and per group."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainer.compare.entries import Entry, canonical, metrics_of
from trainer.compare.groups import Group, Grouping
from trainer.errors import ConfigError
from trainer.metrics import LEADING, LOSS, SPLITS, Metric, Mode, find
from trainer.statistics import Interval, mean_interval, summary_of_times, time_to_target, welch_difference

DEFAULTS = (*(f"val_{name}" for name in LEADING), f"train_{LOSS.name}")
"""The default columns for comparing runs, in order of preference; the first one that was measured is used."""
UNITS = {"steps": "step", "epochs": "epoch", "seconds": "train_seconds"}


@dataclass(frozen=True, slots=True)
class Target:
    """A value that a metric is to reach, such as `val_accuracy=0.95`.

    Args:
        metric: a column of epochs.csv, or `loss` (minibatch loss, from steps.csv).
        value: the value.
        mode: `max` if higher values are better, `min` if lower ones are.
    """

    metric: str
    value: float
    mode: Mode

    def __str__(self) -> str:
        short = f"{self.value:g}"
        return f"{self.metric}={short if float(short) == self.value else repr(self.value)}"

    def on(self, problem: str) -> Target:
        """Return the target on a problem: the same on each."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class ProblemTargets:
    """One target per problem."""

    targets: Mapping[str, Target]

    def __str__(self) -> str:
        return "target"

    def on(self, problem: str) -> Target:
        """Return the target on a problem."""
        return self.targets[problem]


AnyTarget = Target | ProblemTargets


def columns_of(metrics: Iterable[Metric]) -> list[str]:
    """Return the columns of epochs.csv for some metrics."""
    names = [metric.name for metric in metrics]
    return [f"{split}_{name}" for split in SPLITS for name in names]


def parse_target(text: str, entries: Sequence[Entry]) -> Target:
    """Parse a target: `val_loss=0.1`, or only a number, for the validation metric.

    Raises:
        ConfigError: the value is not a number, or no run recorded the metric.
    """
    metric, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"{text!r} is not a target",
            key="--target",
            expected="METRIC=NUMBER, such as val_accuracy=0.95, or a number",
        )
    metrics = metrics_of(entries)
    known = [name for name in (*columns_of(metrics), "loss") if any(_has(one, name) for one in entries)]
    if not metric:
        metric = next((name for name in DEFAULTS if name in known), "loss")
    if metric not in known:
        raise ConfigError(
            f"no run recorded {metric!r}", key="--target", expected=f"one of {', '.join(known)}"
        )
    return Target(metric, value, find(metric, metrics).mode)


def _has(entry: Entry, metric: str) -> bool:
    table = entry.run.steps if metric == "loss" else entry.run.epochs
    return any(value is not None for value in table.get(metric, []))


def run_time(entry: Entry, target: Target, unit: str) -> float:
    """Return the steps, epochs or seconds at which a run first met a target; infinity if never."""
    table = entry.run.steps if target.metric == "loss" else entry.run.epochs
    if target.metric not in table:
        return math.inf
    return time_to_target(
        np.array(table[UNITS[unit]], dtype=np.float64), table[target.metric], target.value, target.mode
    )


def run_frame(grouping: Grouping, targets: Sequence[AnyTarget] = ()) -> pd.DataFrame:
    """Return one row per run: group, seed, status, results, times to targets (inf = unreached), cost.

    Final and test results of a diverged run are NaN: it is counted, not averaged.
    """
    return pd.DataFrame(
        [
            _run_row(group, entry, targets, grouping.metrics)
            for group in grouping.groups
            for entry in group.entries
        ]
    )


def _run_row(
    group: Group, entry: Entry, targets: Sequence[AnyTarget], metrics: Sequence[Metric]
) -> dict[str, Any]:
    result = entry.run.result
    assert result is not None, "runs without a result are left out on reading"
    status = str(entry.run.status["status"])
    row: dict[str, Any] = {
        "problem": group.problem, "group": group.name, "seed": entry.seed, "status": status,
        "steps": result.steps, "epochs": result.epochs, "train_seconds": result.train_seconds,
    }  # fmt: skip
    for evaluation, result_values in (("final", result.final), ("best", result.best)):
        for name in columns_of(metrics):
            value = result_values.values.get(name) if result_values and status != "diverged" else None
            row[f"{evaluation}_{name}"] = math.nan if value is None else value
    tested = result.test_values()
    row |= {f"test_{metric.name}": tested.get(metric.name, math.nan) for metric in metrics}
    for target in targets:
        row |= {f"{unit} to {target}": run_time(entry, target.on(group.problem), unit) for unit in UNITS}
    row["ms_per_step"] = 1e3 / result.steps_per_second if result.steps_per_second else math.nan
    row["state_bytes"] = result.optimizer_state_bytes
    row["peak_memory_bytes"] = result.peak_memory_bytes
    return row | {"run": str(entry.run.path)}


def group_rows(frame: pd.DataFrame) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Return the row positions of each problem and group, in one pass over a frame."""
    indices: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(zip(frame["problem"].tolist(), frame["group"].tolist(), strict=True)):
        indices[key].append(index)
    return {key: np.array(rows, dtype=np.intp) for key, rows in indices.items()}


def results_of(frame: pd.DataFrame) -> list[str]:
    """Return the result columns that are not empty, such as `final_val_loss` and `test_accuracy`."""
    columns = [str(name) for name in frame if str(name).startswith(("final_", "best_", "test_"))]
    return [name for name in columns if bool(frame[name].notna().any())]


def group_frame(
    grouping: Grouping, frame: pd.DataFrame, targets: Sequence[AnyTarget] = (), *, confidence: float = 0.95
) -> pd.DataFrame:
    """Return one row per group: counts, means with Student t intervals, median times to targets, cost.

    `<result>_n` is the number of runs in a mean. If it is less than `n`, the other runs diverged or lack the
    column; the mean is then too optimistic and has no interval. Median times count unreached targets as
    infinity. `overhead_ms` is the optimizer's overhead: mean milliseconds per step beyond those of plain SGD
    (momentum 0) on the same problem, machine and settings, with a Welch interval; NaN without such a group.

    Args:
        grouping: the groups.
        frame: the result of `run_frame`.
        targets: the targets in `frame`.
        confidence: confidence level of each single interval, in (0, 1).
    """
    rows = []
    # Arrays, not frames: selecting a group's rows of a frame costs more than the computations on them.
    columns = {str(name): frame[name].to_numpy() for name in frame}
    indices = group_rows(frame)
    results = results_of(frame)
    times = {
        (group.problem, group.name): _finite(columns["ms_per_step"][indices[group.problem, group.name]])
        for group in grouping.groups
    }
    conditions = {(group.problem, group.name): _conditions(group) for group in grouping.groups}
    plain: dict[Any, list[Group]] = defaultdict(list)
    for group in filter(_is_plain_sgd, grouping.groups):
        plain[conditions[group.problem, group.name]].append(group)
    for group in grouping.groups:
        key = group.problem, group.name
        runs = {name: values[indices[key]] for name, values in columns.items()}
        row: dict[str, Any] = {
            "problem": group.problem, "group": group.name, "n": len(indices[key]), "diverged": group.diverged,
            "confidence": confidence,
        }  # fmt: skip
        for name in results:
            interval = mean_of(runs[name], confidence)
            all_finite = interval is not None and interval.n == len(indices[key])
            row[name] = interval.estimate if interval else math.nan
            row[f"{name}_low"] = interval.low if interval and all_finite else None
            row[f"{name}_high"] = interval.high if interval and all_finite else None
            row[f"{name}_n"] = interval.n if interval else 0
        for target in targets:
            for unit in UNITS:
                reached = summary_of_times(runs[f"{unit} to {target}"])
                row[f"{unit} to {target}"] = reached.median
            row[f"reached {target}"] = reached.reached
        # Times of a group that ran on several machines are not comparable, not even within the group.
        condition = conditions[key]
        base = plain[condition] if condition is not None else []
        row |= _step_time(
            times[key],
            [times[one.problem, one.name] for one in base],
            confidence,
            is_base=any(one is group for one in base),
        )
        row["state_bytes"] = int(runs["state_bytes"].max())
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = [name for name in table.columns if name.endswith(("_low", "_high"))]
    table[numbers] = table[numbers].astype(float)
    return table


def mean_of(values: Iterable[float], confidence: float) -> Interval | None:
    """Return the mean of the finite values with its interval, or None if there are no finite values."""
    finite = np.array(list(values), dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return mean_interval(finite, confidence=confidence) if finite.size else None


def _step_time(
    own: NDArray[np.float64], base: Sequence[NDArray[np.float64]], confidence: float, *, is_base: bool
) -> dict[str, float | None]:
    """Return milliseconds per step and the overhead over plain SGD, each with its interval.

    Args:
        own: milliseconds per step of each run of the group.
        base: the same for plain SGD groups that were timed under the same conditions.
        confidence: confidence level of the intervals.
        is_base: whether the group is itself plain SGD, whose cost does not depend on the learning rate.
    """
    none: tuple[float, float | None, float | None] = (math.nan, None, None)
    time, over = none, none
    if own.size:
        mean = mean_interval(own, confidence=confidence)
        time = mean.estimate, mean.low, mean.high
    if is_base:
        over = 0.0, None, None
    elif own.size and any(times.size for times in base):
        more = welch_difference(own, np.concatenate(base), confidence=confidence)
        over = more.estimate, more.low, more.high
    names = [f"{name}{end}" for name in ("ms_per_step", "overhead_ms") for end in ("", "_low", "_high")]
    return dict(zip(names, (*time, *over), strict=True))


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    numbers = values.astype(np.float64)
    return numbers[~np.isnan(numbers)]


def _is_plain_sgd(group: Group) -> bool:
    settings = group.entries[0].settings
    return settings.get("optimizer.name") == "SGD" and not settings.get("optimizer.momentum")


def _conditions(group: Group) -> tuple[str, frozenset[tuple[str, str]], str] | None:
    """Return all settings that affect times, without optimizer and schedule; None if the machines differ."""
    chosen = ("optimizer.", "scheduler.")
    others = {key: canonical(value) for key, value in group.settings.items() if not key.startswith(chosen)}
    machines = {timed_on(entry) for entry in group.entries}
    return (group.problem, frozenset(others.items()), machines.pop()) if len(machines) == 1 else None


def timed_on(entry: Entry) -> str:
    """Return the conditions of a run's times: processor, device, threads, engine and precision."""
    environment, result = entry.environment, entry.run.result
    threads = environment.get("threads")
    parts = [
        (environment.get("machine") or {}).get("processor"), environment.get("device"),
        None if threads is None else f"{threads} thread{'s' if threads != 1 else ''}",
        getattr(result, "engine", None), entry.settings.get("train.precision"),
    ]  # fmt: skip
    return ", ".join(str(part) for part in parts if part is not None)


def primary_metric(frame: pd.DataFrame) -> str:
    """Return the result by which groups are compared.

    This is the test result at the selected checkpoint if every run that did not diverge has one, else the
    final validation result, else the training result.
    """
    ended = frame[frame["status"] != "diverged"]
    order = [*(f"test_{name}" for name in LEADING), *(f"final_{name}" for name in DEFAULTS)]
    order = [name for name in order if name in frame]
    for name in order:
        if len(ended) and bool(ended[name].notna().all()):
            return name
    return next((name for name in order if bool(frame[name].notna().any())), "final_train_loss")
