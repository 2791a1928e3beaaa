"""The verb `challenge`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli.options import LOADING, ChallengeOptions, OutputOptions
from trainer.console import waiting


def challenge(
    optimizer: Annotated[
        str,
        typer.Argument(
            help="my_optimizer.py:MyOptimizer, package.module:Thing, a name of optlab list optimizer, or a "
            "YAML file with optimizer (and scheduler, axes)."
        ),
    ],
    *,
    options: ChallengeOptions,
    output: OutputOptions,
) -> None:
    """Compare one optimizer with the tuned baselines of a suite of problems.

    The optimizer is tuned with the budget of the baselines, trained again on their fresh seeds, and compared
    with their stored results. Pairs have the same data, initial weights and batches, which a digest proves.

    The folder gets verdict.json, verdicts.csv, a table for a paper (Markdown and LaTeX), and figures. Rerun
    the command after an interruption: finished runs are kept.

    Examples:

        optlab challenge my_optimizer.py:MyOptimizer

        optlab challenge my_optimizer.py:MyOptimizer --search lr=1e-4..1 --search momentum=0.8,0.9,0.99

        optlab challenge Adagrad --problems digits,text --dry-run

    Exit codes: 0 done, 2 invalid usage or missing data, 4 some runs failed, 130 interrupted.
    """
    with waiting(LOADING, quiet=output.quiet):
        from trainer.sweep import pool

        if not options.dry_run:
            pool.start_server()  # imports torch at the same time as this process
        from trainer.cli.commands import challenge as command

    raise typer.Exit(command.challenge(optimizer, options, output))
