"""The verb `compare` and its options. The implementation is in `comparison`, imported when called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.console import waiting


@dataclass(frozen=True)
class AnalysisOptions:
    """How runs are grouped and tested."""

    by: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Group by this key only, e.g. optimizer.name. Can be repeated."),
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Report the time to reach this value, e.g. val_accuracy=0.95. Can be repeated.",
        ),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option(
            help="Result to compare and rank settings by, e.g. val_loss (default: test, else validation).",
            metavar="RESULT",
        ),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP", help="Compare all groups with this one: fewer pairs, narrower intervals."
        ),
    ] = None
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="Use bootstrap intervals for paired differences. With few seeds their coverage is too low.",
        ),
    ] = False
    confidence: Annotated[
        float, typer.Option(help="Level of each group's interval; joint level of all difference intervals.")
    ] = 0.95


@dataclass(frozen=True)
class LineOptions:
    """How the curves of the groups are drawn."""

    x: Annotated[
        str, typer.Option("--x", help="Quantity on the x axis: step, epoch, samples or seconds.")
    ] = "step"
    scale: Annotated[
        str | None,
        typer.Option(
            help="Axis scales: semilogy, semilogx, linear or loglog (default: semilogy for losses)."
        ),
    ] = None
    centre: Annotated[str, typer.Option(help="Line of each group: mean or median.")] = "mean"
    band: Annotated[
        str, typer.Option(help="Band around the line: min-max, std, quantiles, t, bootstrap or none.")
    ] = "min-max"
    smooth: Annotated[bool, typer.Option(help="Smooth minibatch losses.")] = True
    multiples: Annotated[
        bool | None,
        typer.Option("--multiples/--overlay", help="One panel per group (default: for more than 7 groups)."),
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """How the settings of a search are compared."""

    within: Annotated[
        float,
        typer.Option(
            metavar="PERCENT", help="Sensitivity: a setting within this percentage of the best is good."
        ),
    ] = 5.0
    random: Annotated[
        bool, typer.Option("--random", help="Treat the runs as a random search and draw its budget curve.")
    ] = False


@dataclass(frozen=True)
class FigureFiles:
    """Where figures are written, and their format."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A folder for all figures and tables, or one file: png svg pdf, csv md tex json.",
        ),
    ] = None
    figure: Annotated[
        str | None, typer.Option(help="The figure to write to a single file, e.g. val_loss.", metavar="NAME")
    ] = None
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Format of the figures in a folder: png, svg or pdf. Can be repeated."),
    ] = None
    style: Annotated[str, typer.Option(help="Figure style: screen, slides, paper or print (grey).")] = (
        "screen"
    )
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Figure size in inches, e.g. 7x4.")] = None


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

    Runs that differ only in the seed form a group. A group is named by the keys in which the groups differ.
    Runs with the same seed are paired.

    Examples:

        optlab compare runs/*

        optlab compare runs/sgd runs/adam --target val_accuracy=0.95 -o figures

        optlab compare runs --by optimizer.name --x seconds -o adam.pdf --figure val_accuracy --style paper

        optlab compare runs/lr_sweep --table latex > table.tex
    """
    with waiting("Loading the statistics"):
        from trainer.cli import comparison

    comparison.compare(runs, analysis, lines, search, files, table=table, as_json=as_json)
