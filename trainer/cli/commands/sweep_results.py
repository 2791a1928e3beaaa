"""Results of `optlab sweep`: one row per variant, and the comparison of its runs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.commands.compare import print_comparison
from trainer.cli.commands.sweep_training import PlannedSweep
from trainer.cli.options import OutputOptions
from trainer.compare import Comparison, compare_runs
from trainer.compare.names import short_texts
from trainer.compare.table import caption, render_table, with_half_width
from trainer.config.run_id import axis_value_name
from trainer.console import Column
from trainer.errors import FigureError, first_line
from trainer.metrics import find, leading, metric_name
from trainer.runs import rundir
from trainer.sweep.models import FINAL
from trainer.sweep.results import CONFIDENCE

COMPARISON = "comparison"
MAX_COMPARED_RUNS = 400
MAX_PRINTED_GROUPS = 12


def report(
    planned: Sequence[PlannedSweep],
    summaries: Sequence[dict[str, Any]],
    output: OutputOptions,
    *,
    with_problems: bool,
    compares: bool,
) -> None:
    """Print the results of the sweeps of a file; with `compares`, compare all their runs and draw figures.

    Args:
        planned: the sweeps.
        summaries: from `train_sweep`; fewer than sweeps if one of them was interrupted.
        output: how to print.
        with_problems: whether the file has several problems, whose sweeps share a folder.
        compares: whether to compare the runs.
    """
    root = planned[0].root.parent if with_problems else planned[0].root
    num_done = sum(summary["runs"]["done"] for summary in summaries)
    comparison: Comparison | None = None
    notes: list[str] = []
    if compares:
        with console.waiting("Comparing the runs", quiet=output.quiet):
            comparison, notes = _compare(root, planned, num_done)
    if output.as_json:
        parts = [
            {"sweep": str(plan.root)} | summary for plan, summary in zip(planned, summaries, strict=False)
        ]
        console.print_json({"sweep": str(root), "problems": parts} if with_problems else parts[0])
    else:
        with console.results_are_kept():
            for plan, summary in zip(planned, summaries, strict=False):
                _print_summary(summary, plan.root)
            if comparison and 1 < len(comparison.groups) <= MAX_PRINTED_GROUPS:
                console.print_text("")
                print_comparison(comparison)
    for note in notes:
        console.print_note(note)
    if num_done > 1 and not (output.quiet or output.as_json):
        console.print_note(
            "compare with other options:", command=shlex.join(["optlab", "compare", str(root)])
        )


def _compare(root: Path, planned: Sequence[PlannedSweep], runs: int) -> tuple[Comparison | None, list[str]]:
    """Write figures and a table of the sweep's runs in Markdown to its folder.

    Other runs in the same folder, of a config with the name of the sweep, are left out.

    Returns:
        The comparison, or None if there is none, and notes for the user.
    """
    if runs > MAX_COMPARED_RUNS:
        finals = " ".join(f"{plan.root}/{FINAL}" for plan in planned)
        return None, [f"{runs} runs are too many to compare; use: optlab compare {finals} -o FOLDER"]
    folder = root / COMPARISON
    notes = []
    try:
        paths = [
            path / name
            for plan in planned
            for path in (plan.root, plan.root / FINAL)
            for name in plan.sweep.variants
        ]
        comparison = compare_runs([path for path in paths if path.is_dir()])
        rundir.make_folder(folder)
        table = render_table(comparison.groups, comparison.targets, "markdown", comparison.grouping.metrics)
        rundir.write_atomically(folder / "table.md", table.rstrip() + "\n")
        comparison.save(folder, ["png"])
    except FigureError as error:
        notes.append(f"warning: {error}")
    except Exception as error:  # a failed comparison does not fail the sweep
        return None, [f"no comparison: {first_line(error)}"]
    notes += [f"note: {note}" for note in comparison.notes]
    return comparison, [*notes, f"figures and tables are in {folder}"]


def _print_summary(summary: Mapping[str, Any], root: Path) -> None:
    """Print one row per variant, the advice on values at an axis's edge, and the sweep's folder."""
    columns = [Column("variant"), Column("settings", "right"), Column("runs", "right"), Column("outcomes")]
    parts = summary["variants"]
    tested = find(leading(metric_name(key) for part in parts.values() for key in part["final"] or ()))
    columns += [Column("best"), Column("at"), Column(tested.heading("test")), Column("n", "right")]
    metric = (summary["objective"] or {}).get("metric")
    rows, advice = [], []
    for name, part in parts.items():
        best, final = part["best"], part["final"] or {}
        test_summary = final.get(f"test_{tested.name}")
        values = best["values"] if best else {}
        short = short_texts(values.values())
        at = {key.rpartition(".")[2]: _setting(value, short) for key, value in values.items()}
        rows.append(
            [
                name,
                part["settings"],
                part["runs"],
                ", ".join(f"{count} {status}" for status, count in part["statuses"].items()),
                f"{metric} {best[metric]:.4g}" if best else None,
                ", ".join(f"{key}={console.format_cell(value, '')}" for key, value in at.items()) or None,
                _mean_and_half_width(test_summary, final["n"], tested.scale) if test_summary else None,
                final["n"] if test_summary else None,
            ]
        )
        advice += [f"{name}: {text}" for text in part["edges"]]
    used = [i for i, column in enumerate(columns) if i < 4 or any(row[i] is not None for row in rows)]
    console.table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
    if any(row[6] is not None for row in rows):
        console.print_sentence(caption(CONFIDENCE, overhead=False))
    for text in advice:
        console.print_sentence(text)
    counts = summary["runs"]
    progress_text = f"{counts['done']} of {counts['planned']} runs, {counts['failed']} failed"
    console.print_text(f"{summary['status']}: {progress_text}; {root}")


def _setting(value: Any, short: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return axis_value_name(value)
    return short.get(value, value) if isinstance(value, str) else value


def _mean_and_half_width(test_summary: Mapping[str, Any], n: int, scale: float) -> str:
    """Return the scaled mean and half-width, with the count if not all `n` runs have a value."""
    half = (
        math.nan if test_summary["low"] is None else scale * (test_summary["high"] - test_summary["low"]) / 2
    )
    text = with_half_width(scale * test_summary["mean"], half)
    if len(test_summary["values"]) < n:
        return f"{text} ({len(test_summary['values'])} of {n})"
    return f"{text} (one seed)" if n == 1 else text
