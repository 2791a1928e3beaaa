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

    A component of your own is named FILE.py:NAME, as in optimizer=my_optimizer.py:MyOptimizer.

    Examples:

        optlab train quickstart

        optlab train sgd_momentum optimizer.lr=0.1 train.epochs=1 seed=3

        optlab train quickstart optimizer=my_optimizer.py:MyOptimizer optimizer.lr=0.1

    To train with several values of a key, use `optlab sweep`.

    Exit codes: 0 done, 1 failed, 2 invalid config or usage, 3 diverged, 130 interrupted, 143 terminated,
    129 terminal closed.
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.cli.commands import train as command

    raise typer.Exit(command.train(config, overrides or [], folder, existing, output, dry_run=dry_run))
