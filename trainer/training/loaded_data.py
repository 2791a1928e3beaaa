"""Load and split the data set of a config. Runs with the same `data` section share it."""

from __future__ import annotations

from dataclasses import dataclass

from trainer import catalog
from trainer.config.load import Loaded
from trainer.config.models import (
    DataConfig,
)
from trainer.data.arrays import dataset_of
from trainer.data.check import check_dataset
from trainer.data.dataset import Dataset, Splits, split_dataset
from trainer.seeding import global_stream
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


def load_data(loaded: Loaded, *, download: bool = True) -> LoadedData:
    """Load the data set of a config and split it; raises the same errors as `build_experiment`."""
    data = loaded.config.data
    with located(loaded, "data"), global_stream("data", data.split_seed):
        dataset = _load_dataset(data, download=download)
        splits = split_dataset(
            dataset,
            val_size=data.val_size,
            val_from=data.val_from,
            split_seed=data.split_seed,
            limit=data.limit,
        )
    return LoadedData(dataset, splits)


def _load_dataset(data: DataConfig, *, download: bool) -> Dataset:
    options = catalog.arguments("dataset", data.name, data.options)
    if "download" in options:
        options["download"] = options["download"] and download
    builder = catalog.find("dataset", data.name)
    with user_code(data.name):
        dataset: Dataset = builder(**options)
    if data.name not in catalog.REGISTRIES["dataset"]:
        with user_code(data.name):
            dataset = dataset_of(dataset, where=data.name)
            check_dataset(dataset, data.name)
    return dataset
