"""The verb `resume`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
    OutputOptions,
)
from trainer.console import waiting


def resume(
    run: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.run_dirs)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides that extend the run: train.epochs=20"),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Execute the user code of a run from another user, host or path."),
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Resume a run from its last checkpoint. The result equals that of an uninterrupted run, bit for bit.

    A larger `train.epochs` extends a finished run. Overrides that would change completed steps are refused.

    Examples:

        optlab resume runs/quickstart/seed=0

        optlab resume runs/quickstart/seed=0 train.epochs=40
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.cli.commands import resume as command

    raise typer.Exit(command.resume(run, overrides or [], output, trust=trust))
