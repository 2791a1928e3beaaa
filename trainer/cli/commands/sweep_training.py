"""The sweeps of a file as the commands run them: planned and checked, then trained with a display."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.commands.runs import SWEEP_COLUMNS
from trainer.cli.options import SweepOptions
from trainer.console.sweep import SweepProgress
from trainer.device import usable_cores
from trainer.errors import AbsentDataError, BusyError, ConfigError, unknown_name
from trainer.runs import rundir
from trainer.runs.sweep_files import SHARDS
from trainer.sweep.engine import compile_steps, resolve_engine
from trainer.sweep.models import Objective, Sweep
from trainer.sweep.plan import (
    DATA,
    SharedData,
    VariantInfo,
    check_budgets,
    check_variants,
    dropped_options,
    resolve_objective,
)
from trainer.sweep.progress import Display, FinishedRun, SweepState
from trainer.sweep.runner import Options, SweepRunner


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep whose variants were built as a check.

    Args:
        sweep: the sweep.
        root: its directory, as shown to the user.
        infos: from `check_variants`.
        objective: from `resolve_objective`.
        shared_data: the shared data.
        options: options of running it.
        suffix: the name of the shard; empty = no shard.
    """

    sweep: Sweep
    root: Path
    infos: dict[str, VariantInfo]
    objective: Objective | None
    shared_data: SharedData
    options: Options
    suffix: str


def plan_sweeps(
    sweeps: Sequence[Sweep], runs: Path, options: SweepOptions, *, quiet: bool
) -> tuple[list[PlannedSweep], list[AbsentDataError]]:
    """Check the sweeps of a file; return the plans and the errors of problems whose data are missing.

    Raises:
        ConfigError: a sweep is invalid.
        AbsentDataError: the data of all problems are missing.
    """
    _check_place(options.on)
    planned: list[PlannedSweep] = []
    missing: list[AbsentDataError] = []
    for sweep in sweeps:
        check_budgets(sweep)
    known = list(dict.fromkeys(name for sweep in sweeps for name in sweep.variants))
    for name in options.only or ():
        if name not in known:
            raise unknown_name("variant", name, known, key="--only")
    for sweep in sweeps:
        if options.only and not any(name in sweep.variants for name in options.only):
            continue
        try:
            planned.append(_plan(sweep, runs / sweep.config.name, options, quiet=quiet))
        except AbsentDataError as error:
            missing.append(error)
    if not planned:
        raise AbsentDataError.of(problem for error in missing for problem in error.problems)
    return planned, missing


def _check_place(on: str) -> None:
    """Raise ConfigError for an unknown value of --on, or if Ray is not installed."""
    where, separator, address = on.partition(":")
    if where not in ("local", "ray") or (separator and (where == "local" or not address)):
        raise ConfigError(f"got {on!r}", key="--on", expected="local, ray or ray:HOST:PORT")
    if where == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed", key="--on", fix="pip install 'optlab[ray]'")


def _plan(sweep: Sweep, shown: Path, options: SweepOptions, *, quiet: bool) -> PlannedSweep:
    shard = _parts(options.shard)
    only = [name for name in options.only or () if name in sweep.variants]
    settings = Options(options.workers, only, shard, options.fail_fast, options.on)
    suffix = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    shared_data = SharedData(shown.absolute() / f"{DATA}{suffix}")
    workers = options.workers or sweep.config.workers
    with console.waiting("Checking the variants", quiet=quiet):
        cores = usable_cores() if workers == "auto" else workers
        sweep, notes = resolve_engine(sweep, shown.absolute(), shared_data, cores)
        infos = check_variants(sweep, shared_data)
    for note in [*dropped_options(sweep), *shared_data.notes(), *notes]:
        console.print_note(note)
    if not options.dry_run:
        with console.waiting("Compiling", quiet=quiet):
            notes = compile_steps(sweep, shared_data, only)
        for note in notes:
            console.print_note(note)
    objective = resolve_objective(sweep, infos)
    return PlannedSweep(sweep, shown, infos, objective, shared_data, settings, suffix)


def train_sweep(plan: PlannedSweep, *, force: bool, quiet: bool) -> tuple[int, dict[str, Any]]:
    """Run a sweep; return the exit code and its summary."""
    root = plan.root.absolute()  # a component may change the working directory
    rundir.prepare_root(root)
    with ExitStack() as stack:
        stack.enter_context(_locked(root, root / SHARDS / plan.suffix[1:] if plan.suffix else root))
        plan.shared_data.clear()
        stack.callback(plan.shared_data.clear)
        display = stack.enter_context(SweepProgress(quiet=quiet))
        runner = SweepRunner(
            plan.sweep,
            root,
            plan.infos,
            plan.objective,
            plan.shared_data,
            plan.options,
            _ProgressReporter(display),
            force=force,
        )
        runner.check_existing(force=force)
        code = runner.run()
        return code, runner.write_files()


@contextmanager
def _locked(root: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep, or of a shard of it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(rundir.locked(folder))
        except BusyError as error:
            raise BusyError(
                f"another optlab sweep is running in {folder}",
                fix=f"see its progress with `optlab runs {root}`, or divide a grid with --shard I/N",
            ) from error
        yield


def _parts(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {shard!r} is not valid", expected="I/N with I from 1 to N, e.g. 1/8")
    return int(match[1]), int(match[2])


class _ProgressReporter(Display):
    """Shows the runner's events in the terminal."""

    def __init__(self, progress: SweepProgress) -> None:
        self._progress = progress
        self._kept = 0

    def finished(self, run: FinishedRun, state: SweepState) -> None:
        """Print one line per trained run, and one line with the number of existing runs."""
        if run.kept:
            self._kept += 1
            return
        self._note_kept_runs()
        result = run.outcome.result
        texts = [f"[{state.done}/{state.planned}]", run.label, run.outcome.status]
        if run.value is not None and run.outcome.status != "diverged":
            texts.append(f"{run.value:.4g}")
        if result:
            texts.append(console.format_seconds(result.total_seconds))
        if run.outcome.status == "failed":
            texts.append(run.outcome.message)
        self._progress.line("  ".join(texts))

    def _note_kept_runs(self) -> None:
        if self._kept:
            self._progress.line(f"{self._kept} finished run{'s' if self._kept > 1 else ''} kept")
            self._kept = 0

    def update(self, state: SweepState) -> None:
        """Draw the sweep's progress."""
        self._note_kept_runs()
        tail = f"{state.done}/{state.planned} runs"
        if state.failed:
            tail += f", {state.failed} failed"
        if state.rate:
            tail += f"  {state.rate:.3g}/min"
        tail += (
            f"  left {'-:--' if state.seconds_left is None else console.format_seconds(state.seconds_left)}"
        )
        self._progress.update(SWEEP_COLUMNS, _state_rows(state), state.done, state.planned, tail)

    def note(self, text: str) -> None:
        """Print a note."""
        self._progress.note(text)


def _state_rows(state: SweepState) -> Iterator[Sequence[Any]]:
    for v in state.variants:
        yield v.name, v.running, v.done, v.diverged, v.pruned, v.failed, v.planned, v.best
