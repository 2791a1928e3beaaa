"""The records of a run (steps, evaluations, result), and reading and writing them as CSV.

This module does not import torch, so that tables and figures of a run directory are created quickly.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import RunError
from trainer.reading import read_regular

if TYPE_CHECKING:
    from pydantic import ConfigDict

FORMAT = 1
_MAX_TABLE_BYTES = 4 << 30
_LONG_TABLE = 1 << 16
_MAX_HEADER_BYTES = 1 << 20
_MAX_COLUMNS = 20_000  # gradient norms take one per parameter tensor
_STRICT: ConfigDict = {"strict": True, "extra": "ignore"}  # ignore keys of later releases

Status = Literal["running", "completed", "early_stopped", "diverged", "pruned", "interrupted", "failed"]
Cell = float | int | None


@dataclass(frozen=True, slots=True)
class Record:
    """The position in a run and the values measured there.

    Args:
        step: completed updates.
        epoch: epochs completed, as a fraction (1.5 = in the middle of the second).
        samples: training samples seen.
        grad_evals: backward passes so far (LBFGS makes several per step).
        train_seconds: seconds of training so far, without evaluation, logging and checkpoints.
        values: the values by column name; None = unknown.
    """

    step: int
    epoch: float
    samples: int
    grad_evals: int
    train_seconds: float
    values: Mapping[str, float | None]

    def row(self) -> dict[str, Cell]:
        """Return the record as one CSV row: `POSITION_COLUMNS`, then the values."""
        position = {name: getattr(self, name) for name in POSITION_COLUMNS}
        position["epoch"] = round(self.epoch, 6)
        position["train_seconds"] = round(self.train_seconds, 6)
        return position | dict(self.values)


class StepRecord(Record):
    """One row of steps.csv, written every `log.every` steps.

    Values: `loss` (of this minibatch, before its update), `lr` or `lr.<label>` per parameter group (as used
    for this update), and optionally `grad_norm`, `grad_norm.<parameter>`, `penalty`,
    `group.<option>`.
    """


class EvalRecord(Record):
    """One row of epochs.csv, written at every evaluation; the first is at step 0, before training.

    Values: the loss and every metric, as `train_loss`, `train_accuracy` (running means since the last
    evaluation, train mode), `val_loss` ... (eval mode, the whole split), optionally `train_eval_loss` ...
    """


class CheckpointDue(Record):
    """A position at which the state is consistent and a checkpoint is due; it has no values."""


POSITION_COLUMNS = ("step", "epoch", "samples", "grad_evals", "train_seconds")


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The values of one evaluation and its position in the run (`summary.json`: `final` and `best`)."""

    step: int
    epoch: float
    train_seconds: float
    values: Mapping[str, float | None]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of a run, as stored in `summary.json`.

    Args:
        status: how it ended.
        steps, epochs, samples, grad_evals: the position at its end.
        train_seconds: seconds of training only.
        total_seconds: seconds from the first record to the last, evaluation and writing included.
        final: the last evaluation; None if there was none.
        best: the best evaluation by `best_metric`; None without a validation split.
        test: loss and metrics on the test split, and `checkpoint`: `best` or `final`; `used_for`:
            `validation` if it was evaluated during training (`data.val_from: test`); None = not evaluated.
        steps_per_second, samples_per_second: throughput over `train_seconds`; None before the first step.
        peak_memory_bytes: the process's peak (CPU: resident set; CUDA: allocated on the device).
        optimizer_state_bytes: size of the state that the optimizers keep between steps.
        parameters: number of trainable parameters.
        best_metric: the metric that selected `best`, as `val_accuracy`.
        engine: how the steps ran: `eager`, `compiled`, or `compiled until step N`, then eager.
        compile_seconds: compile time before the first step, included in no other time; None = not compiled.
        message: why it ended, if the status does not say so.
    """

    status: Status
    steps: int
    epochs: float
    samples: int
    grad_evals: int
    train_seconds: float
    total_seconds: float
    final: EvalResult | None
    best: EvalResult | None
    test: Mapping[str, float | int | str | None] | None
    steps_per_second: float | None
    samples_per_second: float | None
    peak_memory_bytes: int
    optimizer_state_bytes: int
    parameters: int
    best_metric: str | None = None
    engine: str = "eager"
    compile_seconds: float | None = None
    message: str = ""
    format: int = field(default=FORMAT)

    __pydantic_config__ = _STRICT

    def test_values(self) -> dict[str, float]:
        """Return the loss and the metrics on the test split; empty if it was not read."""
        return {
            name: float(value)
            for name, value in (self.test or {}).items()
            if name != "step" and isinstance(value, int | float)
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain dicts and numbers, ready for JSON."""
        return asdict(self)


def format_row(columns: Sequence[str], row: Mapping[str, Cell]) -> str:
    """Return one CSV line with its newline; a column without a value is empty.

    Floats are written in the shortest form from which the same float is read.
    """
    assert set(row) <= set(columns), f"columns are fixed when a run starts: {sorted(set(row) - set(columns))}"
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        ["" if row.get(name) is None else repr(row[name]) for name in columns]
    )
    return line.getvalue()


def format_header(columns: Sequence[str]) -> str:
    """Return the header line of the CSV with its newline."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(columns)
    return line.getvalue()


def read_table(path: Path) -> dict[str, list[float | None]]:
    """Read the columns of steps.csv or epochs.csv; ignore an incomplete last line (after a power failure).

    Raises:
        RunError: the file is missing, empty or damaged, or a line does not match the header.
    """
    try:
        content = read_regular(path, _MAX_TABLE_BYTES)
    except FileNotFoundError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", fix="is this a run directory?") from error
    _refuse_foreign(path, content)
    text = content.decode("utf-8", errors="replace")
    complete_lines = text[: text.rfind("\n") + 1]
    if columns := _complete_columns(complete_lines) or _plain_columns(complete_lines):
        return columns
    try:
        lines = list(csv.reader(io.StringIO(complete_lines)))
    except csv.Error as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not lines:
        raise RunError(f"{path} has no header line", expected="a CSV file written by optlab")
    header, *rows = lines
    columns = {name: [] for name in header}
    if len(columns) < len(header):
        raise RunError(f"{path} has a duplicate column", expected="a CSV file written by optlab")
    if len(columns) > _MAX_COLUMNS:
        raise RunError(f"{path} has {len(columns):,} columns", expected=f"at most {_MAX_COLUMNS:,}")
    for number, cells in enumerate(rows, start=2):
        if len(cells) != len(header):
            raise RunError(f"{len(cells)} cells where the header has {len(header)}", where=f"{path}:{number}")
        for name, cell in zip(header, cells, strict=True):
            try:
                columns[name].append(float(cell) if cell else None)
            except ValueError as error:
                raise RunError(
                    f"{cell[:40]!r} is not a number", key=name[:80], where=f"{path}:{number}"
                ) from error
    return columns


def _complete_columns(text: str) -> dict[str, list[float | None]]:
    """Return the columns of a long CSV of numbers without empty cells; empty if the text is anything else.

    This is twice as fast as `_plain_columns`.
    """
    header, _, rows = text.partition("\n")
    names = header.split(",")
    if len(text) < _LONG_TABLE or not 1 < len(set(names)) == len(names) <= _MAX_COLUMNS or '"' in header:
        return {}
    import numpy as np  # not for the short tables of most runs, so that `optlab runs` starts quickly

    with suppress(ValueError):
        cells = np.loadtxt(io.StringIO(rows), delimiter=",", comments=None, ndmin=2)
        if cells.shape == (rows.count("\n"), len(names)) and "\r" not in text:  # no line was skipped
            return dict(zip(names, cells.T.tolist(), strict=True))
    return {}


def _plain_columns(text: str) -> dict[str, list[float | None]]:
    """Return the columns of a CSV of numbers without quotes; empty if the text is anything else.

    This is three times as fast as reading row by row, which locates errors.
    """
    lines = text.split("\n")[:-1]
    header = lines[0].split(",") if lines else []
    names = len(set(header))
    commas = {line.count(",") for line in lines}
    if '"' in text or "\r" in text or commas != {names - 1} or not 1 < names <= _MAX_COLUMNS:
        return {}
    cells = ",".join(lines[1:]).split(",") if len(lines) > 1 else []
    columns: dict[str, list[float | None]] = {}
    with suppress(ValueError):
        for number, name in enumerate(header):
            column = cells[number::names]
            columns[name] = (
                [float(cell) if cell else None for cell in column]
                if "" in column
                else list(map(float, column))
            )
        return columns
    return {}


def _refuse_foreign(path: Path, content: bytes) -> None:
    """Raise RunError, before parsing, for content with NUL bytes or with a too long header."""
    header = content.find(b"\n", 0, _MAX_HEADER_BYTES)
    if header < 0 and len(content) >= _MAX_HEADER_BYTES:
        raise RunError(f"{path} has a header of more than {_MAX_HEADER_BYTES:,} bytes")
    if b"\0" in content:
        raise RunError(f"{path} is damaged: it has NUL bytes")
