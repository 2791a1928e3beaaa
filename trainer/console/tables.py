"""Tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.console.formatting import format_cell, one_line
from trainer.console.output import is_terminal, make_console, print_pairs, print_text

GAP = 2
TEXT_WIDTH = 16


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

    If even the columns that cannot be left out are too wide for the terminal, each row is printed as pairs.

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
    if not wide and is_terminal(file):
        console = make_console(file)
        grid, omitted = fitted_grid(columns, cells, console.width)
        if grid is not None:
            console.print(grid)
            return omitted
        for row in cells:  # too narrow for a table
            print_pairs(row[0], dict(zip(titles[1:], row[1:], strict=True)), file=file)
        return []
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in [titles, *cells]:
        placed = [
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print_text("  ".join(placed).rstrip(), file=file)
    return []


def fitted_grid(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int, *, wrap: bool = True
) -> tuple[Table | None, list[str]]:
    """Return a table that fits a width, and the titles of the columns that were left out.

    Args:
        columns: at least one. Numbers are never wrapped; text is, to at least 16 characters.
        cells: the formatted rows.
        width: the width of the terminal.
        wrap: wrap text; otherwise it is cut at its end.

    Returns:
        None instead of the table if even the columns that cannot be left out are too wide.
    """
    widths = [max(len(column.title), *(len(row[i]) for row in cells), 0) for i, column in enumerate(columns)]
    least = [
        min(own, c.min_width or (own if c.align == "right" else TEXT_WIDTH))
        for own, c in zip(widths, columns, strict=True)
    ]
    kept_columns = list(range(len(columns)))
    omitted = []
    while (needed := sum(least[i] + GAP for i in kept_columns) - GAP) > width:
        last = max(kept_columns, key=lambda i: columns[i].omit)
        if not columns[last].omit:
            return None, []
        kept_columns.remove(last)
        omitted.append(columns[last].title)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    limits = {}
    spare = width - needed
    for i in kept_columns:
        number = columns[i].align == "right"
        grid.add_column(
            Text(one_line(columns[i].title)),
            justify=columns[i].align,
            overflow="fold",
            no_wrap=number or not wrap,
        )
        if columns[i].keep_end or not (number or wrap):
            limits[i] = min(widths[i], least[i] + spare)
            spare -= limits[i] - least[i]
    for row in cells:
        grid.add_row(*(Text(_cut(row[i], limits.get(i), keep_end=columns[i].keep_end)) for i in kept_columns))
    return grid, omitted


def _cut(text: str, limit: int | None, *, keep_end: bool) -> str:
    if limit is None or len(text) <= limit:
        return text
    return "..." + text[3 - limit :] if keep_end else text[: limit - 3] + "..."
