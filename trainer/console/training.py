"""The progress of a run: a line per evaluation, and on a terminal a progress bar below these lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self, TextIO

from rich.text import Text

from trainer import streams
from trainer.console.formatting import (
    clean,
    format_cell,
    format_loss,
    format_rate,
    format_value,
    indent_lines,
    one_line,
)
from trainer.console.output import REDRAW_SECONDS, is_terminal, make_console, print_line, waiting, write
from trainer.metrics import Metric, find, leading, metric_name
from trainer.records import EvalRecord, StepRecord

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

ESTIMATE_SECONDS = 600.0
"""Period from whose redraws, at most 1000, rich estimates the remaining time. It includes evaluations."""

_WIDTH_WITH_ELAPSED_TIME = 60


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
        self._console = make_console(self._file)
        self._preparing = ExitStack()
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._fields: list[_Field] | None = None
        self._total_steps: int | None = None
        self._steps_per_epoch: float = 1
        self._seconds_budget: float | None = None
        self._drawn = clock()
        self._step_values: dict[str, float | None] = {}
        self._metrics: Sequence[Metric] = ()
        self._shown: str = ""  # the metric and its value that are shown with the bar

    def __enter__(self) -> Self:
        """Show that the run is being prepared; `start` shows the progress."""
        self._preparing.enter_context(waiting("Preparing the run", file=self._file))
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar, however the run ended."""
        self._preparing.close()
        if self._live:
            self._live.stop()
            self._live = None

    def start(
        self,
        title: str,
        total_steps: int | None,
        steps_per_epoch: float,
        seconds_budget: float | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Print the title and start the progress display.

        Args:
            title: one line above everything.
            total_steps: planned updates, including those before a resumption; None = not known.
            steps_per_epoch: updates per epoch.
            seconds_budget: seconds of training after which the run ends; None = no limit.
            metrics: the metrics of the run, in addition to the built-in ones.
        """
        self._metrics = metrics
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._seconds_budget = seconds_budget
        self._preparing.close()
        print_line(self._console, Text(one_line(title), style="bold"))
        if is_terminal(self._file):
            self._start_bar()

    def _start_bar(self) -> None:
        from rich.live import Live  # 20 ms that only a run on a terminal needs
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        columns = [
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            TextColumn("{task.description}", markup=False),
            *([TimeElapsedColumn()] if self._console.width >= _WIDTH_WITH_ELAPSED_TIME else []),
            TextColumn("left", markup=False),
            TimeRemainingColumn(compact=True),
        ]
        self._bar = Progress(
            *columns,
            console=self._console,
            speed_estimate_period=ESTIMATE_SECONDS,
            get_time=self._clock,
            expand=True,
        )
        bounded = self._total_steps is not None or self._seconds_budget is not None
        self._bar.add_task("", total=1.0 if bounded else None)
        # stdout is for results and may be redirected; warnings on stderr go above the bar.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def update(self, record: StepRecord | EvalRecord) -> None:
        """Show a new record: an EvalRecord prints a line, a StepRecord may redraw the bar."""
        if isinstance(record, EvalRecord):
            self._print_evaluation(record)
        else:
            self._step_values = dict(record.values)
        now = self._clock()
        if self._live and (isinstance(record, EvalRecord) or now - self._drawn >= REDRAW_SECONDS):
            self._drawn = now
            self._draw(record)

    def waiting_for(self, what: str) -> None:
        """Show on a terminal what the run does until the next record arrives or the display ends."""
        if self._live:
            self._live.update(Text(f"{what} ...", style="dim", no_wrap=True), refresh=True)

    def reading(self, done: int, total: int) -> None:
        """Show how many samples of the data have been read: at once on a terminal, else every 10 seconds."""
        if self._clock() - self._drawn < (0.2 if is_terminal(self._file) else 10):
            return
        self._drawn = self._clock()
        text = f"Reading the data: {done:,} of {total:,} samples"
        write(f"\r\x1b[K{text}" if is_terminal(self._file) else f"{text}\n", self._file)

    def note(self, text: str) -> None:
        """Print a note above the bar."""
        self._preparing.close()
        print_line(self._console, Text(indent_lines(clean(text))))

    def _print_evaluation(self, record: EvalRecord) -> None:
        if self._fields is None:
            width = self._console.width if is_terminal(self._file) else None
            self._fields = _evaluation_fields(record, self._metrics, width)
            titles = self._row([field.title for field in self._fields])
            print_line(self._console, Text(titles, style="dim"))
        row = record.row()
        print_line(self._console, Text(self._row([field.show(row.get(field.key)) for field in self._fields])))
        metric = find(leading(metric_name(key) for key in record.values if key.startswith("val_")))
        value = record.values.get(f"val_{metric.name}")
        self._shown = "" if value is None else f"val {format_value(value, metric)}"

    def _row(self, cells: Sequence[str]) -> str:
        assert self._fields is not None
        padded = [cell.rjust(field.width) for cell, field in zip(cells, self._fields, strict=True)]
        return " ".join(padded)

    def _draw(self, record: StepRecord | EvalRecord) -> None:
        """Redraw the bar with the number of steps, and below it the latest values."""
        from rich.console import Group

        assert self._bar is not None
        assert self._live is not None
        shares = []
        count = f"{record.step:,} steps"
        if self._seconds_budget is not None:
            shares.append(record.train_seconds / self._seconds_budget)
            count = f"{record.step:,} steps, {record.train_seconds:.0f}/{self._seconds_budget:.0f} s"
        if self._total_steps is not None:
            shares.append(record.step / self._total_steps)
            count = f"{record.step:,}/{self._total_steps:,} steps"
        self._bar.update(self._bar.task_ids[0], completed=max(shares, default=0), description=count)
        values = Text(self._latest_values(record), style="dim", no_wrap=True)
        self._live.update(Group(self._bar, values), refresh=True)

    def _latest_values(self, record: StepRecord | EvalRecord) -> str:
        """Return as many of the latest values as fit on a line."""
        values = self._step_values
        epoch = f"epoch {record.epoch:.2f}"
        if self._total_steps is not None:
            epoch += f"/{self._total_steps / self._steps_per_epoch:.4g}"
        parts = [epoch]
        if "loss" in values:
            parts.append(f"loss {format_loss(values['loss'])}")
        parts.append(self._shown)
        if record.step and record.train_seconds:
            parts.append(f"{format_rate(record.step / record.train_seconds)} steps/s")
        rates = {key: value for key, value in values.items() if key == "lr" or key.startswith("lr.")}
        parts.append(" ".join(f"{key} {format_cell(value, '.3g')}" for key, value in rates.items()))
        line = ""
        for part in filter(None, parts):
            longer = f"{line}  {part}" if line else part
            if len(longer) < self._console.width:
                line = longer
        return line


def _evaluation_fields(record: EvalRecord, metrics: Sequence[Metric], width: int | None) -> list[_Field]:
    """Return the columns of the evaluation lines.

    Args:
        record: the first evaluation, before training.
        metrics: the metrics of the run, in addition to the built-in ones.
        width: width of the terminal; None = no limit. If the columns are wider, they are narrowed, then
            the least important ones are left out.
    """
    fields = [_Field("epoch", 6, "epoch", _epoch), _Field("step", 9, "step", format_cell)]
    names: dict[str, list[str]] = {}
    for split in ("train", "val"):
        names[split] = [name for name in record.values if name == f"{split}_{metric_name(name)}"]
        # The first evaluation has validation values, but no running means of the training split yet.
        if split == "train" or any(record.values[name] is not None for name in names[split]):
            for name in names[split]:
                metric = find(name, metrics)
                title, show = f"{split} {metric.short}", partial(format_value, metric=metric)
                fields.append(_Field(title, max(len(title), 11 if metric.log else 10), name, show))
    fields.append(_Field("seconds", 9, "train_seconds", lambda seconds: format_cell(seconds, ".1f")))
    if width is None or _line_width(fields) <= width:
        return fields
    fields = [replace(field, width=max(len(field.title), 5)) for field in fields]
    for key in ("train_seconds", "step", *names["train"][::-1], *names["val"][:1:-1]):
        if _line_width(fields) > width:
            fields = [field for field in fields if field.key != key]
    return fields


def _line_width(fields: Sequence[_Field]) -> int:
    return sum(field.width + 1 for field in fields)


def _epoch(value: float | None) -> str:
    return format_cell(value, ".2f").removesuffix(".00")
