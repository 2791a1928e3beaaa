"""The verb `validate`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli.options import (
    LOADING,
    AsJson,
    ConfigFile,
    Overrides,
)
from trainer.console import waiting


def validate(
    config: ConfigFile,
    overrides: Overrides = None,
    require_data: Annotated[
        bool, typer.Option("--data", help="Exit with an error if the data set is not on disk.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a config without training: names, options, shapes, parameter groups. Downloads nothing.

    If the data set is not on disk, the checks that need it are skipped, and a note says so.

    Python files and packages named in the config are printed, then imported, which executes them.

    Examples:

        optlab validate adam

        optlab validate adam optimizer.lr=-1
    """
    with waiting(LOADING):
        from trainer.cli.commands import validate as command

    command.validate(config, overrides or [], require_data=require_data, as_json=as_json)
