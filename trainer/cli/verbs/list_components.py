"""The verb `list`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli.options import (
    LOADING,
    AsJson,
)
from trainer.console import waiting


def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(help="dataset, augmentation, model, init, loss, metric, optimizer or scheduler."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the components that a config can use.

    Examples:

        optlab list

        optlab list optimizer
    """
    with waiting(LOADING):
        from trainer.cli.commands import list_components as command

    command.list_components(kind, as_json=as_json)
