"""Draws a run's figures from its files alone, here or in a process beside this one.

Reads a run directory and writes nothing into it: whoever holds the run's lock does. No torch.
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

from trainer.runs import rundir
from trainer.errors import first_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as it is to be written.

    Args:
        name: of the file, with its ending.
        content: the file's bytes.
        failure: why it could not be drawn; then there is no content.
    """

    name: str
    content: bytes
    failure: str = ""


_ANSWER = b"\noptlab's pictures:\n"  # what comes before it on stdout, other packages have printed

Draw = Callable[[Path, Sequence[str]], list[Picture]]


def draw_run(folder: Path, formats: Sequence[str]) -> list[Picture]:
    """Return all figures of the run in a directory, each in every format: png, svg, pdf.

    A figure that cannot be drawn does not keep the others from being drawn.

    Raises:
        RunError: it is no run directory, or one of its files is damaged.
    """
    if not formats:  # laying a figure out takes as long as a small run, though nothing would be saved
        return []
    from trainer.plots.histograms import plot_histograms  # matplotlib takes 0.3 s, and comes when it is used
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
    """Give a `draw_run`, to be called once, in a process that imports matplotlib in the meantime.

    That is done while torch imports its compiler here. Where the process fails, the figures are drawn here.

    Args:
        wanted: whether there will be figures; else, or without a core to spare, `draw_run` itself is given.
    """
    from trainer.device import usable_cores  # with torch, which the process beside does without

    process = _started() if wanted and usable_cores() > 1 else None
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


def _started() -> subprocess.Popen[bytes] | None:
    """Return a process that runs `serve`; None where the system will not start one."""
    command = [sys.executable, "-P", "-c", "from trainer.runs.drawing import serve; serve()"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with suppress(OSError):
        # In a session of its own: Ctrl-C in a terminal is for the process that trains alone.
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True)
    return None


def serve() -> None:
    """Wait on stdin for what to draw, and answer with the pictures on stdout; leave when nobody asks."""
    import trainer.plots.histograms
    import trainer.plots.run  # noqa: F401 (all that drawing takes is here when the question comes)

    if question := sys.stdin.buffer.read():
        answer = pickle.dumps(draw_run(*pickle.loads(question)))
        sys.stdout.flush()
        sys.stdout.buffer.write(_ANSWER + answer)
        sys.stdout.buffer.flush()
    os._exit(0)  # taking a process apart that has drawn takes as long as a figure
