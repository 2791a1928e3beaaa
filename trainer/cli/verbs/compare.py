"""The verb `compare`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import AnalysisOptions, FigureFiles, LineOptions, SearchOptions
from trainer.console import waiting


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run directories, folders of runs (e.g. of a sweep), or globs.",
            autocompletion=completion.run_dirs,
        ),
    ],
    *,
    analysis: AnalysisOptions,
    lines: LineOptions,
    search: SearchOptions,
    files: FigureFiles,
    table: Annotated[str, typer.Option(help="Table on stdout: text, markdown, csv, latex or json.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Compare groups of runs: a table with intervals, paired tests, figures.

    Runs that differ only in the seed form a group. A group is named by the keys in which the groups differ,
    for example lr=0.1 and lr=0.01. Runs with the same seed are paired.

    Examples:

        optlab compare runs/*

        optlab compare runs/sgd runs/adam --target val_accuracy=0.95 -o figures

        optlab compare runs --by optimizer.name --x seconds -o adam.pdf --figure val_accuracy --style paper

        optlab compare runs/lr_sweep --table latex > table.tex
    """
    with waiting("Loading the statistics"):
        from trainer.cli.commands import compare as command

    command.compare(runs, analysis, lines, search, files, table=table, as_json=as_json)
