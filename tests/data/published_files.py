"""Tiny files in the layouts of CIFAR, SVHN and USPS, with torchvision's checksums replaced by theirs."""

from __future__ import annotations

import bz2
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from trainer.data.torchvision_sets import _EMNIST_CLASSES

RNG = np.random.default_rng(1)

# Input shape and number of classes of the named sets; `emnist.<split>` for the splits of emnist.
KNOWN_SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "mnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "kmnist": ((1, 28, 28), 10),
    "qmnist": ((1, 28, 28), 10),
    **{f"emnist.{split}": ((1, 28, 28), len(names)) for split, names in _EMNIST_CLASSES.items()},
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "svhn": ((3, 32, 32), 10),
    "usps": ((1, 16, 16), 10),
    "digits": ((1, 8, 8), 10),
}


def cifar_files(
    root: Path, monkeypatch: pytest.MonkeyPatch, cls: str, key: str, classes: int
) -> list[np.ndarray]:
    import torchvision.datasets

    source = getattr(torchvision.datasets, cls)
    folder = root / source.base_folder
    folder.mkdir()
    arrays = []

    def put(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(source, attribute):
            arrays.append(RNG.integers(0, 256, (2, 3072), dtype=np.uint8))
            sums.append([name, put(name, {"data": arrays[-1], key: [0, classes - 1]})])
        monkeypatch.setattr(source, attribute, sums)
    names = {source.meta["key"]: [f"class {n}" for n in range(classes)]}
    monkeypatch.setattr(source, "meta", source.meta | {"md5": put(source.meta["filename"], names)})
    return arrays


def svhn_file(path: Path, labels: list[int]) -> np.ndarray:
    from scipy.io import savemat

    images = RNG.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
    savemat(path, {"X": images, "y": np.array(labels, dtype=np.uint8)[:, None]})
    return images


def svhn_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    source = torchvision.datasets.SVHN
    sums = dict(source.split_list)
    for part in ("train", "test"):
        file = root / f"{part}_32x32.mat"
        svhn_file(file, [10, 1, 9])
        sums[part] = [sums[part][0], file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(source, "split_list", sums)


def usps_text(labels: list[int], pixels: np.ndarray) -> bytes:
    return "".join(
        f"{label} " + " ".join(f"{n}:{value:.6f}" for n, value in enumerate(row, start=1)) + " \n"
        for label, row in zip(labels, pixels, strict=True)
    ).encode()


def usps_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    source = torchvision.datasets.USPS
    sums = dict(source.split_list)
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        content = bz2.compress(usps_text([1, 10, 4], RNG.uniform(-1, 1, (3, 256))))
        (root / name).write_bytes(content)
        sums[part] = [sums[part][0], name, hashlib.md5(content).hexdigest()]
    monkeypatch.setattr(source, "split_list", sums)
