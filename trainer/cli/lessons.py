"""The verb `lessons`: train the runs of the lessons and draw their figures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import RUNS, AsJson, RunsFolder


def lessons(
    numbers: Annotated[
        list[int] | None, typer.Argument(help="Numbers of lessons (default: all).", metavar="[N]...")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Use scikit-learn's digits instead of MNIST: about two minutes for all."
        ),
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the lessons.")] = False,
    runs: RunsFolder = RUNS,
    cifar_npz: Annotated[
        Path | None,
        typer.Option(help="CIFAR-10 images for lesson 13 (default: download CIFAR-10).", metavar="FILE"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs to train at a time (default: one per core).", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train finished runs again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train the runs of the lessons on torch.optim and draw a figure for each lesson.

    Runs and figures are written to `runs/lessons`, those of --quick to `runs/lessons-quick`. If the command
    was interrupted, rerun it: finished runs are kept. Without --quick the lessons train on MNIST, lesson 13
    on CIFAR-10.

    Examples:

        optlab lessons --list

        optlab lessons 1 4 --quick
    """
    from trainer import console
    from trainer.errors import unknown_name
    from trainer.lessons.table import LESSONS

    known = {lesson.number: lesson for lesson in LESSONS}
    for number in numbers or ():
        if number not in known:
            raise unknown_name("lesson", str(number), list(map(str, known)))
    chosen = [known[number] for number in dict.fromkeys(numbers or known)]
    if show_list:
        rows = [(lesson.number, lesson.heading) for lesson in chosen]
        if as_json:
            console.print_json([{"number": number, "title": title} for number, title in rows])
        else:
            console.table([console.Column("lesson", "right"), console.Column("title")], rows)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each run trains on one thread
    from trainer.device import usable_cores
    from trainer.lessons.make import make

    began = time.monotonic()
    try:
        drawn = make(
            chosen,
            runs / ("lessons-quick" if quick else "lessons"),
            quick=quick,
            cifar_npz=cifar_npz,
            jobs=jobs or usable_cores(),
            force=force,
        )
    except KeyboardInterrupt:
        console.print_note("interrupted; finished runs are kept, rerun the command to continue")
        raise
    console.print_note(f"{len(drawn)} figures after {time.monotonic() - began:.0f} s:")
    if as_json:
        console.print_json([str(path) for path in drawn])
    else:
        for path in drawn:
            console.print_text(console.one_line(str(path)))
    raise typer.Exit(0 if len(drawn) == len(chosen) else 1)
