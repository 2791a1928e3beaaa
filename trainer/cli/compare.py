"""The verb `compare` and its options; what it does is in `comparison`, imported when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run directories, folders of runs (a sweep's), or globs.", autocompletion=completion.run_dirs
        ),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Group by this key alone, as optimizer.name; may be given several times."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X", help="Measure the time to this value, as val_accuracy=0.95; several times."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Result to test and to compare settings by, as val_loss; default: test, else validation.",
            metavar="RESULT",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP", help="Compare all groups with this one: fewer pairs, narrower intervals."
        ),
    ] = None,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap", help="Bootstrap paired intervals, which cover less than they say at few seeds."
        ),
    ] = False,
    confidence: Annotated[
        float, typer.Option(help="Of each group's interval, and of all intervals of differences together.")
    ] = 0.95,
    x: Annotated[str, typer.Option("--x", help="step, epoch, samples or seconds.")] = "step",
    scale: Annotated[
        str | None,
        typer.Option(help="semilogy, semilogx, linear or loglog; default: semilogy for losses."),
    ] = None,
    centre: Annotated[str, typer.Option(help="mean or median.")] = "mean",
    band: Annotated[str, typer.Option(help="min-max, std, quantiles, t, bootstrap or none.")] = "min-max",
    smooth: Annotated[bool, typer.Option(help="Smooth minibatch losses.")] = True,
    multiples: Annotated[
        bool | None,
        typer.Option("--multiples/--overlay", help="One panel per group; default: above 7."),
    ] = None,
    within: Annotated[
        float, typer.Option(metavar="PERCENT", help="How far from the best counts as good, for sensitivity.")
    ] = 5.0,
    random: Annotated[
        bool, typer.Option("--random", help="These runs are a random search: draw its budget curve.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A folder for all figures and tables, or one file: png svg pdf, csv md tex json.",
        ),
    ] = None,
    figure: Annotated[
        str | None, typer.Option(help="Which figure goes into the one file, as val_loss.", metavar="NAME")
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg or pdf, in a folder; several times.")
    ] = None,
    style: Annotated[str, typer.Option(help="screen, slides, paper or print (grey).")] = "screen",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Figure size in inches, as 7x4.")] = None,
    table: Annotated[str, typer.Option(help="text, markdown, csv, latex or json, on stdout.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Compare groups of runs with uncertainty: table, tests, figures.

    Runs that are alike but for the seed make a group, named by what differs. Runs of equal seed are paired.

    Examples:

        optlab compare runs/*

        optlab compare runs/sgd runs/adam --target val_accuracy=0.95 -o figures

        optlab compare runs --by optimizer.name --x seconds -o adam.pdf --figure val_accuracy --style paper

        optlab compare runs/lr_sweep --table latex > table.tex
    """  # fmt: skip
    from trainer.cli import comparison

    comparison.compare(
        runs, output=output, figure=figure, formats=formats or ["png"], size=size, table=table,
        as_json=as_json, x=x, scale=scale, centre=centre, band=band, within=within, by=by or [],
        targets=target or [], metric=metric, against=against, bootstrap=bootstrap, confidence=confidence,
        random_search=random, smooth=smooth, multiples=multiples, style=style,
    )  # fmt: skip
