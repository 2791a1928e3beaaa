"""Conducts a sweep: hands runs to workers, takes what they came to, writes the sweep's files.

What is to be run next is the searches' knowledge, how it is trained `launch`'s; here is the order of
events: workers that die, signals, failures, progress.
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
from trainer.sweep.pool import Event, Pool
from trainer.sweep.progress import Display, Finished, Pace, SweepState, sweep_state, variant_state
from trainer.sweep.results import Outcome
from trainer.sweep.search import Search, open_storage
from trainer.sweep.tasks import Tasks, slots_here
from trainer.sweep.variant_search import VariantSearch

POLL_SECONDS = 0.2
MOST_IDLE_DEATHS = 5


@dataclass(slots=True)
class Options:
    """How a sweep is to be carried out.

    Args:
        workers: processes; None = the file's.
        only: variants that are run; empty = all.
        shard: (i, n): the i-th of n equal parts of the grid, from 1; None = all.
        fail_fast: stop at the first failed run.
    """

    workers: int | None = None
    only: Sequence[str] = ()
    shard: tuple[int, int] | None = None
    fail_fast: bool = False


@dataclass(slots=True)
class _PendingRun:
    """A run in the air, for all who wait for it."""

    spec: RunSpec
    waiting: list[RunSpec] = field(default_factory=list)
    attempt: int = 1
    elsewhere: bool = False  # another process trains it


class SweepRunner:
    """Runs a sweep in its directory, which the caller has locked.

    Args:
        sweep: the sweep.
        root: its directory.
        infos: what building the variants showed.
        objective: what settings are chosen by; None = nothing is chosen.
        shared_data: the shared data.
        options: how.
        display: hears of everything.
        force: begin searches anew that are stored with other axes.
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
        self._again: list[_PendingRun] = []
        self._stop: str | None = None
        self._failures: dict[Path, Outcome] = {}
        self._outcomes: dict[Path, Outcome] = {}
        self._others: list[RunSpec] = []
        self._left_some = False
        self._kept = 0
        self._pace = Pace()
        self._idle_deaths = 0
        self._handed: Counter[str] = Counter()
        self._written = 0.0
        self._force = force
        self.searches = self._contenders(set())

    def _contenders(self, anew: set[str]) -> dict[str, VariantSearch]:
        config, found = self.sweep.config, {}
        storage = open_storage(self.root) if config.strategy != "grid" else None
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
                    anew="always" if name in anew else "mismatch" if self._force else "never",
                )
            finals = bool(self.sweep.final_seeds) and self.options.shard is None
            found[name] = VariantSearch(self.sweep, variant, self.root, self.objective, search, finals=finals)
        return found

    # ---- what is there already

    def fit(self, *, force: bool) -> None:
        """See that the runs that are there were made from this sweep's configs.

        Args:
            force: throw those away that were not, and the search that knows of them.

        Raises:
            RunError: some were not, and nobody forces.
        """
        specs = [spec for variant_search in self.searches.values() for spec in variant_search.specs()]
        specs += [spec for variant_search in self.searches.values() for spec in variant_search.final_specs()]
        strangers = [(spec, lines) for spec in specs if (lines := self._existing.differences(spec))]
        if strangers and not force:
            spec, differences = strangers[0]
            raise RunError(
                f"{len(strangers)} of the runs in {self.root} are other runs; "
                f"{spec.folder.relative_to(self.root)} differs in:\n    " + "\n    ".join(differences),
                fix="give the sweep another name, or say --force to throw those runs away",
            )
        for spec, _ in strangers:
            _throw_away(spec)
        if strangers:
            self.searches = self._contenders({spec.variant for spec, _ in strangers})
        self._checked = {spec.folder for spec in specs}

    # ---- the course of events

    def run(self) -> int:
        """Carry the sweep out and return the exit code: 0, 4 some runs failed, else a signal's."""
        document = resolved(self.sweep, self._infos, self.objective)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
        rundir.write_atomically(self.root / SWEEP_FILE, text)
        for name in self._active():
            self.searches[name].start()
        self._deal()
        self._recall()
        with self._signals():
            first = self._next()
            if first is not None:
                self._again.append(_PendingRun(first))
                self._work()
        self._recall()  # other shards have gone on meanwhile
        self.write_files()
        if self._stop and self._stop != "failure":
            return interrupts.exit_code(self._stop)
        return 4 if self._failures else 0

    def _active(self) -> list[str]:
        return [name for name in self.searches if not self.options.only or name in self.options.only]

    def _deal(self) -> None:
        """Keep this shard's part of the grid, and know the runs that are others' affair."""
        part, parts = self.options.shard or (1, 1)
        active, number = self._active(), 0
        for name, variant_search in self.searches.items():
            mine: list[RunSpec] = []
            for spec in variant_search.specs():
                here = name in active and number % parts == part - 1
                (mine if here else self._others).append(spec)
                number += 1
            if self.options.shard and name in active:
                variant_search.ready.clear()
                variant_search.ready.extend(mine)

    def _recall(self) -> None:
        """Read how others' runs ended, for the tables: other shards', and those of variants not run now."""
        for spec in self._others:
            if outcome := results.read_outcome(spec.folder):
                self.searches[spec.variant].settings[spec.trial].outcomes[spec.seed] = outcome
        for name, variant_search in self.searches.items():
            if self.options.shard is None and name in self._active():
                continue
            for spec in variant_search.final_specs():
                if outcome := results.read_outcome(spec.folder):
                    variant_search.final_outcomes[spec.seed] = outcome

    def _next(self) -> RunSpec | None:
        """Return the next run that must be trained, of the variant that has had the fewest; None = none now.

        Runs that are there already are taken as they are on the way.
        """
        active = self._active()
        while not self._stop:
            ready = [name for name in active if self.searches[name].ready]
            if not ready:
                break
            name = min(ready, key=lambda name: self._handed[name])
            self._handed[name] += 1
            spec = self.searches[name].ready.popleft()
            if not self._is_there(spec):
                return spec
        return None

    def _is_there(self, spec: RunSpec) -> bool:
        """Take a run that is finished, or join one in the air; return whether that was so."""
        if spec.folder in self._pending:
            self._pending[spec.folder].waiting.append(spec)
            return True
        outcome = self._outcomes.get(spec.folder) or results.read_outcome(spec.folder)
        if outcome is None or outcome.status not in results.DONE:
            return False
        if spec.folder not in self._checked | self._outcomes.keys() and self._existing.differences(spec):
            if self._force:
                _throw_away(spec)
            return False  # the worker refuses it and says why
        self._kept += spec.folder not in self._outcomes
        self._take(spec, outcome, kept=True)
        return True

    def _work(self) -> None:
        """Start the workers and keep them busy until nothing is left or somebody said stop."""
        self._lay_out_data()
        slots = slots_here(self.sweep, self._infos, self.options.workers)
        told = False
        with Pool(len(slots), self.sweep.variants) as pool:
            while True:
                if not self._stop:
                    self._look_elsewhere()
                    self._hand_out(pool, slots)
                if not pool.busy() and (self._stop or not self._pending):
                    return
                for event in pool.wait(POLL_SECONDS):
                    self._hear(pool, event)
                if self._stop and not told:
                    told = True
                    pool.interrupt()
                    self._display.note("stopping: the running ones save their state (Ctrl-C again: at once)")
                self._show()

    def _hand_out(self, pool: Pool, slots: Sequence[str | None]) -> None:
        for number in pool.idle():
            if self._again:
                pending = self._again.pop(0)
            elif (spec := self._next()) is not None:
                pending = _PendingRun(spec)
            else:
                return
            self._pending[pending.spec.folder] = pending
            prune_metric = self.searches[pending.spec.variant].prune_metric(pending.spec)
            pool.give(number, self._tasks.task(pending.spec, slots[number], prune_metric))

    def _lay_out_data(self) -> None:
        """Lay out the data of every variant while it is still in memory from the check, then let go of it."""
        for name in self._active():
            specs = self.searches[name].specs()
            if specs:
                self._tasks.data_file(specs[0])
        self._shared_data.forget()

    # ---- what workers say

    def _hear(self, pool: Pool, event: Event) -> None:
        if event.task is None:
            self._idle_deaths += 1
            if self._idle_deaths > MOST_IDLE_DEATHS:
                raise RunError(
                    "the worker processes die as soon as they start", fix="look at their message above"
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
                self._lost(pending, "somebody interrupted it")
            elif reply.status == "running":
                self._leave(pending)
            elif reply.status != "interrupted":
                self._land(pending, Outcome(reply.status, reply.result, reply.message), kept=reply.skipped)
        elif not self._stop:
            self._lost(pending, _death(event.exit_code))

    def _leave(self, pending: _PendingRun) -> None:
        """Leave a run to the other process that trains it, and take its result when it is done."""
        if not self._left_some:
            self._left_some = True
            self._display.note(f"{pending.spec.label}: another process trains it; such runs are waited for")
        pending.elsewhere = True
        self._pending[pending.spec.folder] = pending

    def _look_elsewhere(self) -> None:
        """Take what other processes have finished, and train what they let go of."""
        for folder, pending in list(self._pending.items()):
            if not pending.elsewhere or rundir.is_locked(folder):
                continue
            del self._pending[folder]
            pending.elsewhere = False
            outcome = results.read_outcome(folder)
            if outcome and outcome.status in results.DONE:
                self._kept += 1
                self._land(pending, outcome, kept=True)
            else:
                self._again.append(pending)

    def _lost(self, pending: _PendingRun, why: str) -> None:
        """Train a run once more whose process was lost; the second time it has failed."""
        if pending.attempt == 1:
            self._display.note(f"{pending.spec.label}: {why}; once more")
            pending.attempt = 2
            self._again.append(pending)
            return
        message = f"its process was lost twice: {why}"
        if pending.spec.folder.is_dir():
            try:
                with rundir.locked(pending.spec.folder) as claim:
                    StatusFile(claim).write("failed", message=message)
            except BusyError:
                self._leave(pending)
                return
        self._land(pending, Outcome("failed", None, message), kept=False)

    def _land(self, pending: _PendingRun, outcome: Outcome, *, kept: bool) -> None:
        if not kept:
            self._pace.count()
        for spec in [pending.spec, *pending.waiting]:
            self._take(spec, outcome, kept=kept or spec is not pending.spec)

    def _take(self, spec: RunSpec, outcome: Outcome, *, kept: bool) -> None:
        self._outcomes[spec.folder] = outcome
        self.searches[spec.variant].take(spec, outcome)
        if outcome.status == "failed":
            self._failures[spec.folder] = outcome
            if self.options.fail_fast:
                self._stop = self._stop or "failure"
        value = results.value_of(outcome, self.objective) if self.objective else None
        self._display.finished(Finished(spec.label, outcome, value, kept), self.state())

    # ---- stopping

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first SIGINT, SIGTERM or SIGHUP into a clean stop; a second SIGINT leaves at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
            numbers.append(signal.SIGHUP)
        interrupts.check()
        former = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    # ---- what is told

    def state(self) -> SweepState:
        """Return how the sweep stands."""
        running_counts = Counter(pending.spec.variant for pending in self._pending.values())
        trials = self.sweep.config.trials
        variants = []
        for name, variant_search in self.searches.items():
            finals = len(variant_search.final_outcomes if self.options.shard else self.sweep.final_seeds)
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


def _throw_away(spec: RunSpec) -> None:
    with rundir.locked(spec.folder):
        ownership.clear(spec.folder)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        named = {
            one.value: one.name for one in signal.Signals
        }  # of the real-time signals only two have names
        name = named.get(-exit_code, f"signal {-exit_code}")
        return f"its process was killed ({name}" + ("; out of memory?)" if name == "SIGKILL" else ")")
    return f"its process ended with exit code {exit_code}"
