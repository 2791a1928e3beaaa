"""The verb `lessons`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import RUNS, AsJson, FigureStyleName, RunsFolder


def lessons(
    numbers: Annotated[
        list[int] | None, typer.Argument(help="Numbers of lessons (default: all).", metavar="[N]...")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Use scikit-learn's digits instead of MNIST: about two minutes for all."
        ),
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the lessons.")] = False,
    runs: RunsFolder = RUNS,
    cifar_npz: Annotated[
        Path | None,
        typer.Option(help="CIFAR-10 images for lesson 13 (default: download CIFAR-10).", metavar="FILE"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs to train at a time (default: one per core).", min=1)
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Format of the figures: png, svg or pdf.")
    ] = "png",
    style: FigureStyleName = "screen",
    force: Annotated[bool, typer.Option("--force", help="Train finished runs again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train and draw fifteen small lessons on optimizers, from the learning rate to full batches.

    Runs and figures are written to `runs/lessons`, those of --quick to `runs/lessons-quick`. If the command
    was interrupted, rerun it: finished runs are kept. Without --quick the lessons train on MNIST, lesson 13
    on CIFAR-10.

    Examples:

        optlab lessons --list

        optlab lessons 1 4 --quick
    """
    from trainer.cli.commands import lessons as command

    if show_list:
        command.list_lessons(numbers or [], as_json=as_json)
        return
    folder = runs / ("lessons-quick" if quick else "lessons")
    raise typer.Exit(
        command.train_lessons(
            numbers or [],
            folder,
            quick=quick,
            cifar_npz=cifar_npz,
            jobs=jobs,
            force=force,
            file_format=file_format,
            style=style,
            as_json=as_json,
        )
    )
