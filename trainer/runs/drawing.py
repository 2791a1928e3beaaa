"""Draws the figures of a run from its files, in this process or in a child process.

Reads the run directory and does not write to it: the process that holds the lock does. Does not import torch.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import first_line
from trainer.runs import rundir

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered figure.

    Args:
        name: file name with extension.
        content: the file's bytes.
        failure: why drawing failed; `content` is then empty.
    """

    name: str
    content: bytes
    failure: str = ""


_ANSWER = b"\noptlab's pictures:\n"  # precedes the result on stdout; earlier output is from other packages

Draw = Callable[[Path, Sequence[str]], list[Picture]]


def draw_run(folder: Path, formats: Sequence[str]) -> list[Picture]:
    """Return all figures of a run, each in every given format (png, svg, pdf).

    If one figure cannot be drawn, the others are still drawn.

    Raises:
        RunError: `folder` is not a run directory, or one of its files is damaged.
    """
    if not formats:  # computing the layout alone takes as long as a small run
        return []
    from trainer.plots.histograms import plot_histograms  # matplotlib takes 0.3 s to import
    from trainer.plots.run import Curves, plot_run
    from trainer.plots.style import render
    from trainer.plots.titles import title

    pictures: list[Picture] = []

    def keep(figure: Figure, path: Path) -> None:
        pictures.append(Picture(path.name, render(figure, path.suffix.removeprefix("."))))

    def fail(name: str, error: Exception) -> None:
        pictures.append(Picture(name, b"", f"the figure {name} could not be drawn: {first_line(error)}"))

    run = rundir.load_run(folder)
    around = rundir.read_environment(folder)
    data = around.get("data", {})
    curves = Curves(
        config=run.config,
        steps=run.steps,
        epochs=run.epochs,
        summary=None if run.result is None else run.result.as_dict(),
        metrics=rundir.recorded_metrics(around),
        defaults=around.get("optimizer_defaults"),
        inputs=math.prod(data["input_shape"]) if "input_shape" in data else None,
        outputs=data.get("num_classes"),
    )
    plot_run(curves, folder, formats=formats, save=keep, failed=fail)
    moments = rundir.read_histograms(folder)
    for file_format in formats if moments else ():
        for name, shown in (("init_histograms", moments[:1]), ("histograms", moments)):
            try:
                plot_histograms(title(run.config), shown, folder / f"{name}.{file_format}", save=keep)
            except Exception as error:
                fail(f"{name}.{file_format}", error)
    return pictures


@contextmanager
def beside(wanted: bool) -> Iterator[Draw]:
    """Yield a `draw_run` that runs in a child process, to be called once.

    The child imports matplotlib while torch imports its compiler in this process. If the child fails, the
    figures are drawn in this process.

    Args:
        wanted: whether figures will be drawn. If not, or if there is only one core, `draw_run` is yielded.
    """
    from trainer.device import usable_cores  # imports torch, which the child does not need

    process = _start_process() if wanted and usable_cores() > 1 else None
    if process is None:
        yield draw_run
        return

    def draw(folder: Path, formats: Sequence[str]) -> list[Picture]:
        printed, _ = process.communicate(pickle.dumps((folder.absolute(), list(formats))))
        _, found, answer = printed.partition(_ANSWER)
        return pickle.loads(answer) if found and process.returncode == 0 else draw_run(folder, formats)

    with process:
        try:
            yield draw
        finally:
            process.kill()


def _start_process() -> subprocess.Popen[bytes] | None:
    """Start a process that runs `serve`; return None if the system refuses."""
    command = [sys.executable, "-P", "-c", "from trainer.runs.drawing import serve; serve()"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with suppress(OSError):
        # In a session of its own, so that Ctrl-C in a terminal reaches only the training process.
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True)
    return None


def serve() -> None:
    """Read the arguments of `draw_run` from stdin, write the figures to stdout, exit; exit on empty input."""
    import trainer.plots.histograms
    import trainer.plots.run  # noqa: F401 (imported before the request arrives)

    if question := sys.stdin.buffer.read():
        answer = pickle.dumps(draw_run(*pickle.loads(question)))
        sys.stdout.flush()
        sys.stdout.buffer.write(_ANSWER + answer)
        sys.stdout.buffer.flush()
    os._exit(0)  # normal interpreter shutdown takes as long as drawing a figure
