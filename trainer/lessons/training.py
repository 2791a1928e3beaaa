"""Trains the missing runs of the lessons, several at a time. The runs are listed in `table`."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from trainer.config import packaged
from trainer.lessons.table import DIGITS, Lesson, Run

# Small networks train fastest on one thread each; the plots setting does not change a run's numbers.
EXECUTION = ("train.threads=1", "log.plots=[]")


@dataclass(frozen=True, slots=True)
class Job:
    """One run to train.

    Args:
        lesson, run: the lesson and its run.
        overrides: all overrides of the config.
        runs: the folder of all runs.
        force: overwrite an existing run.
    """

    lesson: Lesson
    run: Run
    overrides: tuple[str, ...]
    runs: Path
    force: bool

    @property
    def config(self) -> Path:
        """The path of the config."""
        return packaged.names("lesson")[self.run.config]


@dataclass(frozen=True, slots=True)
class JobResult:
    """The outcome of a job: its run directory and a description; `failed` if there is no run."""

    job: Job
    folder: Path | None
    message: str
    failed: bool = False
    interrupted: bool = False


def job_of(
    lesson: Lesson, run: Run, *, quick: bool, runs: Path, cifar: tuple[str, ...] = (), force: bool = False
) -> Job:
    """Return the job of one run. Its directory is that of `optlab train --runs` with its overrides."""
    elsewhere = cifar if lesson.data == "cifar" else ()
    scale = (*DIGITS, *lesson.quick, *run.quick) if quick else elsewhere
    # If the lesson and the run set the same key, the run's value is used.
    by_key = {text.partition("=")[0]: text for text in (*run.overrides, *scale, *EXECUTION)}
    return Job(lesson, run, tuple(by_key.values()), runs, force)


def train_all(jobs: Sequence[Job], *, processes: int) -> Iterator[JobResult]:
    """Train every job without a finished run and yield each when it ends; stop after an interruption."""
    together = [job for job in jobs if processes > 1 and not job.lesson.sequential]
    if together:
        # A process that has imported torch cannot be forked safely.
        context = multiprocessing.get_context("spawn")
        workers = min(processes, len(together))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_signals) as pool:
            futures = [pool.submit(train_one, job) for job in together]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    for job in jobs:
        if job not in together:
            yield train_one(job)


def _ignore_signals() -> None:
    """Ignore Ctrl-C in a worker except during training, where the run handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train_one(job: Job) -> JobResult:
    """Train one job unless it is finished; describe an error in the result."""
    from trainer import catalog
    from trainer.errors import OptlabError
    from trainer.runs import launch

    try:
        loaded = catalog.load_config(job.config, job.overrides)
        folder = launch.folder_for(loaded, job.run.overrides, job.runs)
        launched = launch.launch(loaded, folder, force=job.force, skip_existing=not job.force)
    except OptlabError as error:
        return JobResult(job, None, str(error), failed=True)
    except Exception as error:  # its traceback is in the run's train.log; the other runs continue
        return JobResult(job, None, f"{type(error).__name__}: {error}", failed=True)
    result = launched.result
    if result.status == "interrupted":
        return JobResult(job, folder, "interrupted", failed=True, interrupted=True)
    spent = "already finished" if launched.skipped else f"{result.total_seconds:.1f} s"
    return JobResult(job, folder, f"{result.status}, {result.steps:,} steps, {spent}")
