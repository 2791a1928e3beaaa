"""One variant's way through a sweep: which runs are next, when its search goes on, who its winner is.

Starts no process and reads no clock: the runner gives it outcomes and takes runs from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trainer.sweep.models import Objective, Sweep, Variant
from trainer.sweep.plan import RunSpec, grid_settings, spec_for
from trainer.sweep.results import DONE, Outcome, Setting, best_setting, read_outcome, value_of
from trainer.sweep.search import Search, State, TrialPruner


class VariantSearch:
    """A variant with its settings, its outcomes and the runs that are ready.

    Args:
        sweep: the sweep.
        variant: whose.
        root: the sweep's directory.
        objective: what settings are chosen by; None = nothing is chosen.
        search: None for a grid.
        finals: whether its winner runs on the final seeds.
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
        self._waiting: dict[int, list[int]] = {}  # seeds of the batch's trials that are not ready yet
        self._running: dict[int, set[int]] = {}  # those that are, or are being trained
        self._pruned: set[int] = set()
        self._redone: set[Path] = set()  # runs of earlier batches that are trained again
        self._pruners: dict[int, TrialPruner] = {}
        if search is None:
            for number, values in enumerate(grid_settings(variant)):
                self.settings[number] = Setting(number, values)
        else:
            for trial in search.trials():
                self.settings[trial.number] = Setting(trial.number, trial.values)

    # ---- what is to be run

    def specs(self) -> list[RunSpec]:
        """Return the search runs of all settings known so far, seed by seed."""
        return [self._spec(setting.number, seed) for seed in self.seeds for setting in self.settings.values()]

    def final_specs(self) -> list[RunSpec]:
        """Return the runs of the winner on the final seeds; none while there is no winner."""
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
        """Make the first runs ready."""
        if self._search is None:
            self.ready.extend(self.specs())
            return
        for trial in self._search.trials():
            if trial.pruned:
                self._pruned.add(trial.number)
            for seed in self.seeds if trial.told else ():
                spec = self._spec(trial.number, seed)
                outcome = read_outcome(spec.folder)
                if outcome and outcome.status in DONE:
                    self.settings[trial.number].outcomes[seed] = outcome
                elif not trial.pruned:  # it failed, or somebody threw it away
                    self._redone.add(spec.folder)
                    self.ready.append(spec)
        self._next_batch()

    def _next_batch(self) -> None:
        assert self._search is not None
        for trial in self._search.batch():
            setting = self.settings.setdefault(trial.number, Setting(trial.number, trial.values))
            self._waiting[setting.number] = list(self.seeds)
            self._running[setting.number] = set()
            self._release(setting.number)
        self._begin_finals()

    def _release(self, number: int) -> None:
        """Make a trial's next runs ready: one by one where seeds are judged, the first alone where it is."""
        waiting, prune = self._waiting[number], self._sweep.config.prune
        count = len(waiting)
        if prune == "wilcoxon" or (prune and len(waiting) == len(self.seeds)):
            count = 1
        self._running[number].update(waiting[:count])
        self.ready.extend(self._spec(number, seed) for seed in waiting[:count])
        del waiting[:count]

    def prune_metric(self, spec: RunSpec) -> str | None:
        """Return the metric that a run is judged by as it goes; the first seed's speaks for its trial."""
        early = self._search and self._sweep.config.prune in ("median", "hyperband")
        judged = early and spec.stage == "search" and spec.seed == self.seeds[0]
        return self._objective.metric if judged and self._objective else None

    # ---- what came of it

    def should_prune(self, spec: RunSpec, values: Sequence[float]) -> bool:
        """Return whether a run ends here, given all its evaluations so far."""
        return self._pruner(spec.trial).stops(dict(enumerate(values, start=1)))

    def _pruner(self, number: int) -> TrialPruner:
        assert self._search is not None
        if number not in self._pruners:
            self._pruners[number] = self._search.pruner(number)
        return self._pruners[number]

    def take(self, spec: RunSpec, outcome: Outcome) -> None:
        """Take the outcome of a run, and make ready what follows from it."""
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
                self._release(spec.trial)
            if not any(self._waiting.values()) and not any(self._running.values()):
                self._finish_batch()

    def spared(self) -> int:
        """Return how many runs pruning has made unnecessary."""
        return sum(
            len(self.seeds) - len(self.settings[number].outcomes) - len(self._running.get(number, ()))
            for number in self._pruned
        )

    def _is_cut_short(self, setting: Setting) -> bool:
        """Return whether the seeds so far show a trial to be behind, so that the rest need not run."""
        objective = self._objective
        if self._sweep.config.prune != "wilcoxon" or objective is None:
            return False
        worths = {
            place: value_of(setting.outcomes[seed], objective)
            for place, seed in enumerate(self.seeds)
            if seed in setting.outcomes
        }
        known = {place: value for place, value in worths.items() if value is not None}
        behind = self._pruner(setting.number).stops(known)
        return behind and bool(self._waiting[setting.number])

    def _finish_batch(self) -> None:
        """Tell the search what the batch came to, in trial order, and ask for the next one."""
        assert self._search is not None
        for number in sorted(self._waiting):
            if number in self._pruners:
                self._pruners.pop(number).close()
            value = self.value(self.settings[number])
            state: State = "complete" if value is not None else "failed"
            self._search.tell(number, value, "pruned" if number in self._pruned else state)
        self._waiting.clear()
        self._running.clear()
        self._next_batch()

    def _begin_finals(self) -> None:
        """Once the search is over, make the winner's runs ready."""
        over = not self._waiting and not self._redone
        if self._search is None:
            over = all(len(setting.outcomes) == len(self.seeds) for setting in self.settings.values())
        if over and self._finals and not self.finals_begun:
            self.finals_begun = True
            self.ready.extend(self.final_specs())

    def value(self, setting: Setting) -> float | None:
        """Return the worth of a setting; None while it has none."""
        return setting.value(self.seeds, self._objective) if self._objective else None

    def best(self) -> tuple[Setting, float] | None:
        """Return the best setting so far and its worth."""
        if self._objective is None:
            return None
        return best_setting(self.settings.values(), self.seeds, self._objective)

    def best_so_far(self) -> tuple[tuple[Setting, float] | None, int]:
        """Return the best setting on the most seeds that some setting has ended on, and how many those are.

        For displays alone: nothing is chosen before all seeds are there.
        """
        for count in range(len(self.seeds), 0, -1):
            if self._objective is None:
                break
            best = best_setting(self.settings.values(), self.seeds[:count], self._objective)
            if best is not None:
                return best, count
        return None, 0
