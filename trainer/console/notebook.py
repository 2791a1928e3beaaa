"""The progress of a run in a notebook: one bar that is updated in place."""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Sequence
from typing import Any, Self

from trainer.console.output import REDRAW_SECONDS
from trainer.console.training import TrainingProgress
from trainer.metrics import Metric
from trainer.records import EvalRecord, StepRecord


class NotebookProgress(TrainingProgress):
    """Shows a bar with the latest values in the output of a notebook's cell."""

    def __init__(self) -> None:
        """Show nothing yet."""
        super().__init__()
        self._display: Any = importlib.import_module("IPython.display")
        self._handle: Any = None
        self._title = ""
        self._steps: int | None = None
        self._seconds: float | None = None
        self._values: dict[str, float | None] = {}
        self._last = 0.0

    def __enter__(self) -> Self:
        """Show nothing; `start` shows the bar."""
        return self

    def start(
        self,
        title: str,
        total_steps: int | None,
        steps_per_epoch: float,
        seconds_budget: float | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Show the bar; see `TrainingProgress.start`."""
        self._title, self._steps, self._seconds = title, total_steps, seconds_budget
        self._handle = self._display.display(self._bar_html(0.0, "preparing"), display_id=True)

    def update(self, record: StepRecord | EvalRecord) -> None:
        """Show a new record."""
        self._values |= record.values
        done = [record.step / self._steps] if self._steps else []
        done += [record.train_seconds / self._seconds] if self._seconds else []
        share = max(done, default=0.0)
        if isinstance(record, EvalRecord) or time.monotonic() - self._last >= REDRAW_SECONDS:
            self._last = time.monotonic()
            shown = [
                f"{name} {value:.4g}"
                for name, value in self._values.items()
                if value is not None and not name.startswith(("lr", "grad_norm", "group."))
            ]
            text = f"epoch {record.epoch:.4g}, step {record.step:,}: {', '.join(shown)}"
            self._handle.update(self._bar_html(share, text))

    def _bar_html(self, share: float, text: str) -> Any:
        bar = f'<progress max="1" value="{min(share, 1.0):.4f}"></progress> {100 * min(share, 1.0):.0f} %'
        return self._display.HTML(f"<b>{html.escape(self._title)}</b><br>{bar} {html.escape(text)}")
