"""Tables that scikit-learn contains: `diabetes`, `wine` and `breast_cancer`. No download.

Features are stored as published; `data.normalize: dataset` standardizes every column by the training split.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.dataset import Dataset
from trainer.data.tables import draw_test_rows, table_dataset

_FOLDER = "datasets/data"  # below scikit-learn's own folder


def diabetes(*, standardize_target: bool = True) -> Dataset:
    """Return 442 diabetes patients: 10 features, one real target, 354 rows to train and 88 to test.

    The features are age, sex, body mass index, blood pressure and six blood values, in their original units.
    The target, a measure of the progression of the disease after a year, is 25 to 346. The test rows are a
    fixed random fifth that depends on no seed.

    Source: scikit-learn's `load_diabetes(scaled=False)`; Efron et al. 2004, "Least Angle Regression".

    Args:
        standardize_target: measure the target in standard deviations from the mean of the training rows
            (validation rows included). Then an mse of 1 is that of always predicting the mean, and 1 - mse is
            about R2; false = the original units.
    """
    files = ["diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"]
    table = read_bundled("load_diabetes", files, (442, 11), delimiter=None, scaled=False)
    features, target = _features(table), torch.from_numpy(table[:, -1:])
    return table_dataset(
        features, target, None, draw_test_rows(target), standardize_target=standardize_target
    )


def wine() -> Dataset:
    """Return 178 Italian wines of 3 cultivars: 13 features of a chemical analysis, 142 to train, 36 to test.

    The test rows are a fixed random fifth of every class that depends on no seed.

    Source: scikit-learn's `load_wine`, UCI's "Wine".
    """
    table = read_bundled("load_wine", ["wine_data.csv"], (178, 14), skiprows=1)
    return _classes(table, ("class_0", "class_1", "class_2"))


def breast_cancer() -> Dataset:
    """Return 569 breast tumours, malignant or benign: 30 features of cell nuclei, 456 to train, 113 to test.

    The test rows are a fixed random fifth of every class that depends on no seed.

    Source: scikit-learn's `load_breast_cancer`, UCI's "Breast Cancer Wisconsin (Diagnostic)".
    """
    table = read_bundled("load_breast_cancer", ["breast_cancer.csv"], (569, 31), skiprows=1)
    return _classes(table, ("malignant", "benign"))


def _classes(table: NDArray[np.float64], names: Sequence[str]) -> Dataset:
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return table_dataset(_features(table), labels, names, draw_test_rows(labels))


def _features(table: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(table[:, :-1].astype(np.float32))


def read_bundled(
    load: str,
    files: Sequence[str],
    shape: tuple[int, int],
    *,
    delimiter: str | None = ",",
    skiprows: int = 0,
    **options: Any,
) -> NDArray[np.float64]:
    """Return a table of scikit-learn, float64 [N, D + 1]: the features, then the target.

    Read scikit-learn's files directly, in a few ms: importing scikit-learn takes more than a second. If a
    file has moved or changed in another release, use scikit-learn's function.

    Args:
        load: the name of scikit-learn's function.
        files: the names of its files; their columns are joined.
        shape: the required shape of the result.
        delimiter: what separates columns; None = white space.
        skiprows: lines to skip at the start of a file.
        options: options of the function.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / _FOLDER
        with suppress(OSError, EOFError, ValueError, zlib.error):
            found = np.hstack([_columns(folder / file, delimiter, skiprows) for file in files])
            if found.shape == shape:
                return found
    from sklearn import datasets

    features, target = getattr(datasets, load)(return_X_y=True, **options)
    return np.column_stack([features, target]).astype(np.float64)


@cache  # parsing takes 10 ms, and a process may train many runs
def _columns(file: Path, delimiter: str | None, skiprows: int) -> NDArray[np.float64]:
    return np.loadtxt(file, delimiter=delimiter, skiprows=skiprows, ndmin=2)
