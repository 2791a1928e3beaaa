"""The progress of a sweep, for displays, and its result files.

Only reads the state of the searches.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.load import dump
from trainer.runs import rundir
from trainer.runs.sweep_files import PROGRESS
from trainer.sweep import results
from trainer.sweep.models import Objective, Sweep
from trainer.sweep.plan import RunSpec, load_run_config
from trainer.sweep.results import Outcome
from trainer.sweep.variant_search import VariantSearch

RECENT_RUNS = 50


@dataclass(frozen=True, slots=True)
class VariantState:
    """Progress of one variant: the number of runs by status and the best setting so far."""

    name: str
    running: int
    done: int
    diverged: int
    pruned: int
    failed: int
    planned: int | None
    best: str


@dataclass(frozen=True, slots=True)
class SweepState:
    """Progress of a sweep, for displays.

    Args:
        variants: progress of each variant.
        running: labels of the runs in progress.
        done, planned: number of finished runs and of all runs.
        kept: number of finished runs that existed before.
        failed: number of failed runs.
        elapsed: seconds since the start.
        rate: runs per minute; None = not known yet.
        seconds_left: estimated seconds left; None = not known yet.
    """

    variants: Sequence[VariantState]
    running: Sequence[str]
    done: int
    planned: int
    kept: int
    failed: int
    elapsed: float
    rate: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run, for displays."""

    label: str
    outcome: Outcome
    value: float | None
    kept: bool


class Display:
    """Receives progress from the runner. This base class shows nothing."""

    def finished(self, run: FinishedRun, state: SweepState) -> None:
        """Show a finished run."""

    def update(self, state: SweepState) -> None:
        """Show the progress."""

    def note(self, text: str) -> None:
        """Show a note."""


class Pace:
    """Measures the rate of finished runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._end_times: deque[float] = deque(maxlen=RECENT_RUNS)

    def count(self) -> None:
        """Count a run that has just finished training."""
        self._end_times.append(time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float | None:
        """The rate of recent runs per minute, without start-up time; None before three runs."""
        if len(self._end_times) < 3:
            return None
        span = time.monotonic() - self._end_times[0]
        return 60 * (len(self._end_times) - 1) / span if span > 0 else None


def sweep_state(
    variants: Sequence[VariantState], running: Sequence[str], kept: int, failed: int, pace: Pace
) -> SweepState:
    """Return the progress of a sweep, summed over its variants."""
    done = sum(v.done + v.diverged + v.pruned + v.failed for v in variants)
    planned = sum(v.planned or 0 for v in variants)
    rate = pace.rate
    seconds_left = (planned - done) / rate * 60 if rate else None
    return SweepState(variants, running, done, planned, kept, failed, pace.elapsed, rate, seconds_left)


def write_progress(root: Path, state: SweepState, status: str) -> None:
    """Write progress.json, from which other processes read the progress of the sweep."""
    content = {
        "format": 1,
        "status": status,
        "done": state.done,
        "planned": state.planned,
        "failed": state.failed,
        "running": list(state.running),
        "elapsed_seconds": round(state.elapsed, 1),
        "runs_per_minute": state.rate,
        "left_seconds": state.seconds_left,
        "variants": [
            {name: getattr(variant, name) for name in VariantState.__slots__} for variant in state.variants
        ],
    }
    rundir.write_json(root / PROGRESS, content)


def variant_state(
    variant_search: VariantSearch, objective: Objective | None, running: int, trials: int | None, finals: int
) -> VariantState:
    """Return the progress of a variant.

    Args:
        variant_search: the variant.
        objective: the objective of the sweep.
        running: number of its runs in progress.
        trials: number of trials of the search; None = a grid.
        finals: number of final runs.
    """
    outcomes = [o for s in variant_search.settings.values() for o in s.outcomes.values()]
    outcomes += variant_search.final_outcomes.values()
    counts = Counter(outcome.status for outcome in outcomes)
    planned = (trials or len(variant_search.settings)) * len(variant_search.seeds) + finals
    best, seeds = variant_search.best_so_far()
    best_text = ""
    if best and objective:
        setting, value = best
        described = ", ".join(f"{key.rpartition('.')[2]}={_short(v)}" for key, v in setting.values.items())
        best_text = f"{objective.metric} {value:.4g}" + (f" at {described}" if described else "")
        if seeds < len(variant_search.seeds):
            best_text += f" ({seeds} of {len(variant_search.seeds)} seeds)"
    return VariantState(
        variant_search.variant.name,
        running,
        counts["completed"] + counts["early_stopped"],
        counts["diverged"],
        counts["pruned"],
        counts["failed"],
        planned - variant_search.num_skipped(),
        best_text,
    )


def write_files(
    sweep: Sweep,
    root: Path,
    searches: Mapping[str, VariantSearch],
    objective: Objective | None,
    state: SweepState,
    status: str,
) -> dict[str, Any]:
    """Write results.csv, summary.json and best.yaml per variant; return the summary."""
    axes = list(dict.fromkeys(axis.key for v in sweep.variants.values() for axis in v.axes))
    runs = [pair for variant_search in searches.values() for pair in _runs_of(variant_search)]
    rundir.write_atomically(root / results.RESULTS, results.csv_text(results.rows(runs, axes)))
    summary = {
        "format": 1,
        "name": sweep.config.name,
        "status": status,
        "strategy": sweep.config.strategy,
        "objective": objective.model_dump() if objective else None,
        "seeds": sweep.seeds,
        "final_seeds": sweep.final_seeds,
        "runs": {"done": state.done, "planned": state.planned, "failed": state.failed},
        "variants": {
            name: results.summarise(
                variant_search.variant,
                list(variant_search.settings.values()),
                variant_search.final_outcomes,
                sweep.seeds,
                objective,
            )
            for name, variant_search in searches.items()
        },
    }
    rundir.write_json(root / results.SUMMARY, summary)
    for variant_search in searches.values():
        _write_best(sweep, root, variant_search, objective)
    return summary


def _runs_of(variant_search: VariantSearch) -> Iterator[tuple[RunSpec, Outcome | None]]:
    for spec in variant_search.specs():
        yield spec, variant_search.settings[spec.trial].outcomes.get(spec.seed)
    for spec in variant_search.final_specs() if variant_search.final_outcomes else ():
        yield spec, variant_search.final_outcomes.get(spec.seed)


def _write_best(sweep: Sweep, root: Path, variant_search: VariantSearch, objective: Objective | None) -> None:
    best = variant_search.best()
    if best is None or objective is None:
        return
    setting, value = best
    seed = (sweep.final_seeds or sweep.seeds)[0]
    folder = root / variant_search.variant.name
    spec = RunSpec(variant_search.variant.name, "final", setting.number, setting.values, seed, folder)
    config = load_run_config(sweep, spec).config
    head = (
        f"# The best of {len(variant_search.settings)} settings of {variant_search.variant.name} in "
        f"sweep {sweep.config.name}: {objective.metric} {value:.6g}\n"
        f"# ({objective.over_seeds} over {len(sweep.seeds)} seeds). Train it again: "
        f"optlab train {results.BEST}\n"
    )
    rundir.write_atomically(folder / results.BEST, head + dump(config))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
