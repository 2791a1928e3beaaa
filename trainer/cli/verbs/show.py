"""The verb `show`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
    AsJson,
)
from trainer.console import waiting


def show(
    kind: Annotated[
        str,
        typer.Argument(
            help="dataset, augmentation, model, init, loss, metric, optimizer, scheduler or tracker."
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(help="A component of this kind, or file.py:Thing.", autocompletion=completion.names),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of a model, for its table of layers."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one sample, for the table of layers.", metavar="C,H,W"),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            help="Number of classes, for the table of layers. Default: 10, of an objective 1.", min=1
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a component's options; for a model also its layers, output shapes and parameters.

    Examples:

        optlab show optimizer AdamW

        optlab show model cnn

        optlab show model mlp hidden=[100,100] --input 3,32,32
    """
    with waiting(LOADING):
        from trainer.cli.commands import show as command

    command.show(kind, name, options or [], shape=shape, classes=classes, as_json=as_json)
