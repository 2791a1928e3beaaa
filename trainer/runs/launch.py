"""Starts a run: finds its directory, refuses or skips what is there, builds, locks, runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer import interrupts
from trainer.runs import ownership, rundir, runner
from trainer.training.building import build_experiment
from trainer.training.loaded_data import LoadedData, load_data
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
from trainer.config.run_id import run_id
from trainer.config.models import Config
from trainer.console import TrainingProgress
from trainer.runs.drawing import Draw, draw_run
from trainer.errors import BusyError, RunError
from trainer.training.experiment import Experiment
from trainer.plots.titles import title
from trainer.records import RunResult
from trainer.schedules import learning_rate


@dataclass(frozen=True, slots=True)
class Launched:
    """A run that was trained, or found finished and left alone.

    Args:
        folder: its directory.
        result: what it came to.
        skipped: whether it was there already.
    """

    folder: Path
    result: RunResult
    skipped: bool


def folder_for(loaded: Loaded, overrides: Sequence[str], runs: Path) -> Path:
    """Return where a config with its overrides lands: `<runs>/<name>/<run-id>`."""
    return runs / loaded.config.name / run_id(overrides, loaded.config.seed)


def launch(
    loaded: Loaded,
    folder: Path,
    *,
    force: bool = False,
    skip_existing: bool = False,
    wait: bool = False,
    progress: TrainingProgress | None = None,
    loaded_data: LoadedData | None = None,
    should_prune: runner.PruneCheck | None = None,
    draw: Draw = draw_run,
) -> Launched:
    """Train a config in a directory.

    Args:
        loaded: the config.
        folder: the run directory; made once everything is known to fit.
        force: replace the run that a directory holds; its files are deleted when the new one has begun.
        skip_existing: leave a finished run of the same config alone and return its result.
        wait: let another process that writes there finish first (with `skip_existing`).
        progress: shows the run; None = quiet.
        loaded_data: the config's data where it is loaded already; None = load it.
        should_prune, draw: see `runner.run`.

    Raises:
        ConfigError, DataError: the experiment does not fit; nothing was written.
        BusyError: another process writes there, and this one is not to wait.
        RunError: the directory is taken or not writable.
    """
    ownership.refuse_foreign(folder)
    if not force:
        if skip_existing and loaded_data is None and rundir.is_finished(folder):
            loaded_data = load_data(loaded)  # a finished run is the wanted one only if its data are these
        digest = loaded_data.dataset.digest if loaded_data else None
        if found := _existing(loaded, folder, skip_existing, busy=wait, data_digest=digest):
            return Launched(folder, found, skipped=True)
    experiment = build_experiment(loaded, loaded_data=loaded_data)
    interrupts.check()  # torch's imports may have swallowed it; nothing has been written yet
    rundir.prepare_root(folder.parent)
    with rundir.locked(folder, wait=wait) as claim:
        # Another process may have trained it while this one was building.
        if not force and (
            found := _existing(loaded, folder, skip_existing, busy=True, data_digest=experiment.data_digest)
        ):
            return Launched(folder, found, skipped=True)
        if progress:
            announce(experiment, progress)
        result = runner.run(experiment, claim, progress=progress, should_prune=should_prune, draw=draw)
    return Launched(folder, result, skipped=False)


def _existing(
    loaded: Loaded, folder: Path, skip: bool, *, busy: bool, data_digest: str | None
) -> RunResult | None:
    """Return the result of the finished run that is there; None when the way is free.

    Args:
        loaded: the config.
        folder: the run directory.
        skip: whether a finished run may be left alone.
        busy: pass over a run that is being written: this process holds the lock itself, or will wait for it.
        data_digest: SHA-256 of the config's data; None = not loaded.

    Raises:
        BusyError: another process writes there.
        RunError: something is there that must not be overwritten.
    """
    status = rundir.read_status(folder)
    if status is None:
        return None
    if not skip:
        raise RunError(
            f"{folder} holds a run already ({status['status']})",
            fix="say --resume to go on with it, --force to throw it away, --skip-existing to leave one "
            "that is finished, or choose --run-dir",
        )
    if status["status"] == "running" and busy:
        return None
    if status["status"] == "running":
        raise BusyError(f"{folder} is being written by another process", fix="say --wait to wait for it")
    refuse_another_run(loaded, folder, data_digest)
    # What did not finish is trained anew.
    return rundir.read_result(folder) if status["status"] in rundir.FINISHED else None


def refuse_another_run(loaded: Loaded, folder: Path, data_digest: str | None) -> None:
    """Raise RunError when the run in a directory was made from another config, other code or other data.

    Args:
        loaded: the wanted config.
        folder: the run directory.
        data_digest: SHA-256 of the wanted data; None leaves the data out of the comparison.
    """
    lines = run_differences(folder, loaded.config, code_of(loaded.config), data_digest)
    if lines:
        raise RunError(
            f"{folder} holds another run; it differs in:\n    " + "\n    ".join(lines),
            fix="say --force to throw it away, or choose --run-dir",
        )


def run_differences(folder: Path, wanted: Config, code: Code, data_digest: str | None) -> list[str]:
    """Return a line per setting, source file, package and data set in which an existing run differs.

    Settings that do not make another run of it are left out (`structure.MayDiffer.skip`).
    """
    saved, new = rundir.load_config(folder).model_dump(), wanted.model_dump()
    lines = describe_differences(config_differences(saved, new, "skip"), saved, new)
    return lines + environment_differences(folder, code, data_digest)


def environment_differences(folder: Path, code: Code, data_digest: str | None) -> list[str]:
    """Return a line per source file, package and data set in which an existing run differs."""
    recorded = rundir.read_environment(folder)
    if not recorded:
        return [f"{rundir.ENVIRONMENT} is missing, so code and data cannot be compared"]
    lines = code_changes(recorded_code(recorded), code)
    return lines if data_digest is None else lines + data_difference(recorded, data_digest)


def announce(experiment: Experiment, progress: TrainingProgress) -> None:
    """Say what is about to be trained: the experiment in one line, then its parameter groups."""
    plan = experiment.plan
    steps_per_epoch = experiment.batches.batches_per_epoch / plan.accumulate
    progress.start(title(experiment.config.model_dump()), plan.steps, steps_per_epoch, plan.seconds)
    for note in experiment.notes:
        progress.note(note)
    if sum(len(groups) for groups in experiment.groups.values()) > 1:
        for line in describe_groups(experiment):
            progress.note(line)


def describe_groups(experiment: Experiment) -> list[str]:
    """Return a line per parameter group: optimizer, group, tensors, numbers, learning rate, other options."""
    lines = []
    for label, optimizer in experiment.optimizers.items():
        described, groups = experiment.groups[label], optimizer.param_groups
        if len(described) != len(groups):
            lines.append(f"group {label}: the optimizer made {len(groups)} groups of its own")
            continue
        for group, live in zip(described, groups, strict=True):
            own = " ".join(f"{key}={value}" for key, value in group.options.items() if key != "lr")
            name = f"{label}/{group.label}" if group.label else label
            rate = learning_rate({"lr": live.get("initial_lr", live.get("lr"))})
            told = [f"{len(group.names)} tensors", f"{group.parameters:,} parameters"]
            told += [f"lr={rate:g}"] if rate is not None else []
            lines.append(f"group {name}: {', '.join(told)} {own}".rstrip())
    return lines


@contextmanager
def shown(quiet: bool) -> Iterator[TrainingProgress | None]:
    """Give the progress display for the block; None when it is to be quiet."""
    if quiet:
        yield None
        return
    with TrainingProgress() as progress:
        yield progress
