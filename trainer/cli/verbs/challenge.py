"""The verb `challenge`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import LOADING, OutputOptions
from trainer.console import waiting


@dataclass(frozen=True)
class ChallengeOptions:
    """The suite, the search space, the budget and the output of a challenge."""

    suite: Annotated[
        str, typer.Option(help="Name of a packaged suite, or a sweep file with problems.", metavar="SUITE")
    ] = "tiny"
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="An axis: lr=1e-4..1, or momentum=0,0.9 (default: the learning rates of the suite). "
            "Can be repeated.",
            metavar="KEY=VALUES",
        ),
    ] = None
    trials: Annotated[
        int | None, typer.Option(help="Settings to try (default: as many as each baseline).", min=1)
    ] = None
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for the best setting (default: all of the suite).", min=2)
    ] = None
    problems: Annotated[
        str | None, typer.Option(help="Problems of the suite (default: all).", metavar="NAME,NAME")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder (default: runs/SUITE-NAME).", metavar="DIR"),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="Name in tables and figures (default: the name of the class).")
    ] = None
    train_baselines: Annotated[
        bool,
        typer.Option(
            "--train-baselines", help="Train the baselines here instead of using the stored ones; takes long."
        ),
    ] = False
    workers: Annotated[int | None, typer.Option(help="Worker processes (default: one per core).", min=1)] = (
        None
    )
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the search space, the budget and a time estimate.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite runs in the folder that have another config or code.")
    ] = False


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
        from trainer.cli.commands import challenge as command

    raise typer.Exit(command.challenge(optimizer, options, output))
