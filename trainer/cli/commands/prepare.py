"""Implementation of `optlab prepare`: download and check a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer import catalog, console
from trainer.cli.commands.components import component_options
from trainer.config import packaged
from trainer.config.load import read
from trainer.errors import ConfigError, unknown_name


def prepare(name: str, options: Sequence[str]) -> None:
    """Download and check a data set; cache it decoded if decoding takes time."""
    if name not in catalog.DATASETS:
        raise _not_a_data_set(name)
    with console.waiting(f"Preparing {name}"):
        dataset = catalog.DATASETS[name](**component_options("dataset", name, options))
    pairs = {
        "train": f"{len(dataset.train):,} samples",
        "test": f"{len(dataset.test):,} samples",
        "shape": "x".join(map(str, dataset.input_shape)),
        "task": dataset.task,
        "tokens" if dataset.task == "next_token" else "classes": f"{dataset.num_classes}"
        if dataset.class_names
        else f"none ({dataset.num_classes} real targets)",
        "sha256": dataset.digest,
    }
    console.print_pairs(f"{name} is ready", pairs)
    for note in dataset.notes:
        console.print_note(note)


def _not_a_data_set(name: str) -> ConfigError:
    """Return the error for an unknown name; a packaged config is named with its data set."""
    error = unknown_name("data set", name, list(catalog.DATASETS))
    if name not in packaged.names("config", "lesson"):
        return error
    data = read(Path(name)).tree.data["data"]["name"]
    return ConfigError(
        f"{name} is a config, not a data set",
        expected=error.problems[0].expected,
        fix=f"prepare the config's data set: optlab prepare {data}",
    )
