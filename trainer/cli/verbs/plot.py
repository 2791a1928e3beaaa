"""The verb `plot`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
)
from trainer.console import waiting


def plot(
    run: Annotated[list[Path], typer.Argument(help="Run directories.", autocompletion=completion.run_dirs)],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg or pdf. Can be repeated.")
    ] = None,
) -> None:
    """Redraw the figures of runs from their CSV files.

    Examples:

        optlab plot runs/quickstart/seed=0

        optlab plot runs/quickstart/seed=0 --format svg --format pdf
    """
    with waiting(LOADING):
        from trainer.cli.commands import plot as command

    command.plot(run, formats or ["png"])
