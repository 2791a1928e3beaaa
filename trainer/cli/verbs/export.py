"""The verb `export`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import LOADING
from trainer.console import waiting


def export(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run directories, folders of runs (e.g. of a sweep), or globs.",
            autocompletion=completion.run_dirs,
        ),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="TRACKER",
            help="tensorboard, mlflow, wandb, trackio, or your own as file.py:function. Can be repeated.",
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="An option of the tracker (optlab show tracker mlflow). Can be repeated.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep exporting while runs train, until Ctrl-C.")
    ] = False,
) -> None:
    """Send runs to TensorBoard, MLflow, Weights & Biases or Trackio.

    Reads the run directories only. Exporting again, or after a run was resumed, leaves no duplicate points.

    Examples:

        optlab export runs/quickstart --to tensorboard

        optlab export runs --to mlflow --option uri=sqlite:///mlflow.db --follow
    """
    with waiting(LOADING):
        from trainer.cli.commands import export as command

    command.export(runs, to, options or [], follow=follow)
