"""Implementation of `optlab sample`: text of a language model."""

from __future__ import annotations

import math
from pathlib import Path

from trainer import console
from trainer.cli.commands.components import announce_code
from trainer.config.identity import components_in
from trainer.data.text import decode, encode
from trainer.errors import ConfigError
from trainer.models.sampling import sample_tokens
from trainer.runs import ownership, rundir
from trainer.runs.trained import load_trained
from trainer.seeding import generator
from trainer.tasks import NEXT_TOKEN
from trainer.training.building import RunSetup
from trainer.user_code import running


def sample(run: Path, prompt: str, tokens: int, temperature: float, seed: int, *, trust: bool) -> None:
    """Print the prompt and the text that the model of a run adds to it."""
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ConfigError(
            f"--temperature is {temperature}", where="command line", expected="a finite number from 0"
        )
    ownership.require_run(run)
    announce_code(*components_in(rundir.read_config(run)))
    folder = run.absolute()  # a component may change the working directory
    with console.waiting(f"Loading {run}"):
        setup = load_trained(folder, trust=trust)
    print_sample(setup, prompt, tokens, temperature, seed)


def print_sample(setup: RunSetup, prompt: str, tokens: int, temperature: float, seed: int) -> None:
    """Print text of the model of a run. Raise ConfigError if its tokens are not characters or bytes."""
    vocabulary, experiment = setup.vocabulary, setup.experiment
    if vocabulary is None or any(len(token) != 1 for token in vocabulary):
        task = setup.task.name
        raise ConfigError(
            f"{setup.config.name} is no model of characters or bytes"
            + ("" if task == NEXT_TOKEN.name else f": its task is {task}"),
            where="command line",
            expected=f"a run of the task {NEXT_TOKEN.name} with characters or bytes as tokens",
        )
    unit = setup.config.data.options.get("unit", "characters")
    windows = experiment.splits.train.inputs
    start = encode(prompt, vocabulary, unit) if prompt else windows[0, :1]
    model = experiment.model.eval()
    with running(setup.config.model_dump()), experiment.state.evaluation_weights(), experiment.autocast:
        drawn = sample_tokens(
            model,
            start.to(experiment.state.device),
            count=tokens,
            context=windows.shape[1],
            temperature=temperature,
            generator=generator("sample", seed),
            output=setup.config.model.output,
        )
    console.print_text(decode(drawn.tolist(), vocabulary, unit))
