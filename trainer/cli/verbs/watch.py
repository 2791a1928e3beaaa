"""The verb `watch`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.console import waiting


def watch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run directories, folders of runs (e.g. of a sweep), or globs.",
            show_default="OPTLAB_RUNS, else runs",
            autocompletion=completion.run_dirs,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's own opens it to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = any free one.", min=0, max=65535)] = 0,
) -> None:
    """Show runs and sweeps in the browser while they train, until Ctrl-C.

    Prints the address of the page. Only reads files: it can be started and stopped at any time.

    Examples:

        optlab watch

        optlab watch runs/optimizers --port 8000
    """
    with waiting("Loading the page"):
        from trainer.cli.commands import watch as command

    command.watch(runs or [], host, port)
