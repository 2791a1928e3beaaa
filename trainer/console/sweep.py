"""The progress of a sweep: lines, and on a terminal a table below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self, TextIO

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.console.formatting import clean, format_cell, indent_lines, one_line
from trainer.console.output import REDRAW_SECONDS, is_terminal, make_console, print_line
from trainer.console.tables import Column, fitted_grid


class SweepProgress:
    """Shows the progress of a sweep: lines, and on a terminal a table below them. A context manager.

    Args:
        file: output stream; default: stderr.
        quiet: show notes only.
    """

    def __init__(self, *, file: TextIO | None = None, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._file = streams.lenient(file or sys.stderr)
        self._console = make_console(self._file)
        self._live: Live | None = None
        self._quiet = quiet
        self._drawn = 0.0

    def __enter__(self) -> Self:
        """Start the progress display."""
        if not self._quiet and is_terminal(self._file):
            waiting = Text("Starting the workers ...", style="dim")
            self._live = Live(
                waiting, console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        if self._live:
            self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            print_line(self._console, Text(indent_lines(clean(text))))

    def note(self, text: str) -> None:
        """Print a note, quiet or not."""
        print_line(self._console, Text(indent_lines(clean(text))))

    def update(
        self, columns: Sequence[Column], rows: Iterable[Sequence[Any]], done: int, total: int, tail: str
    ) -> None:
        """Redraw the table and a bar of `done` out of `total` followed by the text `tail`."""
        if self._live is None or time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        all_rows = list(rows)
        max_rows = max(self._console.height - 4, 1)
        cells = [
            [format_cell(cell, c.spec) for c, cell in zip(columns, row, strict=True)]
            for row in all_rows[:max_rows]
        ]
        grid, _ = fitted_grid(columns, cells, self._console.width, wrap=False)
        more = (
            [Text(f"... and {len(all_rows) - max_rows} more", style="dim")]
            if len(all_rows) > max_rows
            else []
        )
        bar = ProgressBar(
            total=max(total, 1), completed=done, width=max(self._console.width - len(tail) - 2, 5)
        )
        below = Table.grid(padding=(0, 2, 0, 0))
        below.add_column(no_wrap=True)
        below.add_column(no_wrap=True)
        below.add_row(bar, Text(one_line(tail)))
        self._live.update(Group(grid or "", *more, below), refresh=True)
