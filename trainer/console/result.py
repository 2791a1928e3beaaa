"""The result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from trainer.console.formatting import format_cell, format_rate, format_seconds
from trainer.console.output import print_pairs
from trainer.metrics import Metric, find
from trainer.records import RunResult


def print_result(
    result: RunResult,
    run_dir: Path,
    metrics: Sequence[Metric] = (),
    *,
    figures: Path | None = None,
    file: TextIO | None = None,
) -> None:
    """Print the result of a run: the last, best and test measurements, the cost, the directories.

    Args:
        result: the result.
        run_dir: the run directory.
        metrics: the metrics of the run, in addition to the built-in ones.
        figures: the folder of its figures; None = there are none.
        file: output stream; default: stdout.
    """
    pairs: dict[str, Any] = {
        "status": result.status + (f": {result.message}" if result.message else ""),
        "trained": f"{result.epochs:.4g} epochs, {_count(result.steps, 'step')} in "
        f"{format_seconds(result.train_seconds)} of training, {format_seconds(result.total_seconds)} in all",
    }
    if result.steps_per_second is not None and result.samples_per_second is not None:
        steps, samples = format_rate(result.steps_per_second), format_rate(result.samples_per_second)
        pairs["speed"] = f"{steps} steps/s, {samples} samples/s"
    if result.final:
        pairs["final"] = _measurements(result.final.values, metrics)
    if result.best:
        chosen = (
            f" (epoch {result.best.epoch:.4g}, chosen by {result.best_metric})" if result.best_metric else ""
        )
        pairs["best"] = _measurements(result.best.values, metrics) + chosen
    if result.test:
        numbers = {
            key: value for key, value in result.test.items() if not isinstance(value, str) and key != "step"
        }
        pairs["test"] = _measurements(numbers, metrics)
        if checkpoint := result.test.get("checkpoint"):
            seen = "; not unbiased: also used for validation" if result.test.get("used_for") else ""
            pairs["test"] += f" (at the {checkpoint} checkpoint{seen})"
    pairs["run"] = str(run_dir)
    if figures:
        pairs["figures"] = _figures_in(figures)
    print_pairs("", pairs, file=file)


def _figures_in(folder: Path) -> str:
    """Return the path of the loss figure and the number of the others."""
    files = sorted(folder.iterdir())
    loss = next((file for file in files if file.stem == "loss"), None)
    if loss is None or len(files) == 1:
        return str(loss or folder)
    return f"{loss} and {len(files) - 1} more"


def _measurements(values: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {format_cell(value, find(key, metrics).spec or '.4g')}"
        for key, value in values.items()
        if value is not None
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
