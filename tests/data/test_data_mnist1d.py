"""MNIST-1D is the published data: the authors' signals, and the accuracies that they report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import train, write_tiny

from trainer.data.check import check_dataset
from trainer.data.mnist1d import mnist1d

# From the authors' file mnist1d_data.pkl: start of the first training signal, end of the last test signal.
FIRST = [-0.3320056673693902, -0.4719103656557236, -0.778697076293495, -1.0097408265367047]
LAST = [0.4472328851428726, 0.6598756470890784, 0.8777343497528006, 1.193151836835276]
FIRST_LABELS = [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9, 4, 3, 4, 5, 1, 9, 0, 3]
LAST_LABELS = [8, 3, 3, 6, 1, 2, 5, 9, 6, 4]
CONFIG = """\
name: mnist1d
data: {name: mnist1d, batch_size: 100}
model: {name: linear}
loss: cross_entropy
optimizer: {name: AdamW, lr: 0.01}
train: {epochs: 25, threads: 1, eval_every: {epochs: 25}}
log: {plots: []}
"""


def test_the_signals_are_the_published_ones() -> None:
    dataset = mnist1d()
    check_dataset(dataset, "mnist1d")
    assert (len(dataset.train), len(dataset.test), dataset.input_shape) == (4000, 1000, (40,))
    assert dataset.train.inputs[0, :4].tolist() == pytest.approx(FIRST, abs=1e-6)
    assert dataset.test.inputs[-1, -4:].tolist() == pytest.approx(LAST, abs=1e-6)
    assert dataset.train.targets[:20].tolist() == FIRST_LABELS
    assert dataset.test.targets[-10:].tolist() == LAST_LABELS
    together = torch.cat([dataset.train.inputs, dataset.test.inputs]).double()
    assert abs(float(together.mean())) < 1e-6
    assert float(together.std(correction=0)) == pytest.approx(1, abs=1e-6)
    labels = torch.cat([dataset.train.targets, dataset.test.targets])
    assert torch.bincount(labels).tolist() == [500] * 10
    # Pinned: all 200,000 values are those of the authors' file, rounded to float32.
    assert dataset.digest.startswith("41eb99c72f271d84")


def test_softmax_regression_has_the_published_accuracy(tmp_path: Path) -> None:
    result = train(write_tiny(tmp_path, CONFIG), run_dir=tmp_path / "run")
    assert result["test"]["accuracy"] == pytest.approx(0.32, abs=0.03)


@pytest.mark.nightly
def test_a_perceptron_has_the_published_accuracy(tmp_path: Path) -> None:
    text = CONFIG.replace("{name: linear}", "{name: mlp, hidden: [100, 100]}").replace("25", "150")
    result = train(write_tiny(tmp_path, text), run_dir=tmp_path / "run")
    assert result["test"]["accuracy"] == pytest.approx(0.68, abs=0.04)
