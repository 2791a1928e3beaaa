"""The verb `bench`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli.options import (
    LOADING,
    AsJson,
)
from trainer.console import waiting


def bench(
    root: Annotated[
        Path | None, typer.Option(help="Folder with MNIST (default: OPTLAB_DATA).", metavar="DIR")
    ] = None,
    model: Annotated[
        Literal["mlp", "tiny", "cnn", "transformer"],
        typer.Option(
            help="mlp: 784-200-10 on MNIST; tiny: 64-64-10 on 8x8 noise; cnn: three 5x5 convolutions on "
            "32x32x3 noise; transformer: 4 layers of width 128 on windows of 64 random characters."
        ),
    ] = "mlp",
    optimizer: Annotated[Literal["SGD", "Adam", "AdamW"], typer.Option(help="SGD has momentum 0.9.")] = "SGD",
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1, max=2000)] = 64,
    steps: Annotated[int, typer.Option(help="Steps per loop and round, at most one epoch.", min=30)] = 900,
    rounds: Annotated[int, typer.Option(help="Measured rounds, after one warm-up round.", min=1)] = 9,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Cores and torch threads of every loop (default: all cores, threads as measured).", min=1
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw a figure: png, svg or pdf.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure optlab's engines and other training loops on this machine, with the same network and data.

    The loops are interleaved: each runs once per round. The table shows medians. JAX, Keras and Lightning are
    included if installed (pip install optlab[bench]). Run nothing else at the same time.

    Examples:

        optlab bench -o bench.png

        optlab bench --batch-size 1 --threads 1 --json

        optlab bench --model tiny --batch-size 32 --threads 1

        optlab bench --model cnn --steps 60

        optlab bench --model transformer --batch-size 12 --optimizer AdamW --steps 60
    """
    with waiting(LOADING):
        from trainer.bench.task import Setting
        from trainer.cli.commands import bench as command

    setting = Setting(model, optimizer, batch_size, steps, rounds, threads)
    command.bench(root, setting, output=output, as_json=as_json)
