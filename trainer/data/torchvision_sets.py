"""The published image sets, downloaded by torchvision in its file layout and read here.

Reading the MNIST family does not need torchvision. CIFAR, SVHN and USPS are verified against torchvision's
MD5 sums before they are parsed; later runs read them from the cache as long as the files do not change. The
MNIST family is not cached: its files are plain bytes, and reading them is as fast as reading the cache.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.data.cache import cached
from trainer.data.dataset import Dataset, Split, check_labels, data_root, folder_with, make_dataset
from trainer.data.download import fetch, torchvision_class, torchvision_download
from trainer.data.file_readers import (
    AGAIN,
    check_md5,
    read_cifar_batch,
    read_idx,
    read_images,
    read_pickle,
    read_svhn,
    read_usps,
)
from trainer.errors import DataError

EmnistSplit = Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]

_DIGITS = tuple(string.digits)
_MERGED = set("cijklmopsuvwxyz")  # lower-case letters that `bymerge` and `balanced` merge with upper-case
_ALL = tuple(sorted(string.digits + string.ascii_letters))
_BALANCED = tuple(letter for letter in _ALL if letter not in _MERGED)
_EMNIST_CLASSES: dict[str, tuple[str, ...]] = {
    "byclass": _ALL,
    "bymerge": _BALANCED,
    "balanced": _BALANCED,
    "letters": tuple(string.ascii_lowercase),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return MNIST: 60,000 and 10,000 handwritten digits, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds MNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    return _mnist_like("mnist", "MNIST", _DIGITS, root, download)


def fashion_mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return Fashion-MNIST: 60,000 and 10,000 articles of clothing, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds FashionMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    return _mnist_like("fashion_mnist", "FashionMNIST", _FASHION, root, download)


def kmnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return Kuzushiji-MNIST: 70,000 cursive Japanese characters, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds KMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    return _mnist_like("kmnist", "KMNIST", _KUZUSHIJI, root, download)


def emnist(
    *, split: EmnistSplit = "balanced", root: str | Path | None = None, download: bool = True
) -> Dataset:
    """Return one split of EMNIST: handwritten letters and digits, uint8 [N, 1, 28, 28].

    The files contain transposed images; this reader transposes them back. The labels of `letters` start at 1
    in the files and at 0 here (26 classes).

    Args:
        split: byclass (62 classes), bymerge (47), balanced (47), letters (26), digits (10) or mnist (10).
        root: folder that holds EMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files (one archive of 0.5 GB for all splits).
    """
    classes = _EMNIST_CLASSES[split]
    folder = folder_with("EMNIST/raw", root)
    raw = folder / "EMNIST" / "raw"
    files = {
        part: [raw / f"emnist-{split}-{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        for part in ("train", "test")
    }
    get = torchvision_download("EMNIST", [{"split": split}])
    fetch("emnist", folder, download, [*files["train"], *files["test"]], get)

    def read(part: str) -> Split:
        images, labels = files[part]
        upright = read_images(images, (28, 28)).transpose(2, 3).contiguous()
        first = 1 if split == "letters" else 0
        return _paired(
            upright,
            check_labels(read_idx(labels, 1).long() - first, len(classes), str(labels)),
            images,
            labels,
        )

    return make_dataset(read("train"), read("test"), classes)


def qmnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return QMNIST: MNIST's 60,000 training and all 60,000 test digits, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds QMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    folder = folder_with("QMNIST/raw", root)
    raw = folder / "QMNIST" / "raw"
    files = {
        part: [raw / f"qmnist-{part}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx2-int")]
        for part in _PARTS
    }
    get = torchvision_download("QMNIST", _BOTH)
    fetch("qmnist", folder, download, [*files["train"], *files["test"]], get)

    def read(part: str) -> Split:
        images, labels = files[part]
        table = read_idx(labels, 2)  # [N, 8]: the class, then the writer and the source of the image
        return _paired(
            read_images(images, (28, 28)), check_labels(table[:, 0], 10, str(labels)), images, labels
        )

    return make_dataset(read("train"), read("test"), _DIGITS)


def cifar10(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return CIFAR-10: 50,000 and 10,000 photographs, uint8 [N, 3, 32, 32], 10 classes.

    Args:
        root: folder that holds cifar-10-batches-py; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    return _cifar("cifar10", _CIFAR10, root, download)


def cifar100(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return CIFAR-100: 50,000 and 10,000 photographs, uint8 [N, 3, 32, 32], its 100 fine classes.

    Args:
        root: folder that holds cifar-100-python; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    return _cifar("cifar100", _CIFAR100, root, download)


def svhn(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return SVHN: 73,257 and 26,032 digits of house numbers, uint8 [N, 3, 32, 32], 10 classes.

    The files label the digit 0 as 10; here it is 0, as in torchvision.

    Args:
        root: folder of train_32x32.mat and test_32x32.mat; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files (0.25 GB).
    """
    folder = data_root(root)
    files = {part: folder / f"{part}_32x32.mat" for part in _PARTS}
    get = torchvision_download("SVHN", [{"split": part} for part in _PARTS])
    fetch("svhn", folder, download, list(files.values()), get)

    def decode() -> Dataset:
        sums = {entry[1]: entry[2] for entry in torchvision_class("SVHN").split_list.values()}
        for file in files.values():
            check_md5(file, sums[file.name], "svhn")
        return make_dataset(read_svhn(files["train"]), read_svhn(files["test"]), _DIGITS)

    return cached(list(files.values()), decode, variant=["svhn"])


def usps(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return USPS: 7,291 and 2,007 digits from envelopes, uint8 [N, 1, 16, 16], 10 classes.

    Args:
        root: folder that holds usps.bz2 and usps.t.bz2; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: download missing files.
    """
    folder = data_root(root)
    files = [folder / "usps.bz2", folder / "usps.t.bz2"]
    fetch("usps", folder, download, files, torchvision_download("USPS", _BOTH))

    def decode() -> Dataset:
        for _, file_name, md5 in torchvision_class("USPS").split_list.values():
            check_md5(folder / file_name, md5, "usps")
        return make_dataset(read_usps(files[0]), read_usps(files[1]), _DIGITS)

    return cached(files, decode, variant=["usps"])


_PARTS = ("train", "test")
_BOTH: list[dict[str, Any]] = [{"train": True}, {"train": False}]


def _mnist_like(
    name: str, cls: str, classes: Sequence[str], root: str | Path | None, download: bool
) -> Dataset:
    folder = folder_with(f"{cls}/raw", root)
    raw = folder / cls / "raw"
    files = {
        part: [raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"]
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }
    fetch(name, folder, download, [*files["train"], *files["test"]], torchvision_download(cls))

    def read(part: str) -> Split:
        images, labels = files[part]
        numbers = check_labels(read_idx(labels, 1), len(classes), str(labels))
        return _paired(read_images(images, (28, 28)), numbers, images, labels)

    return make_dataset(read("train"), read("test"), classes)


def _paired(images: Tensor, labels: Tensor, images_file: Path, labels_file: Path) -> Split:
    if len(images) != len(labels):
        raise DataError(
            f"{len(images):,} images and {len(labels):,} labels",
            where=f"{images_file}, {labels_file.name}",
            fix=AGAIN,
        )
    return Split(images, labels)


@dataclass(frozen=True, slots=True)
class _Cifar:
    """The differences between CIFAR-10 and CIFAR-100: class in torchvision, files and keys in the files."""

    cls: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    names_key: str
    labels_key: str
    classes: int


_CIFAR10 = _Cifar(
    "CIFAR10",
    "cifar-10-batches-py",
    tuple(f"data_batch_{n}" for n in range(1, 6)),
    "test_batch",
    "batches.meta",
    "label_names",
    "labels",
    10,
)
_CIFAR100 = _Cifar(
    "CIFAR100", "cifar-100-python", ("train",), "test", "meta", "fine_label_names", "fine_labels", 100
)


def _cifar(name: str, kind: _Cifar, root: str | Path | None, download: bool) -> Dataset:
    home = folder_with(kind.folder, root)
    folder = home / kind.folder
    files = [folder / file for file in (*kind.train, kind.test, kind.meta)]
    fetch(name, home, download, files, torchvision_download(kind.cls))

    def decode() -> Dataset:
        source = torchvision_class(kind.cls)
        sums = dict([*source.train_list, *source.test_list]) | {kind.meta: source.meta["md5"]}
        for file in files:
            check_md5(file, sums[file.name], name)
        *parts, test = [
            read_cifar_batch(folder / file, kind.labels_key, kind.classes)
            for file in (*kind.train, kind.test)
        ]
        train = Split(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
        names = read_pickle(folder / kind.meta)[kind.names_key]
        return make_dataset(train, test, names)

    return cached(files, decode, variant=[name])
