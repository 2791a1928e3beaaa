"""Runs a sweep: sends runs to workers, collects their outcomes, writes the files of the sweep.

`VariantSearch` decides which run is next, and `launch` trains it. This module handles workers that exit,
signals, failures and progress.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from trainer import interrupts
from trainer.errors import BusyError, RunError
from trainer.runs import ownership, rundir
from trainer.runs.recorder import StatusFile
from trainer.runs.sweep_files import SHARDS
from trainer.sweep import progress, results
from trainer.sweep.models import Objective, Sweep
from trainer.sweep.plan import (
    SWEEP_FILE,
    ExistingRuns,
    RunSpec,
    SharedData,
    VariantInfo,
    resolved,
)
from trainer.sweep.pool import Event, LocalPool, Pool
from trainer.sweep.progress import Display, FinishedRun, Pace, SweepState, sweep_state, variant_state
from trainer.sweep.results import Outcome
from trainer.sweep.search import Search, open_storage
from trainer.sweep.tasks import Tasks, sweep_slots
from trainer.sweep.variant_search import VariantSearch

POLL_SECONDS = 0.2
OTHERS_SECONDS = 0.5
"""Interval in which the runs of other processes are looked at."""
MAX_IDLE_EXITS = 5
MAX_LOST_WORKERS = 10
"""Lost nodes from which a run is continued; after that it counts as their cause."""


@dataclass(slots=True)
class Options:
    """Options of running a sweep.

    Args:
        workers: number of worker processes; None = as in the file.
        only: variants to run; empty = all.
        shard: (i, n): run the i-th of n equal parts of the grid, counted from 1; None = all.
        fail_fast: stop at the first failed run.
        on: where the workers are: `local`, `ray`, or `ray:ADDRESS` of a cluster.
    """

    workers: int | None = None
    only: Sequence[str] = ()
    shard: tuple[int, int] | None = None
    fail_fast: bool = False
    on: str = "local"


@dataclass(slots=True)
class _PendingRun:
    """A run in progress, and other specs of the same run directory that wait for its outcome."""

    spec: RunSpec
    waiting: list[RunSpec] = field(default_factory=list)
    attempt: int = 1
    num_lost: int = 0  # workers that were lost with their node
    elsewhere: bool = False  # trained by another process
    deferred: bool = False  # left to another shard


class SweepRunner:
    """Runs a sweep in its directory. The caller holds its lock.

    Args:
        sweep: the sweep.
        root: its directory.
        infos: from `check_variants`.
        objective: the objective; None = no setting is chosen.
        shared_data: the shared data.
        options: options.
        display: receives the progress.
        force: restart searches that are stored with other axes.
    """

    def __init__(
        self,
        sweep: Sweep,
        root: Path,
        infos: Mapping[str, VariantInfo],
        objective: Objective | None,
        shared_data: SharedData,
        options: Options,
        display: Display,
        *,
        force: bool = False,
    ) -> None:
        self.sweep = sweep
        self.root = root
        self.objective = objective
        self.options = options
        self._infos = infos
        self._shared_data = shared_data
        self._existing = ExistingRuns(sweep, root, infos, shared_data)
        self._checked: set[Path] = set()
        self._tasks = Tasks(sweep, shared_data, self._existing)
        self._display = display
        self._pending: dict[Path, _PendingRun] = {}
        self._queued: list[_PendingRun] = []
        self._stop: str | None = None
        self._failures: dict[Path, Outcome] = {}
        self._outcomes: dict[Path, Outcome] = {}
        self._others: list[RunSpec] = []
        self._other_processes_noted = False
        self._kept = 0
        self._pace = Pace()
        self._idle_exits = 0
        self._num_taken: Counter[str] = Counter()
        self._written = 0.0
        self._checked_others = 0.0
        self._force = force
        self.searches = self._variant_searches(set())

    @property
    def _grid_part(self) -> tuple[int, int] | None:
        """The part of a grid that is run; None = all of it, or a search, which each part completes."""
        return self.options.shard if self.sweep.config.strategy == "grid" else None

    def _variant_searches(self, restarted: set[str]) -> dict[str, VariantSearch]:
        config, variant_searches = self.sweep.config, {}
        shared = self.options.shard is not None
        storage = open_storage(self.root, shared=shared) if config.strategy != "grid" else None
        for name, variant in self.sweep.variants.items():
            search = None
            if storage is not None:
                assert self.objective is not None
                evaluations = self._infos[name].evaluations
                search = Search(
                    config,
                    variant,
                    storage,
                    self.objective.direction,
                    evaluations,
                    delete_stored="always" if name in restarted else "mismatch" if self._force else "never",
                    shared=self.root / SHARDS / f"search-{name}" if shared else None,
                )
            finals = bool(self.sweep.final_seeds) and self._grid_part is None
            variant_searches[name] = VariantSearch(
                self.sweep, variant, self.root, self.objective, search, finals=finals
            )
        return variant_searches

    # ---- existing runs

    def check_existing(self, *, force: bool) -> None:
        """Check that existing runs have the configs, code and data of this sweep.

        Args:
            force: delete runs that differ, and restart the searches of their variants.

        Raises:
            RunError: some runs differ, and `force` is false.
        """
        specs = [spec for variant_search in self.searches.values() for spec in variant_search.specs()]
        specs += [spec for variant_search in self.searches.values() for spec in variant_search.final_specs()]
        mismatches = [(spec, lines) for spec in specs if (lines := self._existing.differences(spec))]
        if mismatches and not force:
            spec, differences = mismatches[0]
            raise RunError(
                f"{len(mismatches)} of the runs in {self.root} do not match this sweep; "
                f"{spec.folder.relative_to(self.root)} differs in:\n    " + "\n    ".join(differences),
                fix="give the sweep another name (name=NAME), or use --force to delete those runs",
            )
        for spec, _ in mismatches:
            _delete_run(spec)
        if mismatches:
            self.searches = self._variant_searches({spec.variant for spec, _ in mismatches})
        self._checked = {spec.folder for spec in specs}

    # ---- running

    def run(self) -> int:
        """Run the sweep and return the exit code: 0, 4 if some runs failed, or that of a signal."""
        document = resolved(self.sweep, self._infos, self.objective)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
        rundir.write_atomically(self.root / SWEEP_FILE, text)
        for name in self._active():
            self.searches[name].start()
        self._apply_shard()
        self._read_other_outcomes()
        with self._signals():
            first = self._next()
            if first is not None:
                self._queued.append(_PendingRun(first))
            if self._queued or self._pending:
                self._work()
        self._read_other_outcomes()  # other shards may have finished more runs
        self.write_files()
        if self._stop and self._stop != "failure":
            return interrupts.exit_code(self._stop)
        return 4 if self._failures else 0

    def _active(self) -> list[str]:
        return [name for name in self.searches if not self.options.only or name in self.options.only]

    def _apply_shard(self) -> None:
        """Keep only the runs of this shard ready; remember the others in `_others`."""
        part, parts = self._grid_part or (1, 1)
        active, number = self._active(), 0
        for name, variant_search in self.searches.items():
            own: list[RunSpec] = []
            for spec in variant_search.specs():
                in_shard = name in active and number % parts == part - 1
                (own if in_shard else self._others).append(spec)
                number += 1
            if self._grid_part and name in active:
                variant_search.ready.clear()
                variant_search.ready.extend(own)

    def _read_other_outcomes(self) -> None:
        """Read the outcomes of runs of other shards and of variants that are not run now, for the tables."""
        for spec in self._others:
            if outcome := results.read_outcome(spec.folder):
                self.searches[spec.variant].settings[spec.trial].outcomes[spec.seed] = outcome
        for name, variant_search in self.searches.items():
            if self._grid_part is None and name in self._active():
                continue
            for spec in variant_search.final_specs():
                if outcome := results.read_outcome(spec.folder):
                    variant_search.final_outcomes[spec.seed] = outcome

    def _next(self) -> RunSpec | None:
        """Return the next run to train, from the variant with the fewest runs so far; None if none is ready.

        Adds the outcomes of runs that are already finished.
        """
        active = self._active()
        while not self._stop:
            ready = [name for name in active if self.searches[name].ready]
            if not ready:
                break
            name = min(ready, key=lambda name: self._num_taken[name])
            self._num_taken[name] += 1
            spec = self.searches[name].ready.popleft()
            if self._is_done_or_pending(spec):
                continue
            if self._is_of_other_shard(spec):
                self._pending[spec.folder] = _PendingRun(spec, elsewhere=True, deferred=True)
                continue
            return spec
        return None

    def _is_of_other_shard(self, spec: RunSpec) -> bool:
        """Return whether a run of a search is left to another shard, as long as this one has others."""
        if self.options.shard is None or self._grid_part:
            return False
        part, parts = self.options.shard
        seeds = self.sweep.final_seeds if spec.stage == "final" else self.sweep.seeds
        return (spec.trial * len(seeds) + seeds.index(spec.seed)) % parts != part - 1

    def _deferred(self) -> _PendingRun | None:
        """Return a run of another shard that it has not started, to be trained by an idle worker."""
        for folder, pending in self._pending.items():
            if not pending.deferred or rundir.is_locked(folder):
                continue
            outcome = results.read_outcome(folder)
            if outcome is None or outcome.status not in results.DONE:
                del self._pending[folder]
                pending.elsewhere = pending.deferred = False
                return pending
        return None

    def _is_done_or_pending(self, spec: RunSpec) -> bool:
        """Return whether a run is finished or in progress; add its outcome or wait for it."""
        if spec.folder in self._pending:
            self._pending[spec.folder].waiting.append(spec)
            return True
        outcome = self._outcomes.get(spec.folder) or results.read_outcome(spec.folder)
        if outcome is None or outcome.status not in results.DONE:
            return False
        if spec.folder not in self._checked | self._outcomes.keys() and self._existing.differences(spec):
            if self._force:
                _delete_run(spec)
            return False  # the worker then raises an error with the differences
        self._kept += spec.folder not in self._outcomes
        self._add_outcome(spec, outcome, kept=True)
        return True

    def _work(self) -> None:
        """Start the workers and send them runs until none is left or the sweep is stopped."""
        self._write_data()
        notified = False
        with self._open_pool() as pool:
            while True:
                if not self._stop:
                    self._check_other_processes()
                    self._assign_runs(pool)
                if not pool.busy() and (self._stop or not (self._pending or self._has_ready())):
                    return
                self._show()
                for event in pool.wait(POLL_SECONDS):
                    self._handle(pool, event)
                if self._stop and not notified:
                    notified = True
                    pool.interrupt()
                    self._display.note(
                        "stopping: running runs save their state (press Ctrl-C again to exit immediately)"
                    )

    def _has_ready(self) -> bool:
        """Return whether runs wait for a worker."""
        return bool(self._queued) or any(self.searches[name].ready for name in self._active())

    def _open_pool(self) -> Pool:
        """Start the workers."""
        where, _, address = self.options.on.partition(":")
        if where == "local":
            slots = sweep_slots(self.sweep, self._infos, self.options.workers)
            return LocalPool(slots, self.sweep.variants)
        from trainer.sweep.ray_pool import RayPool

        workers = self.options.workers or self.sweep.config.workers
        device = str(next(iter(self._infos.values())).config["train"]["device"])
        return RayPool(
            address or None,
            self.sweep,
            None if workers == "auto" else workers,
            self.root,
            device,
            self._display.note,
        )

    def _assign_runs(self, pool: Pool) -> None:
        for number in pool.idle():
            if self._queued:
                pending = self._queued.pop(0)
            elif (spec := self._next()) is not None:
                pending = _PendingRun(spec)
            elif (deferred := self._deferred()) is not None:
                pending = deferred
            else:
                return
            self._pending[pending.spec.folder] = pending
            prune_metric = self.searches[pending.spec.variant].prune_metric(pending.spec)
            pool.assign(number, self._tasks.task(pending.spec, pool.device(number), prune_metric))

    def _write_data(self) -> None:
        """Write the data of every variant, still in memory from the check, to files; then release it."""
        for name in self._active():
            specs = self.searches[name].specs()
            if specs:
                self._tasks.data_file(specs[0])
        self._shared_data.forget()

    # ---- events of workers

    def _handle(self, pool: Pool, event: Event) -> None:
        if event.task is None:
            self._idle_exits += 1
            if self._idle_exits > MAX_IDLE_EXITS:
                raise RunError(
                    "the worker processes exit as soon as they start", fix="see their error output above"
                )
            return
        pending = self._pending[event.task.folder]
        if event.question is not None:
            variant_search = self.searches[pending.spec.variant]
            pool.answer(event.worker, variant_search.should_prune(pending.spec, event.question.values))
            return
        del self._pending[event.task.folder]
        if event.reply is not None:
            reply = event.reply
            if reply.status == "interrupted" and not self._stop:
                self._retry(pending, "its process was interrupted")
            elif reply.status == "running":
                self._wait_for_other(pending)
            elif reply.status != "interrupted":
                self._finish(pending, Outcome(reply.status, reply.result, reply.message), kept=reply.skipped)
        elif not self._stop and event.lost and pending.num_lost < MAX_LOST_WORKERS:
            pending.num_lost += 1
            self._display.note(f"{pending.spec.label}: its node was lost; continuing it elsewhere")
            self._queued.append(pending)
        elif not self._stop:
            self._retry(pending, _describe_exit(event.exit_code))

    def _wait_for_other(self, pending: _PendingRun) -> None:
        """Wait for a run that another process trains, and add its outcome."""
        if not self._other_processes_noted:
            self._other_processes_noted = True
            self._display.note(f"{pending.spec.label}: another process trains it; waiting for such runs")
        pending.elsewhere = True
        self._pending[pending.spec.folder] = pending

    def _check_other_processes(self) -> None:
        """Add the outcomes of runs that other processes finished; train those that they abandoned."""
        if time.monotonic() - self._checked_others < OTHERS_SECONDS:
            return
        self._checked_others = time.monotonic()
        for folder, pending in list(self._pending.items()):
            if not pending.elsewhere or rundir.is_locked(folder):
                continue
            outcome = results.read_outcome(folder)
            if outcome and outcome.status in results.DONE:
                del self._pending[folder]
                self._kept += 1
                self._finish(pending, outcome, kept=True)
            elif not pending.deferred:
                del self._pending[folder]
                pending.elsewhere = False
                self._queued.append(pending)

    def _retry(self, pending: _PendingRun, why: str) -> None:
        """Retry a run whose process was lost; the second time, mark it as failed."""
        if pending.attempt == 1:
            self._display.note(f"{pending.spec.label}: {why}; retrying")
            pending.attempt = 2
            self._queued.append(pending)
            return
        message = f"its process was lost twice: {why}"
        if pending.spec.folder.is_dir():
            try:
                with rundir.locked(pending.spec.folder) as run_lock:
                    StatusFile(run_lock).write("failed", message=message)
            except BusyError:
                self._wait_for_other(pending)
                return
        self._finish(pending, Outcome("failed", None, message), kept=False)

    def _finish(self, pending: _PendingRun, outcome: Outcome, *, kept: bool) -> None:
        if not kept:
            self._pace.count()
        for spec in [pending.spec, *pending.waiting]:
            self._add_outcome(spec, outcome, kept=kept or spec is not pending.spec)

    def _add_outcome(self, spec: RunSpec, outcome: Outcome, *, kept: bool) -> None:
        self._outcomes[spec.folder] = outcome
        self.searches[spec.variant].add_outcome(spec, outcome)
        if outcome.status == "failed":
            self._failures[spec.folder] = outcome
            if self.options.fail_fast:
                self._stop = self._stop or "failure"
        value = results.value_of(outcome, self.objective) if self.objective else None
        self._display.finished(FinishedRun(spec.label, outcome, value, kept), self.state())

    # ---- stopping

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """On SIGINT, SIGTERM or SIGHUP, stop cleanly; on a second SIGINT, exit immediately."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under `nohup`
            numbers.append(signal.SIGHUP)
        interrupts.check()
        former = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    # ---- progress and files

    def state(self) -> SweepState:
        """Return the progress of the sweep."""
        running_counts = Counter(pending.spec.variant for pending in self._pending.values())
        trials = self.sweep.config.trials
        variants = []
        for name, variant_search in self.searches.items():
            finals = len(variant_search.final_outcomes if self._grid_part else self.sweep.final_seeds)
            variants.append(
                variant_state(variant_search, self.objective, running_counts[name], trials, finals)
            )
        labels = [
            pending.spec.label + (" (in another process)" if pending.elsewhere else "")
            for pending in self._pending.values()
        ]
        return sweep_state(variants, labels, self._kept, len(self._failures), self._pace)

    def _show(self) -> None:
        state = self.state()
        self._display.update(state)
        now = time.monotonic()
        if now - self._written >= 1:
            self._written = now
            progress.write_progress(self.root, state, "running")

    def write_files(self) -> dict[str, Any]:
        """Write results.csv, summary.json and best.yaml per variant; return the summary."""
        state = self.state()
        status = "interrupted" if self._stop else "failed" if self._failures else "completed"
        summary = progress.write_files(self.sweep, self.root, self.searches, self.objective, state, status)
        progress.write_progress(self.root, state, status)
        return summary


def _delete_run(spec: RunSpec) -> None:
    with rundir.locked(spec.folder):
        ownership.clear(spec.folder)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        named = {one.value: one.name for one in signal.Signals}  # most real-time signals have no name
        name = named.get(-exit_code, f"signal {-exit_code}")
        return f"its process was killed ({name}" + ("; out of memory?)" if name == "SIGKILL" else ")")
    return f"its process ended with exit code {exit_code}"
