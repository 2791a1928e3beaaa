"""The verb `prepare`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
)
from trainer.console import waiting


def prepare(
    name: Annotated[str, typer.Argument(help="Name of a data set.", autocompletion=completion.datasets)],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of the data set: root=DIR split=letters"),
    ] = None,
) -> None:
    """Download a data set and check it, so that later runs need no network.

    The files are stored in `root`, else in OPTLAB_DATA, else in your cache directory. Data sets that are slow
    to decode are also stored decoded, in OPTLAB_CACHE or your cache directory.

    Examples:

        optlab prepare mnist

        optlab prepare emnist split=letters root=/data
    """
    with waiting(LOADING):
        from trainer.cli.commands import prepare as command

    command.prepare(name, options or [])
