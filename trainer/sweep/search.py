"""Search with Optuna: requests trials in batches of a fixed size and reports their values in trial order.

The trials do not depend on the number of workers or on interruptions: samplers are seeded per trial, all
trials of a batch are created before any of its values is reported, and a pruner sees only earlier batches.
Several processes (`--shard`) share one search: whichever comes first creates the trials of a batch, and each
reports all values.

The storage in the sweep directory is an Optuna journal, which Optuna's own tools can read. A trial is one
line, and an incomplete last line is dropped.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
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
from trainer.runs import rundir
from trainer.runs.sweep_files import SHARDS
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
    """A setting requested by the search.

    Args:
        number: from 0, within the variant.
        values: by axis.
        finished: whether its outcome was reported to the search.
        pruned: whether it was pruned.
    """

    number: int
    values: Mapping[str, Any]
    finished: bool
    pruned: bool


class _SharedLock(JournalFileOpenLock):
    """A lock of a folder, which a crash releases."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held.enter_context(rundir.locked(self._folder, wait=True))
        return True

    def release(self) -> None:
        """Release the lock."""
        self._held.close()


class _NoLock(JournalFileOpenLock):
    """Does nothing: the sweep directory is locked already, with a lock that a crash releases."""

    def acquire(self) -> bool:
        """Return True."""
        return True

    def release(self) -> None:
        """Do nothing."""


class _WholeSpaceQMC(QMCSampler):
    """QMC over the declared axes from the first trial (Optuna samples the first one at random)."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space = {name: axis for name, axis in space.items() if not axis.single()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the declared axes."""
        return dict(self._space)


def open_storage(root: Path, *, shared: bool = False) -> JournalStorage:
    """Open the storage in the sweep directory.

    Args:
        root: the sweep directory. The caller holds its lock, or one of a shard.
        shared: whether other processes use it at the same time.
    """
    path = root / STORAGE
    lock = _SharedLock(root / SHARDS / STORAGE) if shared else _NoLock(str(path))
    lock.acquire()
    try:
        if path.exists():
            content = path.read_bytes()
            complete_size = content.rfind(b"\n") + 1
            if complete_size < len(content):
                with open(path, "r+b") as file:
                    file.truncate(complete_size)
    finally:
        lock.release()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, OSError) as error:
        raise RunError(
            f"{path} is damaged: {error}", fix="move the file away; finished runs are kept"
        ) from error


class Search:
    """The search of one variant.

    Args:
        config: the sweep's settings.
        variant: the variant.
        storage: from `open_storage`.
        direction: direction of the objective.
        evaluations: number of evaluations of a complete run, for hyperband.
        delete_stored: when to delete the stored search.
        shared: folder of a lock, if other processes use the search at the same time.

    Raises:
        RunError: the storage contains a search with other settings.
    """

    def __init__(
        self,
        config: SweepConfig,
        variant: Variant,
        storage: JournalStorage,
        direction: Literal["min", "max"],
        evaluations: int,
        *,
        delete_stored: Literal["never", "mismatch", "always"] = "never",
        shared: Path | None = None,
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
        self._shared = shared
        with self.exclusive():
            self._study = _study(storage, variant.name, self._direction, signature, delete_stored)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._qmc = _WholeSpaceQMC(self._space, self._seed(0))
        self._replica = optuna.create_study(direction=self._direction, study_name=self._name)
        self._catch_up()

    def exclusive(self) -> AbstractContextManager[object]:
        """Return a context in which no other process changes the search."""
        return nullcontext() if self._shared is None else rundir.locked(self._shared, wait=True)

    def _seed(self, number: int) -> int:
        return stream_seed(f"search/{self._name}", self._config.search_seed, number) % 2**32

    def _catch_up(self) -> None:
        """Add new trials of the stored study to its copy in memory; new trials come from it."""
        replica = self._replica
        for frozen in self._study.trials[len(replica.trials) :]:
            if self._config.strategy == "qmc":  # asking advances the QMC sequence
                replica.sampler = self._qmc
                asked = replica.ask(self._space)
                if asked.params != frozen.params:
                    raise RunError(f"{STORAGE} contains trials of another search for {self._name}")
                self._copy_outcome(replica, frozen)
            else:
                replica.add_trial(frozen)

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
        """Return the unfinished trials of the current batch, created if needed; empty at the end."""
        with self.exclusive():
            self._catch_up()
            trials = self.trials()
            waiting = [trial.number for trial in trials if not trial.finished]
            start = min(waiting, default=len(trials))
            start -= start % self._config.batch
            end = min(start + self._config.batch, self._limit)
            for number in range(len(trials), end):
                self._ask(number)
        return [trial for trial in self.trials()[start:end] if not trial.finished]

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
                    # constant_liar makes the trials of one batch differ.
                    return TPESampler(seed=seed, constant_liar=True)
                case "gp":
                    return GPSampler(seed=seed)
                case "qmc":
                    return self._qmc
                case _:
                    return RandomSampler(seed=seed)

    def tell(self, number: int, value: float | None, state: State) -> None:
        """Report the outcome of a trial. Call it in trial order, for a whole batch at a time."""
        reported = value if state == "complete" else None
        for study in (self._study, self._replica):
            study.tell(number, reported, _STATES[state], skip_if_finished=True)

    def pruner(self, number: int) -> TrialPruner:
        """Return the pruner of a trial of the current batch."""
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
        """Return a study with the batches before the batch of a trial; its next trial has that number."""
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
        """Store the reported values of a trial and the attributes of its pruner, for later batches."""
        frozen = self._study.trials[number]
        if frozen.state.is_finished():  # another process stored them
            return
        trial_id = frozen._trial_id
        for step, value in values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        for key, attribute in attributes.items():
            self._storage.set_trial_system_attr(trial_id, key, attribute)


class TrialPruner:
    """Decides whether to prune a trial, from its reported values and the trials of earlier batches."""

    def __init__(self, search: Search, number: int) -> None:
        self._search = search
        self._number = number
        self._trial = search.snapshot(number).ask()
        self._reported: dict[int, float] = {}

    def should_prune(self, values: Mapping[int, float]) -> bool:
        """Report all values so far, by step; return whether to prune the trial."""
        verdict = False
        for step, value in values.items():
            if step in self._reported or not math.isfinite(value):
                continue
            self._reported[step] = value
            self._trial.report(value, step)
            verdict = self._trial.should_prune()
        return verdict

    def close(self) -> None:
        """Store the reported values. Call it once, when the trial has ended."""
        frozen = self._trial.study.trials[self._number]
        self._search.record(self._number, self._reported, frozen.system_attrs)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.kind == "int":
        return IntDistribution(int(axis.low), int(axis.high))
    if axis.is_range:
        return FloatDistribution(axis.low, axis.high, log=axis.kind == "log_uniform")
    return CategoricalDistribution(range(len(axis.values)))


def _value(axis: Axis, parameter: Any) -> Any:
    """Return the value for the config: of a range, rounded to four significant digits for short names."""
    if not axis.is_range:
        return axis.values[parameter]
    return parameter if axis.kind == "int" else float(f"{parameter:.4g}")


def _study(
    storage: JournalStorage,
    name: str,
    direction: Literal["minimize", "maximize"],
    signature: str,
    delete_stored: Literal["never", "mismatch", "always"],
) -> Study:
    """Return the stored study of a variant; create it if missing."""

    def create() -> Study:
        return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)

    study = create()
    known = study.user_attrs.get("optlab")
    differs = known != signature and (known is not None or bool(study.trials))
    if delete_stored == "always" or (differs and delete_stored == "mismatch"):
        optuna.delete_study(study_name=name, storage=storage)
        study = create()
        known = None
    elif differs:
        raise RunError(
            f"{STORAGE} contains a search with other axes, strategy, seed or objective for {name}",
            fix="give the sweep another name, or use --force to restart the search (matching runs are kept)",
        )
    if known is None:
        study.set_user_attr("optlab", signature)
    return study
