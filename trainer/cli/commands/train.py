"""Implementation of `optlab train`: train a run, or print its plan."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from trainer import catalog, console, interrupts
from trainer.cli.commands.components import announce_code
from trainer.cli.options import RUNS, ExistingRun, OutputOptions, RunFolder
from trainer.config.identity import components_in
from trainer.config.load import dump, read
from trainer.errors import (
    BusyError,
    ConfigError,
    RunError,
)
from trainer.metrics import Metric
from trainer.optimizers.build import describe_implementations
from trainer.records import RunResult
from trainer.runs import drawing, launch, ownership, rundir
from trainer.runs.options import RunOptions
from trainer.runs.resume import resume as resume_run
from trainer.runs.resume import train_or_resume
from trainer.sweep.command_line import suggest_sweep
from trainer.training.building import RunSetup, set_up_run
from trainer.user_code import running

EXIT_CODES = {"completed": 0, "early_stopped": 0, "diverged": 3}


def train(
    config: Path,
    overrides: Sequence[str],
    where: RunFolder,
    existing: ExistingRun,
    output: OutputOptions,
    *,
    dry_run: bool,
) -> int:
    """Train and return the exit code."""
    if existing.force + existing.skip + existing.resume > 1:
        raise ConfigError(
            "--force, --skip-existing and --resume are mutually exclusive", expected="at most one of them"
        )
    draft = read(config, overrides)
    if dry_run:
        announce_code(*components_in(draft.tree.data))
    with drawing.in_child_process(draft.wants_figures() and not dry_run) as draw:
        with console.waiting("Checking the config", quiet=output.quiet), suggest_sweep(config, overrides):
            loaded = catalog.check_config(draft)  # torch imports its compiler here
        displayed_folder = where.run_dir or launch.folder_for(loaded, overrides, where.runs)
        folder = displayed_folder.absolute()  # a component may change the working directory
        ownership.refuse_root(folder, where.runs)
        if dry_run:
            _dry_run(set_up_run(loaded), displayed_folder)
            return 0
        with launch.progress_display(output.quiet) as progress:
            options = RunOptions(progress=progress, wait=existing.wait, draw=draw)
            try:
                if existing.resume and rundir.read_status(folder) is not None:
                    done = resume_run(folder, overrides, options, loaded=loaded)
                elif existing.skip or (existing.wait and not existing.force):
                    done = train_or_resume(loaded, overrides, folder, options)
                else:
                    done = launch.launch(loaded, folder, options, force=existing.force)
            except BusyError:
                if not existing.skip:
                    raise
                return _report_busy(displayed_folder, as_json=output.as_json)
    code = finish(replace(done, folder=displayed_folder), as_json=output.as_json)
    if code == 0 and not (where.run_dir or output.quiet or output.as_json):
        _print_next_command(config, overrides, where.runs, loaded.config.seed.init + 1, displayed_folder)
    return code


def _print_next_command(
    config: Path, overrides: Sequence[str], runs: Path, next_seed: int, folder: Path
) -> None:
    """Print the command that compares a run with those beside it, or that trains a second one."""
    siblings = (path / rundir.STATUS for path in folder.parent.iterdir() if path.name != folder.name)
    if any(status.is_file() for status in siblings):
        note, arguments = "compare it with the runs beside it:", ["compare", str(folder.parent)]
    else:
        runs_option = [] if runs == RUNS else ["--runs", str(runs)]
        kept = [text for text in overrides if not text.startswith("seed")]
        note = "train it with another seed:"
        arguments = ["train", str(config), *kept, f"seed={next_seed}", *runs_option]
    console.print_note(note, command=shlex.join(["optlab", *arguments]))


def _report_busy(folder: Path, *, as_json: bool) -> int:
    """Report that another process trains the run and skip it."""
    console.print_note(f"{folder} is being trained by another process: skipped")
    if as_json:
        console.print_json({"run": str(folder), "skipped": True, "status": "running"})
    return 0


def finish(done: launch.LaunchResult, *, as_json: bool) -> int:
    """Print the result of a run and, if it was interrupted, how to resume it. Return the exit code."""
    if done.skipped:
        console.print_note(f"{done.folder} is finished: skipped")
    if as_json:
        console.print_json({"run": str(done.folder), "skipped": done.skipped} | done.result.as_dict())
    else:
        with console.results_are_kept():
            figures = done.folder / rundir.PLOTS
            drawn = figures.is_dir() and any(figures.iterdir())
            metrics: list[Metric] = []
            with suppress(RunError):  # without the file, only the formats of users' metrics are not known
                metrics = rundir.recorded_metrics(rundir.read_environment(done.folder))
            console.print_result(done.result, done.folder, metrics, figures=figures if drawn else None)
    if done.result.status == "interrupted":
        console.print_note("resume with:", command=f"optlab resume {shlex.quote(str(done.folder))}")
    return _exit_code(done.result)


def _exit_code(result: RunResult) -> int:
    if result.status == "interrupted":
        return interrupts.exit_code(result.message.partition(" ")[0])
    return EXIT_CODES.get(result.status, 1)


def _dry_run(setup: RunSetup, folder: Path) -> None:
    """Print what a run would do, and a time estimate from one second of its first steps."""
    console.print_text(dump(setup.config))
    experiment = setup.experiment
    plan, batches = experiment.plan, experiment.batches
    pairs = {
        "run directory": str(folder),
        "parameters": f"{sum(p.numel() for p in experiment.model.parameters() if p.requires_grad):,}",
        "batches per epoch": f"{batches.batches_per_epoch:,}",
        "samples per epoch": f"{batches.samples_per_epoch:,}",
        "steps": f"{plan.steps:,}" if plan.steps is not None else f"as many as fit into {plan.seconds:g} s",
        "estimate": _estimate(setup),
    }
    console.print_pairs("# plan", pairs)
    implementations = describe_implementations(experiment.state.optimizers.values())
    for line in [*launch.describe_groups(setup), *implementations]:
        console.print_text(line)


def _estimate(setup: RunSetup) -> str:
    experiment = setup.experiment
    steps = experiment.plan.steps
    if steps is None:
        return f"{experiment.plan.seconds:g} s of training, plus the evaluations"
    began, done = time.perf_counter(), 0
    with console.waiting("Measuring steps"), running(setup.config.model_dump()):
        for batches in islice(experiment.remaining_batches(), 200):
            experiment.engine.step(batches)
            done += 1
            if time.perf_counter() - began > 1:
                break
    seconds = (time.perf_counter() - began) / max(done, 1) * steps
    return f"{console.format_seconds(seconds)} of training (from {done} measured steps)"
