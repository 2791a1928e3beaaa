"""Load and split the data set of a config. Runs with the same `data` section share it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from trainer import catalog
from trainer.config.identity import code_at, texts_in
from trainer.config.load import Loaded
from trainer.config.models import Config, DataConfig
from trainer.config.paths import split_import_path
from trainer.data import user_parts
from trainer.data.arrays import IntegerTargets
from trainer.data.check import check_dataset
from trainer.data.dataset import Dataset, Splits, split_dataset
from trainer.errors import DataError
from trainer.losses import OF_REGRESSION
from trainer.seeding import global_stream
from trainer.tasks import REGRESSION
from trainer.training.locate import located
from trainer.user_code import user_code


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A data set and its splits, which runs with the same `data` section may share.

    Args:
        dataset: the whole data set.
        splits: its training, validation and test samples.
    """

    dataset: Dataset
    splits: Splits


def load_data(
    loaded: Loaded, *, download: bool = True, progress: user_parts.Progress | None = None
) -> LoadedData:
    """Load the data set of a config and split it; raises the same errors as `build_experiment`.

    Args:
        loaded: the config.
        download: whether a missing data set may be downloaded, if the config allows it.
        progress: called with (samples read, number of samples) while samples are read one by one.
    """
    data = loaded.config.data
    with located(loaded, "data"), global_stream("data", data.split_seed):
        dataset = _load_dataset(
            data, download=download, integer_targets=integer_targets(loaded.config), progress=progress
        )
        splits = split_dataset(
            dataset,
            val_size=data.val_size,
            val_from=data.val_from,
            split_seed=data.split_seed,
            limit=data.limit,
        )
    return LoadedData(dataset, splits)


def integer_targets(config: Config) -> IntegerTargets:
    """Return what integer targets are if no option of the data set states it."""
    is_regression = config.task == REGRESSION.name or (
        config.task is None and config.loss.name in OF_REGRESSION
    )
    return "real" if is_regression else "classes"


def _load_dataset(
    data: DataConfig,
    *,
    download: bool,
    integer_targets: IntegerTargets,
    progress: user_parts.Progress | None,
) -> Dataset:
    options = catalog.arguments("dataset", data.name, data.options)
    if "download" in options:
        options["download"] = options["download"] and download
    builder = catalog.find("dataset", data.name)
    if data.name in catalog.REGISTRIES["dataset"]:
        context = {"integer_targets": integer_targets, "progress": progress}
        wanted = inspect.signature(builder).parameters
        dataset: Dataset = builder(**options, **{key: context[key] for key in context if key in wanted})
        return dataset
    with user_code(data.name), _reported_at_name():
        code = code_at(data.name, *filter(split_import_path, texts_in(data.options)))
        identity = [data.name, repr(sorted(data.options.items())), *code.files.values()]
        dataset = user_parts.read_parts(
            user_parts.call(builder, options),
            where=data.name,
            seed=data.split_seed,
            identity=[*identity, repr(code.packages)],
            sources=[value for value in options.values() if isinstance(value, Path)],
            integer_targets=integer_targets,
            progress=progress,
        )
        check_dataset(dataset, data.name)
    return dataset


@contextmanager
def _reported_at_name() -> Iterator[None]:
    """Report errors in a user's arrays at the data set's name: they have no file, and the name has a line."""
    try:
        yield
    except DataError as error:
        problems = (
            replace(one, what=f"{one.where}: {one.what}", where="", key="name") if one.where else one
            for one in error.problems
        )
        raise type(error).of(problems) from error
