"""Starts a run: checks its directory for an existing run, builds the experiment, locks and trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer import catalog, interrupts
from trainer.config import packaged
from trainer.config.identity import (
    Code,
    code_changes,
    code_of,
    config_differences,
    data_difference,
    describe_differences,
    recorded_code,
)
from trainer.config.load import Loaded
from trainer.config.models import Config
from trainer.config.run_id import run_id
from trainer.console.training import TrainingProgress
from trainer.errors import BusyError, RunError
from trainer.optimizers.external import rate_holder
from trainer.plots.titles import title
from trainer.records import RunResult
from trainer.runs import ownership, rundir, runner
from trainer.runs.options import DEFAULTS, RunOptions
from trainer.schedules import learning_rate
from trainer.training.building import RunSetup, set_up_run
from trainer.training.loaded_data import load_data


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """A run that was trained, or that was finished already and skipped.

    Args:
        folder: its directory.
        result: its result.
        skipped: whether it was finished already.
    """

    folder: Path
    result: RunResult
    skipped: bool


def train_run(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    run_dir: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> rundir.Run:
    """Train a config as `optlab train` does, and return the run. In a notebook, a bar shows the progress.

    Args:
        config: a YAML file, or the name of a packaged config.
        overrides: as `optimizer.lr=0.1`.
        runs: the directory of all runs.
        run_dir: the exact run directory; None = as named by config and overrides, below `runs`.
        force: overwrite an existing run.
        quiet: show no progress.

    Raises:
        ConfigError, DataError: the experiment is invalid; nothing was written.
        RunError: the directory contains another run or cannot be written.
    """
    loaded = catalog.load_config(packaged.find(Path(config)), overrides)
    folder = Path(run_dir) if run_dir is not None else folder_for(loaded, overrides, Path(runs))
    folder = folder.absolute()
    ownership.refuse_root(folder, Path(runs))
    with progress_display(quiet) as progress:
        done = launch(loaded, folder, RunOptions(progress=progress), force=force)
    return rundir.load_run(done.folder)


def folder_for(loaded: Loaded, overrides: Sequence[str], runs: Path) -> Path:
    """Return the run directory of a config with overrides: `<runs>/<name>/<run-id>`."""
    return runs / loaded.config.name / run_id(overrides, loaded.config.seed)


def launch(
    loaded: Loaded,
    folder: Path,
    options: RunOptions = DEFAULTS,
    *,
    force: bool = False,
    skip_existing: bool = False,
) -> LaunchResult:
    """Train a config in a directory.

    Args:
        loaded: the config.
        folder: the run directory; created after all checks have passed.
        options: see `RunOptions`.
        force: replace an existing run; its files are deleted once the new run has started.
        skip_existing: if the directory contains a finished run of the same config, return its result; also if
            it was pruned and `options.should_prune` is set.

    Raises:
        ConfigError, DataError: the experiment is invalid; nothing was written.
        BusyError: another process writes to the directory, and `options.wait` is false.
        RunError: the directory contains another run or cannot be written.
    """
    ownership.refuse_foreign(folder)
    loaded_data, wait = options.loaded_data, options.wait
    ended = (*rundir.FINISHED, "pruned") if options.should_prune else rundir.FINISHED
    if not force:
        if skip_existing and loaded_data is None and rundir.is_finished(folder):
            loaded_data = load_data(loaded)  # needed to compare the data of the finished run
        digest = loaded_data.dataset.digest if loaded_data else None
        if existing := _existing_result(loaded, folder, skip_existing, ended, busy=wait, data_digest=digest):
            return LaunchResult(folder, existing, skipped=True)
    progress = options.progress.reading if options.progress else None
    setup = set_up_run(loaded, loaded_data=loaded_data, progress=progress)
    interrupts.check()  # torch's imports may have swallowed the signal; nothing has been written yet
    rundir.prepare_root(folder.parent)
    with rundir.locked(folder, wait=wait) as run_lock:
        # Another process may have trained the run while this one was building it.
        if not force and (
            existing := _existing_result(
                loaded, folder, skip_existing, ended, busy=True, data_digest=setup.data_digest
            )
        ):
            return LaunchResult(folder, existing, skipped=True)
        if options.progress:
            announce(setup, options.progress)
        result = runner.run(setup, run_lock, options)
    return LaunchResult(folder, result, skipped=False)


def _existing_result(
    loaded: Loaded, folder: Path, skip: bool, ended: Sequence[str], *, busy: bool, data_digest: str | None
) -> RunResult | None:
    """Return the result of an existing finished run; None if the config is to be trained.

    Args:
        loaded: the config.
        folder: the run directory.
        skip: whether to accept a finished run instead of raising an error.
        ended: the statuses of finished runs.
        busy: ignore a run that is being written: this process holds the lock, or will wait for it.
        data_digest: SHA-256 of the config's data; None = not loaded.

    Raises:
        BusyError: another process writes to the directory.
        RunError: the directory contains a run that must not be overwritten.
    """
    status = rundir.read_status(folder)
    if status is None:
        return None
    if not skip:
        raise RunError(
            f"{folder} already contains a run ({status['status']})",
            fix="change the seed or another key, or choose another --run-dir; or use --skip-existing to keep "
            "it if it is finished, --resume to continue it (to more epochs), --force to overwrite it",
        )
    if status["status"] == "running" and busy:
        return None
    if status["status"] == "running":
        raise BusyError(f"{folder} is being written by another process", fix="use --wait to wait for it")
    refuse_another_run(loaded, folder, data_digest)
    # An unfinished run is trained from the start.
    return rundir.read_result(folder) if status["status"] in ended else None


def refuse_another_run(loaded: Loaded, folder: Path, data_digest: str | None) -> None:
    """Raise RunError if the run in a directory has another config, other code or other data.

    Args:
        loaded: the requested config.
        folder: the run directory.
        data_digest: SHA-256 of the requested data; None = do not compare the data.
    """
    lines = run_differences(folder, loaded.config, code_of(loaded.config), data_digest)
    if lines:
        raise RunError(
            f"{folder} contains another run; it differs in:\n    " + "\n    ".join(lines),
            fix="use --force to overwrite it, or choose another --run-dir",
        )


def run_differences(folder: Path, config: Config, code: Code, data_digest: str | None) -> list[str]:
    """Return a line for each setting, source file, package and data set in which an existing run differs.

    Settings that may differ when an existing run is skipped are left out.
    """
    saved, new = rundir.load_config(folder).model_dump(), config.model_dump()
    lines = describe_differences(config_differences(saved, new, "skip"), saved, new)
    return lines + environment_differences(folder, code, data_digest)


def environment_differences(folder: Path, code: Code, data_digest: str | None) -> list[str]:
    """Return a line for each source file, package and data set in which an existing run differs."""
    recorded = rundir.read_environment(folder)
    if not recorded:
        return [f"{rundir.ENVIRONMENT} is missing, so code and data cannot be compared"]
    lines = code_changes(recorded_code(recorded), code)
    return lines if data_digest is None else lines + data_difference(recorded, data_digest)


def announce(setup: RunSetup, progress: TrainingProgress) -> None:
    """Show what is trained: the title of the experiment, its notes and its parameter groups."""
    plan, metrics = setup.experiment.plan, setup.experiment.metrics
    steps_per_epoch = setup.experiment.batches.batches_per_epoch / plan.accumulate
    heading = title(setup.config.model_dump(), width=10_000)  # on one line
    progress.start(heading, plan.steps, steps_per_epoch, plan.seconds, metrics)
    for note in setup.notes:
        progress.note(note)
    if sum(len(groups) for groups in setup.groups.values()) > 1:
        for line in describe_groups(setup):
            progress.note(line)


def describe_groups(setup: RunSetup) -> list[str]:
    """Return a line per parameter group: optimizer, group, tensors, parameters, learning rate, options."""
    lines = []
    for label, optimizer in setup.experiment.state.optimizers.items():
        described, groups = setup.groups[label], rate_holder(optimizer).param_groups
        if len(described) != len(groups):
            lines.append(f"group {label}: the optimizer made {len(groups)} groups of its own")
            continue
        for group, live in zip(described, groups, strict=True):
            own = " ".join(f"{key}={value}" for key, value in group.options.items() if key != "lr")
            name = f"{label}/{group.label}" if group.label else label
            rate = learning_rate({"lr": live.get("initial_lr", live.get("lr"))})
            parts = [f"{len(group.names)} tensors", f"{group.parameters:,} parameters"]
            parts += [f"lr={rate:g}"] if rate is not None else []
            lines.append(f"group {name}: {', '.join(parts)} {own}".rstrip())
    return lines


def _is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; other programs can import IPython as well."""
    find_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find_shell is not None and hasattr(find_shell(), "kernel")


@contextmanager
def progress_display(quiet: bool) -> Iterator[TrainingProgress | None]:
    """Yield the progress display, or None if `quiet` is true."""
    if quiet:
        yield None
        return
    if _is_notebook():
        from trainer.console.notebook import NotebookProgress

        with NotebookProgress() as notebook_bar:
            yield notebook_bar
        return
    with TrainingProgress() as progress:
        yield progress
