"""The default data set: scikit-learn's 8x8 handwritten digits. No download, no options."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.data.bundled import read_bundled
from trainer.data.dataset import Dataset, Split, make_dataset


def digits() -> Dataset:
    """Return 1,797 real handwritten digits, uint8 [N, 1, 8, 8], 10 classes: 1,501 to train, 296 to test.

    The test split is every sixth image of each class in the order of the file: it is stratified and does not
    depend on a seed. The stored grey values 0 .. 16 become round(value * 255 / 16), so that the largest value
    is 255 as in the other image sets; the 17 values stay distinct.

    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    table = torch.from_numpy(read_bundled("load_digits", ["digits.csv.gz"], (1797, 65)))
    images = table[:, :-1].reshape(-1, 1, 8, 8).float().mul(255 / 16).round().to(torch.uint8)
    labels = table[:, -1].long()
    test = _every_sixth_of_a_class(labels)
    whole = Split(images, labels)
    return make_dataset(
        whole.take((~test).nonzero().flatten()),
        whole.take(test.nonzero().flatten()),
        [str(n) for n in range(10)],
    )


def _every_sixth_of_a_class(labels: Tensor) -> Tensor:
    """Return bool [N]: whether a sample is the 6th, 12th ... of its class."""
    one_hot = torch.nn.functional.one_hot(labels)
    rank = one_hot.cumsum(0).gather(1, labels[:, None]).squeeze(1)  # 1 for the first of its class
    return rank % 6 == 0
