"""Train the missing runs of the lessons and draw their figures. Called by `scripts/regenerate_plots.sh`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import readme
from figures import draw_lesson
from table import LESSONS, Lesson, changed_by_quick
from training import Done, job_of, train_all

from trainer.data.dataset import data_root
from trainer.device import usable_cores
from trainer.errors import OptlabError
from trainer.runs import rundir


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="scripts/regenerate_plots.sh",
        description="Train the missing runs of the lessons and draw all figures. Rerun it to continue.",
        epilog="MNIST is read from OPTLAB_DATA or the cache, else downloaded (`optlab prepare mnist`).",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="scikit-learn's digits instead of MNIST: about two minutes")
    add("--only", metavar="N,N", default="", help="only these lessons, e.g. 1,4,11")
    add(
        "--runs", type=Path, metavar="DIR", help="folder of the runs (default: runs, with --quick runs/quick)"
    )
    add(
        "--figures",
        type=Path,
        metavar="DIR",
        help="folder for the figures (default: figures in the runs' folder)",
    )
    add("--cifar-npz", type=Path, metavar="FILE", help="CIFAR-10 images as .npz for lesson 13")
    add(
        "--jobs", type=int, metavar="N", default=usable_cores(), help="runs at a time (default: one per core)"
    )
    add("--force", action="store_true", help="train all runs again")
    add("--readme", action="store_true", help="only write configs/lessons/README.md")
    return parser.parse_args()


def main() -> int:
    """Train, draw and print the figures' paths. Return 1 if something failed, 130 if interrupted."""
    options = arguments()
    if options.readme:
        readme.write()
        return 0
    runs = options.runs or Path("runs/quick" if options.quick else "runs")
    figures = options.figures or runs / "figures"
    lessons = chosen(options.only)
    if lessons is None or options.jobs < 1:
        print(f"error: --only takes numbers from 1 to {len(LESSONS)}, --jobs at least 1", file=sys.stderr)
        return 2
    began = time.monotonic()
    jobs = [
        job_of(
            lesson, run, quick=options.quick, runs=runs, cifar=cifar(options.cifar_npz), force=options.force
        )
        for lesson in lessons
        for run in lesson.runs
    ]
    done: list[Done] = []
    try:
        for one in train_all(jobs, processes=options.jobs):
            done.append(one)
            name = f"lesson {one.job.lesson.number:>2}, {one.job.run.label}"
            print(f"[{len(done)}/{len(jobs)}] {name}: {one.words}", file=sys.stderr, flush=True)
            if one.interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, rerun the command to continue", file=sys.stderr)
        return 130
    drawn = [path for lesson in lessons if (path := draw(lesson, done, figures, quick=options.quick))]
    print(f"{len(drawn)} figures after {time.monotonic() - began:.0f} s:", file=sys.stderr)
    for path in drawn:
        print(path)
    return 0 if len(drawn) == len(lessons) else 1


def chosen(only: str) -> list[Lesson] | None:
    """Return the selected lessons, or None if a number is invalid."""
    if not only:
        return list(LESSONS)
    try:
        numbers = {int(part) for part in only.split(",")}
    except ValueError:
        return None
    found = [lesson for lesson in LESSONS if lesson.number in numbers]
    return found if len(found) == len(numbers) else None


def cifar(npz: Path | None) -> tuple[str, ...]:
    """Return the overrides that make lesson 13 read the given npz file; none if CIFAR-10 is on disk."""
    if npz is None or (data_root(None) / "cifar-10-batches-py").is_dir():
        return ()
    return ("data.name=npz", f"data.path={npz.absolute()}")


def draw(lesson: Lesson, done: list[Done], figures: Path, *, quick: bool) -> Path | None:
    """Draw one lesson's figure. Print a message and return None if one of its runs failed."""
    mine = {one.job.run.label: one for one in done if one.job.lesson.number == lesson.number}
    missing = [label for label, one in mine.items() if one.failed]
    if missing:
        print(f"no figure for lesson {lesson.number}: {', '.join(missing)} failed", file=sys.stderr)
        return None
    figures.mkdir(parents=True, exist_ok=True)
    path = figures / f"{lesson.name}.png"
    try:
        folders = {run.label: mine[run.label].folder for run in lesson.runs}
        runs = {label: rundir.load_run(folder) for label, folder in folders.items() if folder}
        draw_lesson(lesson, runs, path, note=changed_by_quick(lesson) if quick else "")
    except OptlabError as error:
        print(f"no figure for lesson {lesson.number}: {error}", file=sys.stderr)
        return None
    return path


if __name__ == "__main__":
    sys.exit(main())
