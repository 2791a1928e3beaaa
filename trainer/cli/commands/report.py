"""Implementation of `optlab report`: compare runs and write the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import console
from trainer.cli.options import AnalysisOptions
from trainer.compare import compare_runs
from trainer.errors import ConfigError
from trainer.report import render_page, report_contents
from trainer.runs import rundir


def report(runs: Sequence[str], output: Path, title: str, analysis: AnalysisOptions) -> None:
    """Write the report of runs to a file and print its path."""
    if output.suffix.lower() not in (".html", ".htm") or not output.parent.is_dir():
        raise ConfigError(
            f"cannot write a report to {output}",
            key="--output",
            expected="a file in an existing folder, ending in .html",
        )
    with console.waiting("Comparing the runs"):
        comparison = compare_runs(list(runs), **analysis.arguments())
    with console.waiting("Writing the report"):
        rundir.write_atomically(output, render_page(report_contents(comparison, title=title)))
    for note in comparison.notes:
        console.print_note(f"note: {note}")
    console.print_text(console.one_line(str(output)))
