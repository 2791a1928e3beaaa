"""Implementation of `optlab plot`: draw the figures of runs again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import console
from trainer.errors import (
    ConfigError,
    FigureError,
    Problem,
)
from trainer.runs import ownership, runner


def plot(folders: Sequence[Path], formats: Sequence[str]) -> None:
    """Draw figures again and print their paths."""
    wrong = set(formats) - {"png", "svg", "pdf"}
    if wrong:
        raise ConfigError(f"unknown figure format {min(wrong)!r}", expected="png, svg or pdf")
    problems = []
    for folder in folders:
        ownership.require_run(folder)
        with console.waiting(f"Drawing the figures of {folder}"):
            figures = runner.draw_figures(folder, list(formats))
        for path in figures.paths:
            console.print_text(console.one_line(str(path)))
        problems += [Problem(message, where=str(folder)) for message in figures.failures]
    if problems:
        raise FigureError.of(problems)
