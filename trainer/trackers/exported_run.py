"""What a tracker receives of a run, and which rows of it a tracker does not have yet."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, RunError

Columns = Mapping[str, Sequence[float | None]]
Values = dict[str, float]

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_POSITION = ("step", "samples", "grad_evals")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, without empty cells.

    Args:
        step: completed updates.
        seconds: seconds of training until then.
        values: the other values by column.
    """

    step: int
    seconds: float
    values: Values


@dataclass(frozen=True, slots=True)
class Changes:
    """What a tracker does not have yet.

    Args:
        from_start: the tracker has rows or settings that the run no longer has; remove its copy of the run.
        steps, epochs: the rows to send.
    """

    from_start: bool
    steps: Sequence[Row]
    epochs: Sequence[Row]


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run as its directory describes it.

    Args:
        id: random id of the run, 32 hexadecimal digits; a resumed run keeps it.
        name: as `quickstart/optimizer.lr=0.1,seed=0`.
        project: the name in its config.
        group: title that runs share if they differ only in the seed and in settings that change no result.
        tags: data, model, optimizer and seed.
        folder: the run directory.
        status: as `running` or `completed`.
        message: why it ended, or its error.
        started: start time in seconds since 1970.
        config, environment: config.yaml and environment.json.
        steps, epochs: steps.csv and epochs.csv by column.
        summary: summary.json; None if the run has not ended.
        figures: its figures as PNG.
    """

    id: str
    name: str
    project: str
    group: str
    tags: Mapping[str, str]
    folder: Path
    status: str
    message: str
    started: float
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    steps: Columns
    epochs: Columns
    summary: Mapping[str, Any] | None
    figures: Sequence[Path]

    def step_rows(self) -> list[Row]:
        """Return the rows of steps.csv."""
        return _rows(self.steps)

    def epoch_rows(self) -> list[Row]:
        """Return the rows of epochs.csv."""
        return _rows(self.epochs)

    def results(self) -> Values:
        """Return the numbers of the summary, as `test.accuracy`; empty if the run has not ended."""
        return {
            key: float(value)
            for key, value in flatten(self.summary or {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def settings(self) -> dict[str, Any]:
        """Return the config by dotted key."""
        return flatten(self.config)

    def mark(self) -> str:
        """Return a text that describes everything that the run has now; see `changes`."""
        rows = len(self.steps.get("step", ())), len(self.epochs.get("step", ()))
        end = [self.status, self.message, self.summary]
        return json.dumps({"rows": rows, "digest": self._digest(*rows), "end": _sha(end)})

    def changes(self, mark: str | None) -> Changes | None:
        """Return what was added to the run since `mark` was taken; None if nothing was.

        Args:
            mark: what a tracker stored after it had received the run; None = it has nothing of the run.
        """
        if mark == self.mark():
            return None
        try:
            steps, epochs = json.loads(mark or "")["rows"]
            known = json.loads(mark or "")["digest"] == self._digest(steps, epochs)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            return Changes(True, self.step_rows(), self.epoch_rows())
        return Changes(False, self.step_rows()[steps:], self.epoch_rows()[epochs:])

    def _digest(self, steps: int, epochs: int) -> str:
        """Return a digest of the config and of the first rows of the tables."""
        parts = [
            {name: list(cells[:count]) for name, cells in table.items()}
            for table, count in ((self.steps, steps), (self.epochs, epochs))
        ]
        return _sha([steps, epochs, self.config, *parts])


def _sha(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _rows(table: Columns) -> list[Row]:
    names = [name for name in table if name not in (*_POSITION, "train_seconds")]
    return [
        Row(
            int(step or 0),
            float(table["train_seconds"][number] or 0),
            {name: value for name in names if (value := table[name][number]) is not None},
        )
        for number, step in enumerate(table.get("step", ()))
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by dotted key; an empty one is a leaf."""
    return dict(_leaves(value, prefix))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = list(enumerate(value))
    if not items:
        yield prefix, value
    for key, item in items:
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))


def refuse_passwords(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if an option has a password: the config is written to the run directory."""
    for key, value in options.items():
        if isinstance(value, str) and _PASSWORD.search(value):
            raise ConfigError(
                f"{key} contains a password, which would be written to the run directory",
                key=key,
                expected="an address without a password",
                fix="give it in an environment variable, as MLFLOW_TRACKING_PASSWORD",
            )


def missing(package: str, extra: str) -> RunError:
    """Return the error for a tracker whose package is not installed."""
    return RunError(f"{package} is not installed", fix=f"pip install 'optlab[{extra}]'")
