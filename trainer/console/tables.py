"""Tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.console.formatting import format_cell, one_line
from trainer.console.output import is_terminal, make_console, print_text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: its heading.
        align: alignment of its cells; use right for numbers.
        spec: format of its numbers, e.g. `.4g` or `,d`; empty = up to six digits.
    """

    title: str
    align: Literal["left", "right"] = "left"
    spec: str = ""


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, file: TextIO | None = None) -> None:
    """Print a table. On a terminal, cells wrap to fit its width; elsewhere columns are aligned and never cut.

    Args:
        columns: at least one.
        rows: one cell per column; None is shown as a dash.
        file: output stream; default: stdout.
    """
    file = file or streams.results()
    cells = [[format_cell(cell, c.spec) for c, cell in zip(columns, row, strict=True)] for row in rows]
    console = make_console(file)
    if is_terminal(file):
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            grid.add_column(Text(one_line(column.title)), justify=column.align, overflow="fold")
        for row in cells:
            grid.add_row(*map(Text, row))
        console.print(grid)
        return
    everything = [[one_line(column.title) for column in columns], *cells]
    widths = [max(len(row[i]) for row in everything) for i in range(len(columns))]
    for row in everything:
        placed = [
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print_text("  ".join(placed).rstrip(), file=file)
