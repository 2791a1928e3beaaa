"""Text, JSON, notes, errors and pairs on stdout and stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.console.formatting import clean, escape_characters, format_cell, indent_lines, one_line
from trainer.errors import OptlabError, OutputError

REDRAW_SECONDS = 0.1


def print_text(text: str, *, file: TextIO | None = None) -> None:
    """Print text (by default on stdout) without wrapping, terminated by a newline."""
    write(clean(text if text.endswith("\n") else text + "\n"), file or streams.results())


def print_sentence(text: str) -> None:
    """Print text on stdout; on a terminal it is wrapped between words."""
    print_line(make_console(streams.results()), Text(clean(text)))


def print_json(value: Any, *, file: TextIO | None = None) -> None:
    """Print a value as indented JSON. NaN and infinities become null.

    Raises:
        OutputError: also with exit code 1 if the reader closed the pipe, because truncated JSON is useless.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)
    escaped = escape_characters(text, lambda c: json.dumps(c)[1:-1])
    try:
        print_text(escaped, file=file)
    except OutputError as error:
        raise OutputError(error.reason) from error


def print_note(text: str, *, command: str = "") -> None:
    """Print a note on stderr. A command after it is never wrapped, so that it can be copied."""
    file = streams.lenient(sys.stderr)
    console = make_console(file)
    line = indent_lines(clean(text))
    if command and console.is_terminal and len(line) + len(command) + 1 > console.width:
        print_line(console, Text(line))
        print_text(f"    {command}", file=file)
    else:
        print_line(console, Text(f"{line} {command}" if command else line))


@contextmanager
def waiting(what: str, *, quiet: bool = False, file: TextIO | None = None) -> Iterator[None]:
    """Show on stderr, if it is a terminal, what the block does; the line disappears when it ends."""
    file = streams.lenient(file or sys.stderr)
    if quiet or not file.isatty():
        yield
        return
    redraw = is_terminal(file)
    write(f"{what} ..." + ("" if redraw else "\n"), file)
    try:
        yield
    finally:
        if redraw:
            write("\r\x1b[K", file)  # to the start of the line, and erase it


@contextmanager
def results_are_kept() -> Iterator[None]:
    """Reduce an OutputError of the block to a note, because the results are also saved on disk."""
    try:
        yield
    except OutputError as error:
        if not error.closed:
            print_note(str(error))


def print_error(error: OptlabError) -> None:
    """Print every problem of an error on stderr: place, key and description, then expected and fix."""
    console = make_console(streams.lenient(sys.stderr))
    count = len(error.problems)
    if count > 1:
        print_line(console, Text(f"error: {count} problems", style="bold red"))
    for problem in error.problems:
        head = Text()
        if count == 1:
            head.append("error: ", style="bold red")
        if problem.where:
            head.append(f"{one_line(problem.where)}: ", style="cyan")
        if problem.key:
            head.append(f"{one_line(problem.key)}: ", style="bold")
        head.append(indent_lines(clean(problem.what)))
        print_line(console, head)
        details = {"expected": problem.expected, "fix": problem.fix}
        _print_pairs(console, {key: text for key, text in details.items() if text}, indent=4)


def print_pairs(title: str, pairs: Mapping[str, Any], *, file: TextIO | None = None) -> None:
    """Print a titled section of keys and values in two columns; long values wrap within their column.

    Args:
        title: the section's heading; empty = none.
        pairs: values are formatted by `format_cell`; None is shown as a dash.
        file: output stream; default: stdout.
    """
    console = make_console(file or streams.results())
    if title:
        print_line(console, Text(one_line(title), style="bold"))
    _print_pairs(console, pairs, indent=2 if title else 0)


def is_terminal(file: TextIO) -> bool:
    """Return whether the stream is a terminal on which lines can be redrawn."""
    return file.isatty() and not Console(file=file).is_dumb_terminal


def make_console(file: TextIO) -> Console:
    """Return a console that interprets no markup."""
    return Console(file=file, markup=False, emoji=False, highlight=False, force_terminal=is_terminal(file))


def print_line(console: Console, text: Text) -> None:
    """Print a line: wrapped on a terminal, unwrapped elsewhere (so that `grep` finds it)."""
    if console.is_terminal:
        console.print(text)
    else:
        write(text.plain + "\n", console.file)


def _print_pairs(console: Console, pairs: Mapping[str, Any], *, indent: int) -> None:
    if not pairs:
        return
    labels = {
        one_line(key): clean(value) if isinstance(value, str) else format_cell(value)
        for key, value in pairs.items()
    }
    width = max(map(len, labels))
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=indent + width, no_wrap=True, style="dim")
        grid.add_column(overflow="fold")
        for key, value in labels.items():
            grid.add_row(Text(" " * indent + key), Text(value))
        console.print(grid)
        return
    below = "\n" + " " * (indent + width + 2)
    for key, value in labels.items():
        write(" " * indent + key.ljust(width) + "  " + value.replace("\n", below) + "\n", console.file)


def write(text: str, file: TextIO | Any) -> None:
    """Write text; characters that the stream's encoding lacks are escaped (`\\u2013`)."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    file.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
