"""Published data sets: intact and damaged tiny files in torchvision's layouts, compared with its readers."""

from __future__ import annotations

import bz2
import pickle
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from published_files import KNOWN_SHAPES, cifar_files, svhn_file, svhn_files, usps_files, usps_text

from trainer.data import download, file_readers
from trainer.data.file_readers import read_cifar_batch, read_idx, read_svhn, read_usps
from trainer.data.preprocess import dataset_mean_std
from trainer.data.torchvision_sets import (
    cifar10,
    cifar100,
    emnist,
    fashion_mnist,
    kmnist,
    mnist,
    qmnist,
    svhn,
    usps,
)
from trainer.errors import AbsentDataError, DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 9, 1], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    kind = {"uint8": 8, "int32": 12, "float32": 13}[array.dtype.name]
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist_files(root: Path, cls: str = "MNIST", names: tuple[str, str] = ("train", "t10k")) -> Path:
    raw = root / cls / "raw"
    raw.mkdir(parents=True)
    for name, count in zip(names, (5, 4), strict=True):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(IMAGES[:count]))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(LABELS[:count]))
    return raw


@pytest.mark.parametrize(
    ("build", "cls"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST"), (kmnist, "KMNIST")]
)
def test_the_mnist_family_reads_as_torchvision_does(tmp_path: Path, build: Any, cls: str) -> None:
    import torchvision.datasets

    mnist_files(tmp_path, cls)
    dataset = build(root=str(tmp_path), download=False)
    for train, split in ((True, dataset.train), (False, dataset.test)):
        theirs = getattr(torchvision.datasets, cls)(tmp_path, train=train)
        assert torch.equal(split.inputs[:, 0], theirs.data)
        assert torch.equal(split.targets, theirs.targets)
    assert (dataset.input_shape, dataset.num_classes) == KNOWN_SHAPES[build.__name__]
    if build is not mnist:  # there torchvision says "0 - zero"
        assert list(dataset.class_names or ()) == theirs.classes


@pytest.mark.parametrize("split", ["byclass", "bymerge", "balanced", "letters", "digits", "mnist"])
def test_emnist_stands_upright_and_counts_from_zero(tmp_path: Path, split: Any) -> None:
    import torchvision.datasets

    mnist_files(tmp_path, "EMNIST", (f"emnist-{split}-train", f"emnist-{split}-test"))
    shift = 1 if split == "letters" else 0
    for part, count in (("train", 5), ("test", 4)):
        file = tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{part}-labels-idx1-ubyte"
        file.write_bytes(idx(LABELS[:count] + np.uint8(shift)))
    dataset = emnist(split=split, root=str(tmp_path), download=False)
    theirs = torchvision.datasets.EMNIST(tmp_path, split=split, train=True)
    assert torch.equal(dataset.train.inputs[:, 0].transpose(1, 2), theirs.data)
    assert torch.equal(dataset.train.targets, theirs.targets - shift)
    assert list(dataset.class_names or ()) == theirs.classes[shift:]
    if split == "letters":
        (tmp_path / "EMNIST" / "raw" / "emnist-letters-train-labels-idx1-ubyte").write_bytes(idx(LABELS))
        with pytest.raises(DataError, match="label -1 in row 1"):
            emnist(split=split, root=str(tmp_path), download=False)
    assert (dataset.input_shape, dataset.num_classes) == KNOWN_SHAPES[f"emnist.{split}"]


def test_qmnist_takes_the_class_of_its_label_table(tmp_path: Path) -> None:
    import torchvision.datasets

    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    table = RNG.integers(0, 2**20, (5, 8)).astype(np.int32)
    table[:, 0] = LABELS
    for part in ("train", "test"):
        (raw / f"qmnist-{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(idx(table))
    dataset = qmnist(root=str(tmp_path), download=False)
    theirs = torchvision.datasets.QMNIST(tmp_path, train=True)
    assert torch.equal(dataset.train.inputs[:, 0], theirs.data)
    assert torch.equal(dataset.train.targets, theirs.targets[:, 0])


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:3],
        lambda whole: whole[:7],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"\1" + whole[1:],  # the magic number
        lambda whole: whole[:2] + b"\x0d" + whole[3:],  # says float32
        lambda whole: whole[:3] + b"\2" + whole[4:],  # says two dimensions
        lambda whole: whole[:7] + b"\x04" + whole[8:] if whole[7] == 5 else whole[:7] + b"\x03" + whole[8:],
        lambda whole: whole[:4] + b"\xff" + whole[5:],  # says four billion
    ],
)
def test_a_damaged_idx_file_is_an_error_that_names_it(tmp_path: Path, name: str, damage: Any) -> None:
    file = mnist_files(tmp_path) / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=name) as caught:
        mnist(root=str(tmp_path), download=False)
    assert "optlab prepare" in caught.value.problems[0].fix


def test_wrong_contents_of_a_whole_idx_file(tmp_path: Path) -> None:
    raw = mnist_files(tmp_path)
    labels = raw / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.array([1, 2, 3, 4, 10], dtype=np.uint8)))
    with pytest.raises(DataError, match="label 10 in row 4") as caught:
        mnist(root=str(tmp_path), download=False)
    assert caught.value.problems[0].where == str(labels)
    labels.write_bytes(idx(LABELS[:4]))
    with pytest.raises(DataError, match="5 images and 4 labels"):
        mnist(root=str(tmp_path), download=False)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:, :27]))
    with pytest.raises(DataError, match=r"images of \[27, 28\]"):
        mnist(root=str(tmp_path), download=False)


def test_idx_integers_are_big_endian(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes([0, 0, 12, 1]) + struct.pack(">Iii", 2, -5, 70_000))
    assert read_idx(tmp_path / "a", 1).tolist() == [-5, 70_000]


def test_what_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kmnist is not on disk") as caught:
        kmnist(root=str(tmp_path), download=False)
    fix = caught.value.problems[0].fix
    for way in ("optlab prepare kmnist", "data.root", "OPTLAB_DATA", "data.name=digits"):
        assert way in fix


class Downloads:
    """Replaces a class of torchvision.datasets and writes the files that it would download."""

    calls = 0

    def __init__(self, root: Path, *, download: bool) -> None:
        assert download
        type(self).calls += 1
        mnist_files(Path(root))


def test_a_download_moves_into_place_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "torchvision_class", lambda cls: Downloads)
    root = tmp_path / "root"
    with pytest.raises(DataError, match="create it to download into it"):
        mnist(root=str(root))
    assert not root.exists()
    root.mkdir()
    dataset = mnist(root=str(root))
    assert len(dataset.train) == 5
    assert mnist(root=str(root)).digest == dataset.digest
    assert Downloads.calls == 1
    assert [path.name for path in root.iterdir()] == ["MNIST"]


def test_a_failed_download_is_one_clear_error_and_leaves_nothing_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path, *, download: bool) -> None:
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading x:\nName or service not known")

    monkeypatch.setattr(download, "torchvision_class", lambda cls: fail)
    with pytest.raises(DataError, match="downloading failed: Name or service not known") as caught:
        mnist(root=str(tmp_path))
    assert "data.name=digits" in caught.value.problems[0].fix
    assert not (tmp_path / "MNIST").exists()
    monkeypatch.setattr(download, "torchvision_class", lambda cls: lambda root, download: _whole_again(root))
    assert len(mnist(root=str(tmp_path)).train) == 5


def test_a_download_without_network_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path, *, download: bool) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(download, "torchvision_class", lambda cls: fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OPTLAB_DATA", raising=False)
    with pytest.raises(AbsentDataError, match="Network is unreachable"):
        mnist()
    assert not (tmp_path / "optlab/data").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(AbsentDataError):
        mnist(root=str(tmp_path / "mine"))
    assert list((tmp_path / "mine").iterdir()) == []


def test_downloads_wait_for_one_another_and_remove_their_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[int] = []

    def hold(number: int) -> None:
        with download._one_at_a_time(path):
            order.append(number)
            time.sleep(0.02)
            order.append(number)

    threads = [threading.Thread(target=hold, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(6))
    assert not path.exists()


@pytest.mark.parametrize("points_at", ["MNIST/raw", "MNIST", ".", ".."])
def test_a_root_at_or_above_the_folder_of_a_data_set_is_understood(points_at: str, tmp_path: Path) -> None:
    root = tmp_path / "above" / "root"
    mnist_files(root)
    dataset = mnist(root=str((root / points_at).resolve()), download=False)
    assert len(dataset.train) == 5


def _whole_again(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    assert not (raw / "train-images-idx3-ubyte").exists(), "torchvision would take the half file as whole"
    raw.rmdir()
    mnist_files(root)


def test_a_download_waits_for_another_process_and_uses_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(download, "torchvision_class", lambda cls: lambda root, download: calls.append(root))
    with FileLock(tmp_path / ".mnist.lock"):
        waiting = ThreadPoolExecutor().submit(mnist, root=str(tmp_path))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        mnist_files(tmp_path)
    assert len(waiting.result(timeout=30).train) == 5
    assert calls == []


def test_a_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="mnist is not on disk"):
        mnist(root=str(tmp_path / "file"))


# --- CIFAR, SVHN, USPS: sums are torchvision's, so the tiny files are given sums of their own ---------------


@pytest.mark.parametrize(
    ("build", "cls", "key", "classes"),
    [(cifar10, "CIFAR10", "labels", 10), (cifar100, "CIFAR100", "fine_labels", 100)],
)
def test_cifar_reads_as_torchvision_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, cls: str, key: str, classes: int
) -> None:
    import torchvision.datasets

    arrays = cifar_files(tmp_path, monkeypatch, cls, key, classes)
    dataset = build(root=str(tmp_path), download=False)
    theirs = getattr(torchvision.datasets, cls)(tmp_path, train=True)
    assert np.array_equal(dataset.train.inputs.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert dataset.train.targets.tolist() == theirs.targets
    assert np.array_equal(dataset.test.inputs.flatten(1).numpy(), arrays[-1])
    assert list(dataset.class_names or ()) == theirs.classes
    assert (dataset.input_shape, dataset.num_classes) == KNOWN_SHAPES[build.__name__]


def test_a_cifar_file_is_not_unpickled_unless_its_sum_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_files(tmp_path, monkeypatch, "CIFAR10", "labels", 10)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(file_readers, "_unpickle", lambda *_: pytest.fail("unpickled a damaged file"))
    with pytest.raises(DataError, match="MD5") as caught:
        cifar10(root=str(tmp_path), download=False)
    assert caught.value.problems[0].where == str(file)


@pytest.mark.parametrize(
    "entry",
    [
        {"labels": [0]},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072)), "labels": [0]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
        [],
    ],
)
def test_a_cifar_batch_of_another_form_is_refused(tmp_path: Path, entry: object) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps(entry))
    with pytest.raises(DataError, match="data_batch_1"):
        read_cifar_batch(file, "labels", 10)
    file.write_bytes(pickle.dumps(entry)[:-2])
    with pytest.raises(DataError, match="not a CIFAR batch"):
        read_cifar_batch(file, "labels", 10)


def test_svhn_reads_as_torchvision_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    svhn_files(tmp_path, monkeypatch)
    dataset = svhn(root=str(tmp_path), download=False)
    theirs = torchvision.datasets.SVHN(tmp_path, split="train")
    assert np.array_equal(dataset.train.inputs.numpy(), theirs.data)
    assert dataset.train.targets.tolist() == theirs.labels.tolist() == [0, 1, 9]
    assert (dataset.input_shape, dataset.num_classes) == KNOWN_SHAPES["svhn"]
    (tmp_path / "test_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        svhn(root=str(tmp_path), download=False)


def test_an_svhn_file_of_another_form_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train_32x32.mat"
    svhn_file(file, [1, 11])
    with pytest.raises(DataError, match="label 10 in row 1"):
        read_svhn(file)
    svhn_file(file, [0])
    with pytest.raises(DataError, match="label -1"):
        read_svhn(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="not an SVHN file"):
        read_svhn(file)


def test_usps_reads_as_torchvision_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    usps_files(tmp_path, monkeypatch)
    dataset = usps(root=str(tmp_path), download=False)
    for train, split in ((True, dataset.train), (False, dataset.test)):
        theirs = torchvision.datasets.USPS(tmp_path, train=train)
        assert np.array_equal(split.inputs[:, 0].numpy(), theirs.data)
        assert split.targets.tolist() == theirs.targets == [0, 9, 3]
    assert (dataset.input_shape, dataset.num_classes) == KNOWN_SHAPES["usps"]
    (tmp_path / "usps.bz2").write_bytes((tmp_path / "usps.bz2").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"usps\.bz2"):
        usps(root=str(tmp_path), download=False)


@pytest.mark.parametrize(
    "content",
    [
        b"no bzip2",
        bz2.compress(b""),
        bz2.compress(b"1 1:0.5 2:0.5\n"),
        bz2.compress(b"x" + usps_text([1], np.zeros((1, 256)))[1:]),
        bz2.compress(usps_text([1, 2], np.zeros((2, 256)))[:-40]),
        bz2.compress(usps_text([1], np.full((1, 256), 1.5))),
        bz2.compress(usps_text([11], np.zeros((1, 256)))),
        bz2.compress(usps_text([1, 2], np.zeros((2, 256))))[:-9],
    ],
)
def test_a_usps_file_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "usps.bz2").write_bytes(content)
    with pytest.raises(DataError, match=r"usps\.bz2"):
        read_usps(tmp_path / "usps.bz2")


@pytest.mark.real_data
def test_the_real_mnist(mnist_root: Path) -> None:
    dataset = mnist(root=str(mnist_root), download=False)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    # Counts that everybody who prints them finds.
    assert torch.bincount(dataset.train.targets)[:3].tolist() == [5923, 6742, 5958]
    assert torch.bincount(dataset.test.targets).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert dataset.train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    mean, std = dataset_mean_std(dataset.train)
    assert (mean[0], std[0]) == pytest.approx((0.1307, 0.3081), abs=5e-5)  # the tutorials' numbers
