"""The default data set: scikit-learn's 8x8 handwritten digits. No download, no options."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import Dataset, Split, make_dataset

_FILE = "datasets/data/digits.csv.gz"  # below scikit-learn's own folder


def digits() -> Dataset:
    """Return 1,797 real handwritten digits, uint8 [N, 1, 8, 8], 10 classes: 1,501 to train, 296 to test.

    The test split is every sixth image of each class in the order of the file: it is stratified and does not
    depend on a seed. The stored grey values 0 .. 16 become round(value * 255 / 16), so that the largest value
    is 255 as in the other image sets; the 17 values stay distinct.

    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    table = _table()
    images = table[:, :-1].reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    labels = table[:, -1].long()
    test = _every_sixth_of_a_class(labels)
    whole = Split(images, labels)
    return make_dataset(
        whole.take((~test).nonzero().flatten()),
        whole.take(test.nonzero().flatten()),
        [str(n) for n in range(10)],
    )


def _table() -> Tensor:
    """Return uint8 [1797, 65]: 64 grey values and the class, a row for each digit.

    Read the file of scikit-learn directly, in 5 ms: importing scikit-learn takes more than a second. If the
    file has moved or changed in another release, use `sklearn.datasets.load_digits`.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        try:
            text = gzip.decompress((Path(package.origin).parent / _FILE).read_bytes()).decode()
            table = np.loadtxt(text.splitlines(), dtype=np.uint8, delimiter=",")
        except (OSError, EOFError, ValueError, zlib.error):
            table = np.empty(0, np.uint8)
        if table.shape == (1797, 65):
            return torch.from_numpy(table)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(np.column_stack([bunch.data, bunch.target]).astype(np.uint8))


def _every_sixth_of_a_class(labels: Tensor) -> Tensor:
    """Return bool [N]: whether a sample is the 6th, 12th ... of its class."""
    one_hot = torch.nn.functional.one_hot(labels)
    rank = one_hot.cumsum(0).gather(1, labels[:, None]).squeeze(1)  # 1 for the first of its class
    return rank % 6 == 0
