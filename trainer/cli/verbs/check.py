"""The verb `check`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
    AsJson,
)
from trainer.console import waiting


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="FILE.PY:THING",
            help="A component of your file, or package.module:Thing.",
            autocompletion=completion.names,
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Options of the component, as lr=0.1; or config keys of the trial run, as data.name=wine.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="dataset, augmentation, model, init, loss, metric, optimizer, scheduler; default: its own."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a component of your own: it learns, is deterministic, resumes bit for bit, and more.

    The component is tried in short runs of a small network on handwritten digits. Every check prints whether
    it holds and what was seen; the exit code is 1 if one does not hold. `trainer.contract.checks` returns the
    same checks for your own tests.

    Examples:

        optlab check my_optimizer.py:MyOptimizer lr=0.01

        optlab check my_model.py:Net width=32 data.name=wine
    """
    with waiting(LOADING):
        from trainer.cli.commands import check as command

    command.check(name, options or [], kind=kind, as_json=as_json)
