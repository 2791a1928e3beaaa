"""The verb `runs`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import (
    RUNS,
    AsJson,
    RunsFolder,
)


def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders to search (default: the directory of all runs).")
    ] = None,
    runs: RunsFolder = RUNS,
    sort: Annotated[
        str, typer.Option(help="Column to sort by; prefix it with - for descending.", metavar="COLUMN")
    ] = "run",
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all columns and whole paths, also on a narrow terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs with their status and results.

    Examples:

        optlab runs

        optlab runs runs/sgd --sort=-val_accuracy

        optlab runs --json | jq '.[] | select(.status == "diverged") | .run'
    """
    from trainer.cli.commands import runs as command

    command.list_runs(folders or [runs], sort=sort, wide=wide, as_json=as_json)
