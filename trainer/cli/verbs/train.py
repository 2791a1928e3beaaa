"""The verb `train`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli.options import (
    LOADING,
    ConfigFile,
    ExistingRun,
    OutputOptions,
    Overrides,
    RunFolder,
)
from trainer.console import waiting


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    folder: RunFolder,
    existing: ExistingRun,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config, parameter groups, steps and a time estimate.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Train one experiment and write a run directory.

    Exit codes: 0 done, 1 failed, 2 invalid config or usage, 3 diverged, 130 interrupted, 143 terminated,
    129 terminal closed.

    Examples:

        optlab train quickstart

        optlab train sgd_momentum optimizer.lr=0.1 train.epochs=1 seed=3

        for lr in 1 .1 .01; do optlab train sgd optimizer.lr=$lr --skip-existing; done
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.cli.commands import train as command

    raise typer.Exit(command.train(config, overrides or [], folder, existing, output, dry_run=dry_run))
