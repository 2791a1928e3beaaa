"""Implementation of `optlab report`: compare runs and write the page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import console
from trainer.cli.options import AnalysisOptions
from trainer.compare import Comparison, compare_runs
from trainer.compare.pairwise_tests import heading
from trainer.errors import ConfigError
from trainer.report import render_page, report_contents
from trainer.runs import rundir
from trainer.suites.challenge_result import challenge_in, compare_challenge


def report(runs: Sequence[str], output: Path, title: str, analysis: AnalysisOptions) -> None:
    """Write the report of runs to a file and print its path."""
    if output.suffix.lower() not in (".html", ".htm") or not output.parent.is_dir():
        raise ConfigError(
            f"cannot write a report to {output}",
            key="--output",
            expected="a file in an existing folder, ending in .html",
        )
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    options = analysis.arguments()
    challenge = None
    if len(runs) == 1 and not options["by"] and not options["against"]:
        challenge = challenge_in(Path(runs[0]))
    with console.waiting("Comparing the runs"):
        if challenge is None:
            comparison = compare_runs(list(runs), **options)
            contents = report_contents(comparison, title=title, command=command)
        else:
            comparison, contents = _of_challenge(Path(runs[0]), *challenge, options, title, command)
    with console.waiting("Writing the report"):
        rundir.write_atomically(output, render_page(contents))
    for note in comparison.notes:
        console.print_note(f"note: {note}")
    console.print_text(console.one_line(str(output)))


def _of_challenge(
    folder: Path,
    optimizer: str,
    problems: Sequence[str],
    options: Mapping[str, Any],
    title: str,
    command: str,
) -> tuple[Comparison, dict[str, Any]]:
    """Return the comparison of a challenge and the contents of its page, which starts with the verdicts."""
    result = compare_challenge(folder, optimizer, problems, **options)
    title = title or f"Challenge of {optimizer} on {', '.join(problems)}"
    differences = result.comparison.differences
    lines = [*result.lines, *([heading(differences)] if len(differences) else [])]
    contents = report_contents(result.comparison, title=title, conclusions=lines, command=command)
    return result.comparison, contents
