"""The verb `schema`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import (
    LOADING,
)
from trainer.console import waiting


def schema(
    sweep: Annotated[bool, typer.Option("--sweep", help="Print the schema of sweep files.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: stdout).", metavar="FILE"),
    ] = None,
) -> None:
    """Print the JSON Schema of configs, which editors use for completion and checks.

    Add `# yaml-language-server: $schema=optlab.schema.json` as the first line of a config, or see
    docs/editors.md.

    Examples:

        optlab schema -o optlab.schema.json

        optlab schema --sweep -o optlab.sweep.schema.json
    """
    with waiting(LOADING):
        from trainer.cli.commands import schema as command

    command.schema(output, sweep=sweep)
