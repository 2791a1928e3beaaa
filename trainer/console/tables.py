"""Tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.console.formatting import format_cell, one_line
from trainer.console.output import is_terminal, make_console, print_text

GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: its heading.
        align: alignment of its cells; use right for numbers.
        spec: format of its numbers, e.g. `.4g` or `,d`; empty = up to six digits.
        omit: whether a narrow terminal leaves out the column: the highest number first; 0 = never.
        min_width: width to which a narrow terminal may reduce the column; 0 = that of its cells.
        keep_end: cut cells at their beginning instead of wrapping them.
    """

    title: str
    align: Literal["left", "right"] = "left"
    spec: str = ""
    omit: int = 0
    min_width: int = 0
    keep_end: bool = False


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    wide: bool = False,
    file: TextIO | None = None,
) -> list[str]:
    """Print a table. On a terminal it is fitted to the width; elsewhere columns are aligned and never cut.

    Args:
        columns: at least one.
        rows: one cell per column; None is shown as a dash.
        wide: print the table on a terminal as elsewhere.
        file: output stream; default: stdout.

    Returns:
        The titles of the columns that were left out.
    """
    file = file or streams.results()
    titles = [one_line(column.title) for column in columns]
    cells = [[format_cell(cell, c.spec) for c, cell in zip(columns, row, strict=True)] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    if not wide and is_terminal(file):
        return _print_fitted(columns, cells, widths, make_console(file))
    for row in [titles, *cells]:
        placed = [
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print_text("  ".join(placed).rstrip(), file=file)
    return []


def _print_fitted(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int], console: Console
) -> list[str]:
    least = [min(width, c.min_width or width) for width, c in zip(widths, columns, strict=True)]
    shown = list(range(len(columns)))
    omitted = []
    while sum(least[i] + GAP for i in shown) - GAP > console.width:
        last = max(shown, key=lambda i: columns[i].omit)
        if not columns[last].omit:
            break
        shown.remove(last)
        omitted.append(columns[last].title)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for i in shown:
        grid.add_column(Text(one_line(columns[i].title)), justify=columns[i].align, overflow="fold")
    others = sum(least[i] + GAP for i in shown)
    for row in cells:
        texts = []
        for i in shown:
            limit = max(console.width - others + least[i] + GAP, 4)
            cut = columns[i].keep_end and len(row[i]) > limit
            texts.append(Text("..." + row[i][3 - limit :] if cut else row[i]))
        grid.add_row(*texts)
    console.print(grid)
    return omitted
