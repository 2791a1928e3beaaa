"""The verb `landscape`: its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli.options import (
    LOADING,
    AsJson,
    DescentOptions,
    LandscapeFiles,
)
from trainer.console import waiting


def landscape(
    problem: Annotated[
        str,
        typer.Argument(
            help="rosenbrock, beale, himmelblau, rastrigin, booth, three_hump_camel or quadratic."
        ),
    ],
    *,
    descent: DescentOptions,
    files: LandscapeFiles,
    as_json: AsJson = False,
) -> None:
    """Draw the paths of optimizers on a surface of two parameters: a contour figure and an animated GIF.

    The learning rates are tuned with the same budget for each optimizer; the figure's title states it.

    Examples:

        optlab landscape rosenbrock --optimizers SGD,Adam,RMSprop

        optlab landscape beale --optimizers SGD:momentum=0.9,Adam --start 1,1.5 --steps 500

        optlab landscape quadratic --lr 0.01 -o slides/quadratic.svg --no-gif
    """
    with waiting(LOADING):
        from trainer.cli.commands import landscape as command

    command.landscape(problem, descent, files, as_json=as_json)
