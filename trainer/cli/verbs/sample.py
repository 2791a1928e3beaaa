"""The verb `sample`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import completion
from trainer.cli.options import (
    LOADING,
)
from trainer.console import waiting


def sample(
    run: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.run_dirs)],
    prompt: Annotated[
        str, typer.Option(help="First characters of the text; default: the first one of the training text.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to add.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="Divisor of the logits, from 0; 0 = always the most probable token.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choices.")] = 0,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Execute the user code of a run from another user, host or path."),
    ] = False,
) -> None:
    """Print text of a language model, from the best checkpoint of a run.

    Examples:

        optlab sample runs/shakespeare_transformer/seed=0 --prompt ROMEO:

        optlab sample runs/shakespeare_transformer/seed=0 --tokens 1000 --temperature 0.5 --seed 1
    """
    with waiting(LOADING):
        from trainer.cli.commands import sample as command

    command.sample(run, prompt, tokens, temperature, seed, trust=trust)
