"""Data sets from tables: a test split drawn from the rows, and the unit of real targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainer.data.dataset import Dataset, Split, make_dataset
from trainer.errors import DataError
from trainer.seeding import generator

TestSize = Annotated[float, Field(gt=0, lt=1)]
TestSeed = Annotated[int, Field(ge=0, lt=2**63)]


def draw_test_rows(targets: Tensor, test_size: float = 0.2, seed: int = 0) -> Tensor:
    """Return bool [N]: whether a row is in the test split. The draw depends only on the arguments.

    The split is stratified: `test_size` of the rows of every class, rounded. One row of every class, or of
    the whole table for real targets, always remains for training.

    Args:
        targets: int64 [N], classes, or float [N, K], real targets.
        test_size: fraction of the rows, between 0 and 1.
        seed: seed of the draw.

    Raises:
        DataError: the test split is empty.
    """
    order = torch.randperm(len(targets), generator=generator("split", seed, 2))
    counts = [len(targets)]
    if not targets.is_floating_point():
        order = order[targets[order].argsort(stable=True)]
        counts = torch.bincount(targets).tolist()
    test = torch.zeros(len(targets), dtype=torch.bool)
    for rows in torch.split(order, counts):
        test[rows[: min(round(test_size * len(rows)), len(rows) - 1)]] = True
    if not bool(test.any()):
        raise DataError(
            f"test_size {test_size} of {len(targets):,} rows leaves an empty test split",
            key="test_size",
            fix="use a larger fraction, or a table with more rows",
        )
    return test


def table_dataset(
    features: Tensor,
    targets: Tensor,
    class_names: Sequence[str] | None,
    test: Tensor,
    *,
    standardize_target: bool = False,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return the data set of a table.

    Args:
        features: float32 [N, D].
        targets: int64 [N], classes, or float64 [N, 1], real targets.
        class_names: the names of the classes; None = real targets.
        test: bool [N], whether a row is in the test split.
        standardize_target: subtract the mean of the training rows' real targets, and divide by their standard
            deviation.
        notes: messages for the user.

    Raises:
        DataError: the real targets of all training rows are equal.
    """
    if class_names is None:
        if standardize_target:
            mean, std = targets[~test].mean(), targets[~test].std(correction=0)
            if not std > 1e-13 * mean.abs():  # as in `dataset_mean_std`: rounding errors of a constant
                raise DataError(
                    f"the targets of all {int((~test).sum()):,} training rows are {mean:.6g}",
                    key="target",
                    expected="targets with more than one value",
                )
            targets = (targets - mean) / std
            notes = [
                *notes,
                f"targets are (value - {mean:.6g}) / {std:.6g}, mean and standard deviation of the training "
                "rows; the mse of always predicting the mean is 1",
            ]
        targets = targets.float()
    rows = Split(features, targets)
    return make_dataset(
        rows.take((~test).nonzero().flatten()),
        rows.take(test.nonzero().flatten()),
        class_names,
        notes=notes,
    )
