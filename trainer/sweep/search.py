"""Search by Optuna: asks for settings in batches of a fixed size, is told their values in trial order.

So the same file gives the same trials whatever the number of workers, and however often the sweep was
stopped: samplers are seeded per trial, a batch is asked for before any of it is told, and a pruner sees the
trials of earlier batches only. The storage in the sweep's directory is Optuna's journal, for its own tools to
read; it gets a trial in one line, and a torn last line is dropped.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainer.errors import RunError
from trainer.seeding import stream_seed
from trainer.sweep.models import SweepConfig, Variant
from trainer.sweep.space import Axis

STORAGE = "search.journal"

State = Literal["running", "complete", "pruned", "failed"]
_STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting that the search asked for.

    Args:
        number: from 0, within the variant.
        values: by axis.
        told: whether the search knows its outcome.
        pruned: whether it was stopped for falling behind.
    """

    number: int
    values: Mapping[str, Any]
    told: bool
    pruned: bool


class _SweepHoldsTheLock(JournalFileOpenLock):
    """No lock: the sweep's own keeps others out, and is free again after a crash."""

    def acquire(self) -> bool:
        """Say yes."""
        return True

    def release(self) -> None:
        """Do nothing."""


class _WholeSpaceQMC(QMCSampler):
    """QMC over the declared axes from the first trial on (Optuna's own draws that one at random)."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space = {name: axis for name, axis in space.items() if not axis.single()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the declared axes."""
        return dict(self._space)


def open_storage(root: Path) -> JournalStorage:
    """Open the search's storage in the sweep's directory, which the caller has locked."""
    path = root / STORAGE
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(path, "r+b") as file:
                file.truncate(whole)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_SweepHoldsTheLock(str(path))))
    except (ValueError, KeyError, OSError) as error:
        raise RunError(
            f"{path} is damaged: {error}", fix="move it away; runs that are finished are kept"
        ) from error


class Search:
    """The search of one variant.

    Args:
        config: the sweep's settings.
        variant: whose axes are searched.
        storage: see `open_storage`.
        direction: of the objective.
        evaluations: how many a full run has, for hyperband.
        anew: when to throw away what is stored.

    Raises:
        RunError: the storage holds another search.
    """

    def __init__(
        self,
        config: SweepConfig,
        variant: Variant,
        storage: JournalStorage,
        direction: Literal["min", "max"],
        evaluations: int,
        *,
        anew: Literal["never", "mismatch", "always"] = "never",
    ) -> None:
        assert config.trials is not None
        self._config = config
        self._axes = {axis.key: axis for axis in variant.axes}
        self._space = {axis.key: _distribution(axis) for axis in variant.axes}
        self._storage = storage
        self._name = variant.name
        self._direction: Literal["minimize", "maximize"] = "minimize" if direction == "min" else "maximize"
        self._evaluations = evaluations
        self._limit = config.trials
        signature = json.dumps(
            {
                "axes": {key: axis.as_config() for key, axis in self._axes.items()},
                "strategy": config.strategy,
                "search_seed": config.search_seed,
                "batch": config.batch,
                "direction": direction,
                "prune": config.prune,
            },
            sort_keys=True,
        )
        self._study = _study(storage, variant.name, self._direction, signature, anew)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._qmc = _WholeSpaceQMC(self._space, self._seed(0))
        self._replica = self._replay()

    def _seed(self, number: int) -> int:
        return stream_seed(f"search/{self._name}", self._config.search_seed, number) % 2**32

    def _replay(self) -> Study:
        """Return a study in memory that stands where the stored one does, to be asked."""
        replica = optuna.create_study(direction=self._direction, study_name=self._name)
        for frozen in self._study.trials:
            if self._config.strategy == "qmc":  # its place in the sequence is counted by asking
                replica.sampler = self._qmc
                asked = replica.ask(self._space)
                if asked.params != frozen.params:
                    raise RunError(f"{STORAGE} of {self._name} holds trials of another search")
                self._copy_outcome(replica, frozen)
            else:
                replica.add_trial(frozen)
        return replica

    @staticmethod
    def _copy_outcome(replica: Study, frozen: FrozenTrial) -> None:
        if frozen.state.is_finished():
            values = frozen.values if frozen.state == TrialState.COMPLETE else None
            replica.tell(frozen.number, values, frozen.state)

    def trials(self) -> list[Trial]:
        """Return all trials so far, in order."""
        return [self._trial(frozen) for frozen in self._study.trials]

    def _trial(self, frozen: FrozenTrial) -> Trial:
        values = {key: _value(axis, frozen.params[key]) for key, axis in self._axes.items()}
        pruned = frozen.state == TrialState.PRUNED
        return Trial(frozen.number, values, frozen.state.is_finished(), pruned)

    def batch(self) -> list[Trial]:
        """Return the batch that is to be tried now, asked for whole; empty when all trials are told."""
        trials = self.trials()
        waiting = [trial.number for trial in trials if not trial.told]
        start = min(waiting, default=len(trials))
        start -= start % self._config.batch
        end = min(start + self._config.batch, self._limit)
        for number in range(len(trials), end):
            self._ask(number)
        return [trial for trial in self.trials()[start:end] if not trial.told]

    def _ask(self, number: int) -> None:
        self._replica.sampler = self._sampler(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            asked = self._replica.ask(self._space)
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=asked.params, distributions=self._space)
        )

    def _sampler(self, number: int) -> BaseSampler:
        seed = self._seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self._config.strategy:
                case "tpe":
                    # The liar keeps the trials of one batch apart.
                    return TPESampler(seed=seed, constant_liar=True)
                case "gp":
                    return GPSampler(seed=seed)
                case "qmc":
                    return self._qmc
                case _:
                    return RandomSampler(seed=seed)

    def tell(self, number: int, value: float | None, state: State) -> None:
        """Tell the outcome of a trial; the caller does so in trial order, a whole batch at a time."""
        given = value if state == "complete" else None
        for study in (self._study, self._replica):
            study.tell(number, given, _STATES[state], skip_if_finished=True)

    def pruner(self, number: int) -> TrialPruner:
        """Return who decides whether a trial of the current batch goes on."""
        return TrialPruner(self, number)

    def _pruner(self) -> optuna.pruners.BasePruner:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self._config.prune:
                case "median":
                    return optuna.pruners.MedianPruner()
                case "hyperband":
                    return optuna.pruners.HyperbandPruner(max_resource=self._evaluations)
                case "wilcoxon":
                    return optuna.pruners.WilcoxonPruner(p_threshold=0.1)
                case _:
                    return optuna.pruners.NopPruner()

    def snapshot(self, number: int) -> Study:
        """Return a study that holds the batches before a trial's own; its next trial has that number."""
        study = optuna.create_study(
            direction=self._direction,
            study_name=self._name,
            sampler=RandomSampler(seed=0),
            pruner=self._pruner(),
        )
        start = number - number % self._config.batch
        for frozen in self._study.trials[:start]:
            study.add_trial(frozen)
        for _ in range(start, number):
            study.add_trial(create_trial(state=TrialState.FAIL))
        return study

    def record(self, number: int, values: Mapping[int, float], attributes: Mapping[str, Any]) -> None:
        """Keep what a trial reported, and what the pruner noted, for the trials of later batches."""
        trial_id = self._study.trials[number]._trial_id
        for step, value in values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        for key, attribute in attributes.items():
            self._storage.set_trial_system_attr(trial_id, key, attribute)


class TrialPruner:
    """Decides whether one trial goes on, from its own reports and the trials of earlier batches."""

    def __init__(self, search: Search, number: int) -> None:
        self._search = search
        self._number = number
        self._trial = search.snapshot(number).ask()
        self._reported: dict[int, float] = {}

    def stops(self, values: Mapping[int, float]) -> bool:
        """Take all reports so far, by step; return whether the trial ends here."""
        verdict = False
        for step, value in values.items():
            if step in self._reported or not math.isfinite(value):
                continue
            self._reported[step] = value
            self._trial.report(value, step)
            verdict = self._trial.should_prune()
        return verdict

    def close(self) -> None:
        """Keep what was reported; once, when the trial is over."""
        frozen = self._trial.study.trials[self._number]
        self._search.record(self._number, self._reported, frozen.system_attrs)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.kind == "int":
        return IntDistribution(int(axis.low), int(axis.high))
    if axis.is_range:
        return FloatDistribution(axis.low, axis.high, log=axis.kind == "log_uniform")
    return CategoricalDistribution(range(len(axis.values)))


def _value(axis: Axis, parameter: Any) -> Any:
    """Return what a run gets: of a range four significant digits, which names and tables can show."""
    if not axis.is_range:
        return axis.values[parameter]
    return parameter if axis.kind == "int" else float(f"{parameter:.4g}")


def _study(
    storage: JournalStorage,
    name: str,
    direction: Literal["minimize", "maximize"],
    signature: str,
    anew: Literal["never", "mismatch", "always"],
) -> Study:
    """Return a variant's stored study, made where there is none."""

    def create() -> Study:
        return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)

    study = create()
    known = study.user_attrs.get("optlab")
    differs = known != signature and (known is not None or bool(study.trials))
    if anew == "always" or (differs and anew == "mismatch"):
        optuna.delete_study(study_name=name, storage=storage)
        study = create()
        known = None
    elif differs:
        raise RunError(
            f"{STORAGE} holds a search of other axes, strategy, seed or objective for {name}",
            fix="give the sweep another name, or say --force to search anew (runs that fit are kept)",
        )
    if known is None:
        study.set_user_attr("optlab", signature)
    return study
