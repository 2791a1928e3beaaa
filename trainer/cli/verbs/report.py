"""The verb `report`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import AnalysisOptions
from trainer.console import waiting


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run directories, folders of runs (e.g. of a sweep), or globs.",
            autocompletion=completion.run_dirs,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", metavar="FILE")] = Path(
        "report.html"
    ),
    title: Annotated[
        str, typer.Option(help="Heading of the page (default: what the runs have in common).")
    ] = "",
    *,
    analysis: AnalysisOptions,
) -> None:
    """Write one HTML file with interactive figures, tables and conclusions of runs.

    The file contains all its data and requests nothing from a network, so that it can be mailed. Groups and
    tests are those of `optlab compare`.

    Examples:

        optlab report runs/quickstart

        optlab report runs/optimizers --target val_accuracy=0.95 -o optimizers.html
    """
    with waiting("Loading the statistics"):
        from trainer.cli.commands import report as command

    command.report(runs, output, title, analysis)
