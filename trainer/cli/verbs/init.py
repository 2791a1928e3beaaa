"""The verb `init`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import AsJson


def init(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder to write the files to.", metavar="[FOLDER]"),
    ] = Path(),
    show_list: Annotated[bool, typer.Option("--list", help="List the packaged configs instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write example configs with comments: a quick run, MNIST, a sweep, and an optimizer to edit.

    Existing files are never changed.

    The packaged configs can be used without writing them: `optlab train NAME`, `optlab sweep NAME`, or
    `base: optlab:NAME` in a config.

    Examples:

        optlab init experiments

        optlab init --list
    """
    from trainer.cli.commands import init as command

    if show_list:
        command.list_configs(as_json=as_json)
    else:
        command.write_configs(folder, as_json=as_json)
