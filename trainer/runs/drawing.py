"""Draws the figures of a run from its files, in this process or in a child process.

Reads the run directory and does not write to it: the process that holds the lock does. Does not import torch.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.child_process import ChildProcess
from trainer.errors import first_line
from trainer.runs import rundir

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class RenderedFigure:
    """A rendered figure.

    Args:
        name: file name with extension.
        content: the file's bytes.
        failure: why drawing failed; `content` is then empty.
    """

    name: str
    content: bytes
    failure: str = ""


Draw = Callable[[Path, Sequence[str]], list[RenderedFigure]]


def draw_run(folder: Path, formats: Sequence[str], part: slice = slice(None)) -> list[RenderedFigure]:
    """Return all figures of a run, each in every given format (png, svg, pdf).

    If one figure cannot be drawn, the others are still drawn.

    Args:
        folder: the run directory.
        formats: png, svg or pdf.
        part: which of the curves, in drawing order; a part that starts at 0 also has the other figures.

    Raises:
        RunError: `folder` is not a run directory, or one of its files is damaged.
    """
    if not formats:  # computing the layout alone takes as long as a small run
        return []
    from trainer.plots.examples import drawings as example_figures  # matplotlib takes 0.3 s to import
    from trainer.plots.histograms import plot_histograms
    from trainer.plots.run import plot_run
    from trainer.plots.style import render, settings
    from trainer.plots.titles import title

    rendered: list[RenderedFigure] = []

    def keep(figure: Figure, path: Path) -> None:
        rendered.append(RenderedFigure(path.name, render(figure, path.suffix.removeprefix("."))))

    def fail(name: str, error: Exception) -> None:
        rendered.append(
            RenderedFigure(name, b"", f"the figure {name} could not be drawn: {first_line(error)}")
        )

    run = rundir.load_run(folder)
    plot_run(run.curves(), folder, formats=formats, part=part, save=keep, failed=fail)
    histograms = [] if part.start else rundir.read_histograms(folder)
    for file_format in formats if histograms else ():
        for name, selected in (("init_histograms", histograms[:1]), ("histograms", histograms)):
            try:
                plot_histograms(title(run.config), selected, folder / f"{name}.{file_format}", save=keep)
            except Exception as error:
                fail(f"{name}.{file_format}", error)
    examples = {} if part.start else rundir.read_examples(folder)
    for name, draw in example_figures(examples, title(run.config)):
        try:
            with settings():
                figure = draw()
            for file_format in formats:
                keep(figure, folder / f"{name}.{file_format}")
        except Exception as error:
            fail(name, error)
    return rendered


@contextmanager
def in_child_process(enabled: bool) -> Iterator[Draw]:
    """Yield a `draw_run` that runs in a child process, to be called once.

    The child imports matplotlib while torch imports its compiler in this process. If the child fails, the
    figures are drawn in this process.

    Args:
        enabled: whether figures will be drawn. If not, or if there is only one core, `draw_run` is yielded.
    """
    from trainer.device import usable_cores  # imports torch, which the child does not need

    child = None
    if enabled and usable_cores() > 1:
        with suppress(OSError):
            child = ChildProcess(_serve)
    if child is None:
        yield draw_run
        return

    def draw(folder: Path, formats: Sequence[str]) -> list[RenderedFigure]:
        child.send((folder.absolute(), list(formats)))
        try:
            figures: list[RenderedFigure] = child.receive()
        except EOFError:
            return draw_run(folder, formats)
        return figures

    try:
        yield draw
    finally:
        child.kill()


def _serve(pipe: Connection) -> None:
    """Receive the arguments of `draw_run`, send the figures; send nothing if drawing fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of matplotlib
    with suppress(Exception):  # the parent draws again and reports the error
        import trainer.plots.histograms
        import trainer.plots.run  # noqa: F401 (imported before the request arrives)
        from trainer.plots import style

        with style.settings():
            style.render(style.new_figure("the first figure loads the fonts")[0], "png")
        pipe.send(_draw_on_two_cores(*pipe.recv()))


def _draw_on_two_cores(folder: Path, formats: Sequence[str]) -> list[RenderedFigure]:
    """Return `draw_run(folder, formats)`, every second figure drawn by a forked process."""
    if sys.platform != "linux":
        return draw_run(folder, formats)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    if os.fork() == 0:
        with suppress(Exception):
            sender.send(draw_run(folder, formats, slice(1, None, 2)))
        os._exit(0)
    sender.close()
    figures = draw_run(folder, formats, slice(0, None, 2))
    return [*figures, *receiver.recv()]
