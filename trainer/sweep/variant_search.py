"""The search of one variant: which runs are next, when the next batch starts, which setting is best.

Starts no processes: the runner takes runs from it and passes outcomes to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import RunError
from trainer.records import read_table
from trainer.runs import rundir
from trainer.sweep.models import Objective, Sweep, Variant
from trainer.sweep.plan import RunSpec, grid_settings, spec_for
from trainer.sweep.results import DONE, Outcome, Setting, best_setting, read_outcome, value_of
from trainer.sweep.search import Search, State, Trial, TrialPruner


class VariantSearch:
    """A variant with its settings, outcomes and runs that are ready to train.

    Args:
        sweep: the sweep.
        variant: the variant.
        root: the sweep directory.
        objective: the objective; None = no setting is chosen.
        search: the search; None = a grid.
        finals: whether to train the best setting on the final seeds.
    """

    def __init__(
        self,
        sweep: Sweep,
        variant: Variant,
        root: Path,
        objective: Objective | None,
        search: Search | None,
        *,
        finals: bool,
    ) -> None:
        self.variant = variant
        self.settings: dict[int, Setting] = {}
        self.final_outcomes: dict[int, Outcome] = {}
        self.ready: deque[RunSpec] = deque()
        self.seeds = sweep.seeds
        self.finals_begun = False
        self._sweep = sweep
        self._root = root
        self._objective = objective
        self._search = search
        self._finals = finals
        self._waiting: dict[int, list[int]] = {}  # seeds of trials of the batch that are not ready yet
        self._running: dict[int, set[int]] = {}  # seeds that are ready or in progress
        self._pruned: set[int] = set()
        self._redone: set[Path] = set()  # runs of earlier batches to train again
        self._pruners: dict[int, TrialPruner] = {}
        if search is None:
            for number, values in enumerate(grid_settings(variant)):
                self.settings[number] = Setting(number, values)
        else:
            for trial in search.trials():
                self.settings[trial.number] = Setting(trial.number, trial.values)

    # ---- runs to train

    def specs(self) -> list[RunSpec]:
        """Return the search runs of all settings so far, ordered by seed."""
        return [self._spec(setting.number, seed) for seed in self.seeds for setting in self.settings.values()]

    def final_specs(self) -> list[RunSpec]:
        """Return the runs of the best setting on the final seeds; empty if there is no best setting yet."""
        best = self.best()
        if best is None:
            return []
        setting, _ = best
        return [
            spec_for(self._root, self.variant, "final", setting.number, setting.values, seed)
            for seed in self._sweep.final_seeds
        ]

    def _spec(self, number: int, seed: int) -> RunSpec:
        return spec_for(self._root, self.variant, "search", number, self.settings[number].values, seed)

    def start(self) -> None:
        """Add the first runs to `ready`."""
        if self._search is None:
            self.ready.extend(self.specs())
            return
        for trial in self._search.trials():
            self._add_finished(trial)
        self._next_batch()

    def _add_finished(self, trial: Trial) -> None:
        """Add the outcomes of a finished trial; runs that failed or were deleted are trained again."""
        self.settings.setdefault(trial.number, Setting(trial.number, trial.values))
        if trial.pruned:
            self._pruned.add(trial.number)
        for seed in self.seeds if trial.finished else ():
            spec = self._spec(trial.number, seed)
            outcome = read_outcome(spec.folder)
            if outcome and outcome.status in DONE:
                self.settings[trial.number].outcomes[seed] = outcome
            elif not trial.pruned:
                self._redone.add(spec.folder)
                self.ready.append(spec)

    def _next_batch(self) -> None:
        assert self._search is not None
        batch = self._search.batch()
        for trial in self._search.trials():
            if trial.finished and trial.number not in self.settings:  # by another process
                self._add_finished(trial)
        for trial in batch:
            setting = self.settings.setdefault(trial.number, Setting(trial.number, trial.values))
            self._waiting[setting.number] = list(self.seeds)
            self._running[setting.number] = set()
            self._add_ready(setting.number)
        self._begin_finals()

    def _add_ready(self, number: int) -> None:
        """Add the next seeds of a trial to `ready`: all, or one if pruning decides after it."""
        waiting, prune = self._waiting[number], self._sweep.config.prune
        count = len(waiting)
        if prune == "wilcoxon" or (prune and len(waiting) == len(self.seeds)):
            count = 1
        self._running[number].update(waiting[:count])
        self.ready.extend(self._spec(number, seed) for seed in waiting[:count])
        del waiting[:count]

    def prune_metric(self, spec: RunSpec) -> str | None:
        """Return the metric for pruning a run during training; only the first seed of a trial has one."""
        early = self._search and self._sweep.config.prune in ("median", "hyperband")
        judged = early and spec.stage == "search" and spec.seed == self.seeds[0]
        return self._objective.metric if judged and self._objective else None

    # ---- outcomes

    def should_prune(self, spec: RunSpec, values: Sequence[float]) -> bool:
        """Return whether to prune a run, given all its evaluations so far."""
        return self._pruner(spec.trial).should_prune(dict(enumerate(values, start=1)))

    def _pruner(self, number: int) -> TrialPruner:
        assert self._search is not None
        if number not in self._pruners:
            self._pruners[number] = self._search.pruner(number)
        return self._pruners[number]

    def _report_values(self, number: int) -> None:
        """Report the evaluations of a run that was trained by another process, as that process did."""
        spec = self._spec(number, self.seeds[0])
        metric, outcome = self.prune_metric(spec), self.settings[number].outcomes.get(spec.seed)
        if metric is None or outcome is None:
            return
        try:
            table = read_table(spec.folder / rundir.EPOCHS)
        except RunError:  # it failed before its first evaluation
            return
        rows = zip(table.get("step", []), table.get(metric, []), strict=False)
        values = [value for step, value in rows if step and value is not None]
        if outcome.status != "pruned":  # the last evaluation is not followed by a decision
            values = values[:-1]
        if values:
            self.should_prune(spec, values)

    def add_outcome(self, spec: RunSpec, outcome: Outcome) -> None:
        """Record the outcome of a run and add the runs that follow to `ready`."""
        if spec.stage == "final":
            self.final_outcomes[spec.seed] = outcome
            return
        setting = self.settings[spec.trial]
        setting.outcomes[spec.seed] = outcome
        self._redone.discard(spec.folder)
        if spec.trial not in self._waiting:
            self._begin_finals()
        else:
            self._running[spec.trial].discard(spec.seed)
            if outcome.status == "pruned" or self._is_cut_short(setting):
                self._pruned.add(spec.trial)
                self._waiting[spec.trial].clear()
            elif not self._running[spec.trial]:
                self._add_ready(spec.trial)
            if not any(self._waiting.values()) and not any(self._running.values()):
                self._finish_batch()

    def num_skipped(self) -> int:
        """Return the number of runs that pruning has made unnecessary."""
        return sum(
            len(self.seeds) - len(self.settings[number].outcomes) - len(self._running.get(number, ()))
            for number in self._pruned
        )

    def _is_cut_short(self, setting: Setting) -> bool:
        """Return whether to prune the remaining seeds of a trial, given the values of its seeds so far."""
        objective = self._objective
        if self._sweep.config.prune != "wilcoxon" or objective is None:
            return False
        values = {
            index: value_of(setting.outcomes[seed], objective)
            for index, seed in enumerate(self.seeds)
            if seed in setting.outcomes
        }
        known = {index: value for index, value in values.items() if value is not None}
        behind = self._pruner(setting.number).should_prune(known)
        return behind and bool(self._waiting[setting.number])

    def _finish_batch(self) -> None:
        """Report the outcomes of the batch to the search in trial order, and request the next batch."""
        assert self._search is not None
        with self._search.exclusive():
            for number in sorted(self._waiting):
                if self.prune_metric(self._spec(number, self.seeds[0])) and number not in self._pruners:
                    self._report_values(number)
                if number in self._pruners:
                    self._pruners.pop(number).close()
                value = self.value(self.settings[number])
                state: State = "complete" if value is not None else "failed"
                self._search.tell(number, value, "pruned" if number in self._pruned else state)
        self._waiting.clear()
        self._running.clear()
        self._next_batch()

    def _begin_finals(self) -> None:
        """Once the search has ended, add the final runs to `ready`."""
        over = not self._waiting and not self._redone
        if self._search is None:
            over = all(len(setting.outcomes) == len(self.seeds) for setting in self.settings.values())
        if over and self._finals and not self.finals_begun:
            self.finals_begun = True
            self.ready.extend(self.final_specs())

    def value(self, setting: Setting) -> float | None:
        """Return the value of a setting, or None."""
        return setting.value(self.seeds, self._objective) if self._objective else None

    def best(self) -> tuple[Setting, float] | None:
        """Return the best setting so far and its value."""
        if self._objective is None:
            return None
        return best_setting(self.settings.values(), self.seeds, self._objective)

    def best_so_far(self) -> tuple[tuple[Setting, float] | None, int]:
        """Return the best setting on as many seeds as some setting has finished, and the number of seeds.

        For displays only: settings are chosen only after all seeds have finished.
        """
        for count in range(len(self.seeds), 0, -1):
            if self._objective is None:
                break
            best = best_setting(self.settings.values(), self.seeds[:count], self._objective)
            if best is not None:
                return best, count
        return None, 0
