"""Terminal output: progress, tables, errors. The only module that imports rich.

Progress and errors go to stderr, results to stdout. Text from users and files is never interpreted as markup,
and its control characters are escaped. Output that stderr does not accept is dropped; output that stdout does
not accept raises an OutputError (see `streams`).
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer import streams
from trainer.errors import OptlabError, OutputError
from trainer.records import EvalRecord, RunResult, StepRecord

REDRAW_SECONDS = 0.1
RECENT_SECONDS = 20.0


# Plain output


def print_text(text: str, *, file: TextIO | None = None) -> None:
    """Print text (by default on stdout) without wrapping, terminated by a newline."""
    _write(clean(text if text.endswith("\n") else text + "\n"), file or streams.results())


def print_json(value: Any, *, file: TextIO | None = None) -> None:
    """Print a value as indented JSON. NaN and infinities become null.

    Raises:
        OutputError: also with exit code 1 if the reader closed the pipe, because truncated JSON is useless.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)
    shown = _written_out(text, lambda c: json.dumps(c)[1:-1])
    try:
        print_text(shown, file=file)
    except OutputError as error:
        raise OutputError(error.reason) from error


def print_note(text: str) -> None:
    """Print a note on stderr."""
    print_text(_indented(text), file=streams.lenient(sys.stderr))


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
    console = _console(streams.lenient(sys.stderr))
    count = len(error.problems)
    if count > 1:
        _print(console, Text(f"error: {count} problems", style="bold red"))
    for problem in error.problems:
        head = Text()
        if count == 1:
            head.append("error: ", style="bold red")
        if problem.where:
            head.append(f"{one_line(problem.where)}: ", style="cyan")
        if problem.key:
            head.append(f"{one_line(problem.key)}: ", style="bold")
        head.append(_indented(clean(problem.what)))
        _print(console, head)
        said = {"expected": problem.expected, "fix": problem.fix}
        _print_pairs(console, {key: text for key, text in said.items() if text}, indent=4)


def print_pairs(title: str, pairs: Mapping[str, Any], *, file: TextIO | None = None) -> None:
    """Print a titled section of keys and values in two columns; long values wrap within their column.

    Args:
        title: the section's heading; empty = none.
        pairs: values are formatted by `format_cell`; None is shown as a dash.
        file: output stream; default: stdout.
    """
    console = _console(file or streams.results())
    if title:
        _print(console, Text(one_line(title), style="bold"))
    _print_pairs(console, pairs, indent=2 if title else 0)


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
    console = _console(file)
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


def print_result(result: RunResult, run_dir: Path, *, file: TextIO | None = None) -> None:
    """Print the result of a run: the last, best and test measurements, the cost, and the run directory."""
    pairs: dict[str, Any] = {
        "status": result.status + (f": {result.message}" if result.message else ""),
        "trained": f"{result.epochs:.4g} epochs, {_count(result.steps, 'step')} in "
        f"{format_seconds(result.train_seconds)} of training, {format_seconds(result.total_seconds)} in all",
    }
    if result.steps_per_second is not None and result.samples_per_second is not None:
        pairs["speed"] = (
            f"{_rate(result.steps_per_second)} steps/s, {_rate(result.samples_per_second)} samples/s"
        )
    if result.final:
        pairs["final"] = _measurements(result.final.values)
    if result.best:
        chosen = f" (epoch {result.best.epoch:.4g}, by {result.best_metric})" if result.best_metric else ""
        pairs["best"] = _measurements(result.best.values) + chosen
    if result.test:
        numbers = {
            key: value for key, value in result.test.items() if not isinstance(value, str) and key != "step"
        }
        pairs["test"] = _measurements(numbers)
        if checkpoint := result.test.get("checkpoint"):
            pairs["test"] += f" (at the {checkpoint} checkpoint)"
    print_pairs("", {**pairs, "run": str(run_dir)}, file=file)


# Formatting


def clean(text: str) -> str:
    """Return the text with its control characters escaped, except newlines and tabs."""
    return _written_out(text, lambda c: c if c == "\t" else repr(c)[1:-1])


def one_line(text: str) -> str:
    """Return the text with all control characters escaped, including newlines (for cells, names, paths)."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


_UNUSUAL = re.compile(r"[^ -~\n]")


def _written_out(text: str, write: Callable[[str], str]) -> str:
    """Return the text with `write(c)` in place of every character that is not printable and no newline.

    Only characters beyond printable ASCII are looked at one by one: 15 MB of JSON take 0.05 s instead of 0.7.
    """
    return _UNUSUAL.sub(lambda found: c if (c := found.group()).isprintable() else write(c), text)


def _indented(text: str) -> str:
    """Return the text with all lines but the first indented, so that none looks like a separate message."""
    first, *more = text.split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ") else f"    {line}" for line in more)])


def format_cell(value: Any, spec: str = "") -> str:
    """Return a value formatted for a table: None as a dash, numbers by `spec` or with six digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value}"
        return format(value, spec or (".6g" if isinstance(value, float) else "d"))
    return one_line(str(value))


def format_seconds(seconds: float) -> str:
    """Return a duration in a suitable unit: `0.84 s`, `12.3 s`, `3:05 min`, `2:03:10 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{_clock_time(seconds)} {'min' if seconds < 3599.5 else 'h'}"


def is_terminal(file: TextIO) -> bool:
    """Return whether the stream is a terminal on which lines can be redrawn."""
    return file.isatty() and not Console(file=file).is_dumb_terminal


# Progress


@dataclass(frozen=True, slots=True)
class _Field:
    """A column of the evaluation lines: its heading, width, the record's key and its formatter."""

    title: str
    width: int
    key: str
    show: Callable[[float | None], str]


class TrainingProgress:
    """Shows the progress of a run. A context manager, so that the terminal is restored after an error.

    Every evaluation prints a line. On a terminal, a progress bar with the current values is drawn below these
    lines, at most ten times a second and only when a record arrives. There is no thread, so the training loop
    is not slowed down.

    Args:
        file: output stream; default: stderr.
        clock: returns seconds of wall time, for the remaining time and the redraw interval.
    """

    def __init__(self, *, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        self._file = streams.lenient(file or sys.stderr)
        self._clock = clock
        self._console = _console(self._file)
        self._live: Live | None = None
        self._fields: list[_Field] | None = None
        self._title = ""
        self._total_steps: int | None = None
        self._steps_per_epoch: float = 1
        self._seconds_budget: float | None = None
        self._started = self._drawn = clock()
        self._record: StepRecord | EvalRecord | None = None
        self._step_values: dict[str, float | None] = {}
        self._val_accuracy: float | None = None
        self._left = TimeLeft(None, None)

    def __enter__(self) -> Self:
        """Return self; `start` shows the progress."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar, however the run ended."""
        self._stop()

    def start(
        self,
        title: str,
        total_steps: int | None,
        steps_per_epoch: float,
        seconds_budget: float | None = None,
    ) -> None:
        """Print the title and start the progress display.

        Args:
            title: one line above everything.
            total_steps: planned updates, including those before a resumption; None = not known.
            steps_per_epoch: updates per epoch.
            seconds_budget: seconds of training after which the run ends; None = no limit.
        """
        self._title = one_line(title)
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._seconds_budget = seconds_budget
        self._left = TimeLeft(total_steps, seconds_budget)
        self._started = self._clock()
        self._print(Text(self._title, style="bold"))
        if is_terminal(self._file):
            # stdout is for results and may be redirected; warnings on stderr go above the bar.
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start()

    def update(self, record: StepRecord | EvalRecord) -> None:
        """Show a new record: an EvalRecord prints a line, a StepRecord may redraw the bar."""
        now = self._clock()
        self._left.add(now, record.step, record.train_seconds, evaluation=isinstance(record, EvalRecord))
        self._record = record
        if isinstance(record, EvalRecord):
            self._print_evaluation(record)
        else:
            self._step_values = dict(record.values)
        if self._live and (isinstance(record, EvalRecord) or now - self._drawn >= REDRAW_SECONDS):
            self._drawn = now
            self._live.update(self._state(now), refresh=True)

    def note(self, text: str) -> None:
        """Print a note above the bar."""
        self._print(Text(_indented(clean(text))))

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _print(self, text: Text) -> None:
        _print(self._console, text)

    def _print_evaluation(self, record: EvalRecord) -> None:
        if self._fields is None:
            self._fields = _evaluation_fields(record)
            self._print(Text(self._row([field.title for field in self._fields]), style="dim"))
        row = record.row()
        self._print(Text(self._row([field.show(row.get(field.key)) for field in self._fields])))
        self._val_accuracy = record.values.get("val_accuracy")

    def _row(self, cells: Sequence[str]) -> str:
        assert self._fields is not None
        widths = [field.width for field in self._fields]
        gap = "  "
        if is_terminal(self._file) and sum(widths) + 2 * len(widths) > self._console.width:
            widths, gap = [max(len(field.title), 5) for field in self._fields], " "
        return gap.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

    def _state(self, now: float) -> RenderableType:
        """Return the bar with its numbers, and below it the latest values."""
        record = self._record
        assert record is not None
        done: float
        total: float
        if self._total_steps is not None:
            done, total = record.step, self._total_steps
            count = f"{record.step:,}/{self._total_steps:,} steps"
        elif self._seconds_budget is not None:
            done, total = record.train_seconds, self._seconds_budget
            count = f"{record.step:,} steps, {record.train_seconds:.0f}/{self._seconds_budget:.0f} s"
        else:
            done, total = 0, 1
            count = f"{record.step:,} steps"
        numbers = f"{count}  {_clock_time(now - self._started)}  left {self._left}"
        bar = ProgressBar(total=total, completed=done, width=max(self._console.width - len(numbers) - 2, 5))
        first = Table.grid(padding=(0, 2, 0, 0))
        first.add_column(no_wrap=True)
        first.add_column(no_wrap=True)
        first.add_row(bar, Text(numbers))
        values = self._step_values
        lr = " ".join(
            f"{key} {format_cell(value, '.3g')}"
            for key, value in values.items()
            if key == "lr" or key.startswith("lr.")
        )
        epoch = f"epoch {record.epoch:.2f}"
        if self._total_steps is not None:
            epoch += f"/{self._total_steps / self._steps_per_epoch:.4g}"
        parts = [epoch, f"loss {_loss(values.get('loss')).strip()}" if "loss" in values else ""]
        parts.append("" if self._val_accuracy is None else f"val {_percent(self._val_accuracy)}")
        parts += [f"{_rate(self._left.rate)} steps/s" if self._left.rate else "", lr]
        second = ""
        for part in filter(None, parts):
            longer = f"{second}  {part}" if second else part
            if len(longer) < self._console.width:
                second = longer
        return Group(first, Text(second, style="dim", no_wrap=True))


class TimeLeft:
    """Estimates the remaining wall time of a run, including evaluation and writing.

    The training time of the last `RECENT_SECONDS` gives the training seconds per step. The time spent outside
    training since the first record (evaluations, writing) is added, averaged per step. Until an evaluation
    has run between steps, its cost is unknown and the estimate is marked as a lower bound.

    Args:
        total_steps: planned updates; None = not known.
        seconds_budget: seconds of training; None = no limit.
    """

    def __init__(self, total_steps: int | None, seconds_budget: float | None) -> None:
        """Start without measurements: the estimate is unknown."""
        self._total_steps = total_steps
        self._seconds_budget = seconds_budget
        self._first: tuple[float, int, float] | None = None
        self._recent: deque[tuple[float, int, float]] = deque()
        self._evaluated = False

    def add(self, now: float, step: int, train_seconds: float, *, evaluation: bool) -> None:
        """Add a measurement: wall time and training time in seconds, and the number of completed updates."""
        if self._first is None:
            self._first = (now, step, train_seconds)
        self._evaluated |= evaluation and step > self._first[1]
        # A few measurements per second are enough, however fast the steps are.
        if len(self._recent) >= 2 and now - self._recent[-2][0] < RECENT_SECONDS / 100:
            self._recent.pop()
        self._recent.append((now, step, train_seconds))
        while len(self._recent) > 2 and now - self._recent[1][0] > RECENT_SECONDS:
            self._recent.popleft()

    @property
    def rate(self) -> float | None:
        """Recent updates per second of training; None while unknown."""
        if len(self._recent) < 2:
            return None
        (_, before, earlier), (_, step, later) = self._recent[0], self._recent[-1]
        return (step - before) / (later - earlier) if step > before and later > earlier else None

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of wall time to the end; None while unknown."""
        rate = self.rate
        if rate is None or self._first is None:
            return None
        now, step, train_seconds = self._recent[-1]
        began, first_step, first_seconds = self._first
        if now - began < 1.0 or step == first_step:
            return None
        beside = max((now - began) - (train_seconds - first_seconds), 0.0) / (step - first_step)
        steps_left = []
        if self._total_steps is not None:
            steps_left.append(float(self._total_steps - step))
        if self._seconds_budget is not None:
            steps_left.append((self._seconds_budget - train_seconds) * rate)
        return max(min(steps_left), 0.0) * (1 / rate + beside) if steps_left else None

    def __str__(self) -> str:
        """Return the estimate as `1:05`, a lower bound as `>1:05`, and `-:--` while it is unknown."""
        seconds = self.seconds
        if seconds is None:
            return "-:--"
        return ("" if self._evaluated else ">") + _clock_time(seconds)


def _evaluation_fields(record: EvalRecord) -> list[_Field]:
    """Return the columns of the evaluation lines, derived from the first evaluation (before training)."""
    fields = [_Field("epoch", 6, "epoch", _epoch), _Field("step", 8, "step", format_cell)]
    for split in ("train", "val"):
        loss, accuracy = f"{split}_loss", f"{split}_accuracy"
        # The first evaluation has validation values, but no running means of the training split yet.
        if loss in record.values and (split == "train" or record.values[loss] is not None):
            fields.append(_Field(f"{split} loss", 10, loss, _loss))
            if accuracy in record.values:
                fields.append(_Field(f"{split} acc", 9, accuracy, _percent))
    return [*fields, _Field("seconds", 8, "train_seconds", lambda seconds: format_cell(seconds, ".1f"))]


def _epoch(value: float | None) -> str:
    return format_cell(value, ".2f").removesuffix(".00")


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def _measurements(values: Mapping[str, Any]) -> str:
    said = []
    for key, value in values.items():
        if value is not None:
            shown = _percent(value) if key.endswith("accuracy") else format_cell(value, ".4g")
            said.append(f"{key.replace('_', ' ')} {shown}")
    return ", ".join(said)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Writing


def _console(file: TextIO) -> Console:
    return Console(file=file, markup=False, emoji=False, highlight=False, force_terminal=is_terminal(file))


def _print(console: Console, text: Text) -> None:
    """Print a line: wrapped on a terminal, unwrapped elsewhere (so that `grep` finds it)."""
    if console.is_terminal:
        console.print(text)
    else:
        _write(text.plain + "\n", console.file)


def _print_pairs(console: Console, pairs: Mapping[str, Any], *, indent: int) -> None:
    if not pairs:
        return
    shown = {
        one_line(key): clean(value) if isinstance(value, str) else format_cell(value)
        for key, value in pairs.items()
    }
    width = max(map(len, shown))
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=indent + width, no_wrap=True, style="dim")
        grid.add_column(overflow="fold")
        for key, value in shown.items():
            grid.add_row(Text(" " * indent + key), Text(value))
        console.print(grid)
        return
    below = "\n" + " " * (indent + width + 2)
    for key, value in shown.items():
        _write(" " * indent + key.ljust(width) + "  " + value.replace("\n", below) + "\n", console.file)


def _write(text: str, file: TextIO | Any) -> None:
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


# Sweeps


class SweepProgress:
    """Shows the progress of a sweep: lines, and on a terminal a table below them. A context manager.

    Args:
        file: output stream; default: stderr.
        quiet: show notes only.
    """

    def __init__(self, *, file: TextIO | None = None, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._file = streams.lenient(file or sys.stderr)
        self._console = _console(self._file)
        self._live: Live | None = None
        self._quiet = quiet
        self._drawn = 0.0

    def __enter__(self) -> Self:
        """Start the progress display."""
        if not self._quiet and is_terminal(self._file):
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        if self._live:
            self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            _print(self._console, Text(_indented(clean(text))))

    def note(self, text: str) -> None:
        """Print a note, quiet or not."""
        _print(self._console, Text(_indented(clean(text))))

    def update(
        self, columns: Sequence[Column], rows: Iterable[Sequence[Any]], done: int, total: int, tail: str
    ) -> None:
        """Redraw the table and a bar of `done` out of `total` with the text `tail` beside it."""
        if self._live is None or time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            grid.add_column(
                Text(one_line(column.title)), justify=column.align, no_wrap=True, overflow="ellipsis"
            )
        shown = list(rows)
        room = max(self._console.height - 4, 1)
        for row in shown[:room]:
            cells = zip(columns, row, strict=True)
            grid.add_row(*(Text(format_cell(cell, column.spec)) for column, cell in cells))
        more = [Text(f"... and {len(shown) - room} more", style="dim")] if len(shown) > room else []
        bar = ProgressBar(
            total=max(total, 1), completed=done, width=max(self._console.width - len(tail) - 2, 5)
        )
        below = Table.grid(padding=(0, 2, 0, 0))
        below.add_column(no_wrap=True)
        below.add_column(no_wrap=True)
        below.add_row(bar, Text(one_line(tail)))
        self._live.update(Group(grid, *more, below), refresh=True)
