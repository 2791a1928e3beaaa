"""Implementation of `optlab lessons`: list lessons, or train their runs and draw their figures."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from trainer import console
from trainer.errors import unknown_name
from trainer.lessons.table import LESSONS, Lesson

FORMATS = ("png", "svg", "pdf")


def list_lessons(numbers: Sequence[int], *, as_json: bool) -> None:
    """Print the numbers and titles of lessons; all if `numbers` is empty."""
    rows = [(lesson.number, lesson.heading) for lesson in _chosen(numbers)]
    if as_json:
        console.print_json([{"number": number, "title": title} for number, title in rows])
    else:
        console.table([console.Column("lesson", "right"), console.Column("title")], rows)


def train_lessons(
    numbers: Sequence[int],
    folder: Path,
    *,
    quick: bool,
    cifar_npz: Path | None,
    jobs: int | None,
    force: bool,
    file_format: str,
    style: str,
    as_json: bool,
) -> int:
    """Train the runs of lessons, all if `numbers` is empty; draw the figures. Return the exit code."""
    chosen = _chosen(numbers)
    if file_format not in FORMATS:
        raise unknown_name("figure format", file_format, FORMATS, key="--format")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
    from trainer.compare.figure_style import find_style
    from trainer.device import usable_cores
    from trainer.lessons.make import make

    looks = find_style(style)

    began = time.monotonic()
    try:
        drawn = make(
            chosen,
            folder,
            quick=quick,
            cifar_npz=cifar_npz,
            jobs=jobs or usable_cores(),
            force=force,
            file_format=file_format,
            figure_style=looks,
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
    return 0 if len(drawn) == len(chosen) else 1


def _chosen(numbers: Sequence[int]) -> list[Lesson]:
    known = {lesson.number: lesson for lesson in LESSONS}
    for number in numbers:
        if number not in known:
            raise unknown_name("lesson", str(number), list(map(str, known)))
    return [known[number] for number in dict.fromkeys(numbers or known)]
