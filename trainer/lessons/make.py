"""Trains the missing runs of lessons and draws their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import console
from trainer.compare.figure_style import STYLES, FigureStyle
from trainer.data.dataset import data_root
from trainer.errors import OptlabError
from trainer.lessons.figures import draw_lesson
from trainer.lessons.table import Lesson, changed_by_quick
from trainer.lessons.training import JobResult, job_of, train_all
from trainer.runs import rundir

FIGURES = "figures"


def make(
    lessons: Sequence[Lesson],
    folder: Path,
    *,
    quick: bool = False,
    cifar_npz: Path | None = None,
    jobs: int = 1,
    force: bool = False,
    file_format: str = "png",
    figure_style: FigureStyle = STYLES["screen"],
) -> list[Path]:
    """Train the runs that are not finished and return the figures; report on stderr what failed.

    Args:
        lessons: the lessons.
        folder: the folder of their runs and figures.
        quick: train on scikit-learn's digits instead of MNIST and CIFAR-10.
        cifar_npz: a file with CIFAR-10 images for lesson 13; None = download CIFAR-10.
        jobs: number of runs to train at a time.
        force: train finished runs again.
        file_format: png, svg or pdf.
        figure_style: sizes, fonts and line widths of the figures.

    Raises:
        KeyboardInterrupt: the training was interrupted; finished runs are kept.
    """
    todo = [
        job_of(lesson, run, quick=quick, runs=folder, cifar=_cifar(cifar_npz), force=force)
        for lesson in lessons
        for run in lesson.runs
    ]
    done: list[JobResult] = []
    for one in train_all(todo, processes=jobs):
        done.append(one)
        name = f"lesson {one.job.lesson.number:>2}, {one.job.run.label}"
        console.print_note(f"[{len(done)}/{len(todo)}] {name}: {one.message}")
        if one.interrupted:
            raise KeyboardInterrupt
    paths = [folder / FIGURES / f"{lesson.name}.{file_format}" for lesson in lessons]
    drawn = [
        _draw(lesson, done, path, figure_style, quick=quick)
        for lesson, path in zip(lessons, paths, strict=True)
    ]
    return [path for path in drawn if path]


def _cifar(npz: Path | None) -> tuple[str, ...]:
    """Return the overrides that make lesson 13 read an npz file; none if CIFAR-10 is on disk."""
    if npz is None or (data_root(None) / "cifar-10-batches-py").is_dir():
        return ()
    return ("data.name=npz", f"data.path={npz.absolute()}")


def _draw(
    lesson: Lesson, done: Sequence[JobResult], path: Path, figure_style: FigureStyle, *, quick: bool
) -> Path | None:
    """Draw one lesson's figure. Print a note and return None if one of its runs failed."""
    mine = {one.job.run.label: one for one in done if one.job.lesson.number == lesson.number}
    missing = [label for label, one in mine.items() if one.failed]
    if missing:
        console.print_note(f"no figure for lesson {lesson.number}: {', '.join(missing)} failed")
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folders = {run.label: mine[run.label].folder for run in lesson.runs}
        runs = {label: rundir.load_run(folder) for label, folder in folders.items() if folder}
        note = changed_by_quick(lesson) if quick else ""
        draw_lesson(lesson, runs, path, figure_style, note=note)
    except (OptlabError, OSError) as error:
        console.print_note(f"no figure for lesson {lesson.number}: {error}")
        return None
    return path
