"""The published image sets, in the files that torchvision lays out: read here, downloaded by torchvision.

The readers are our own and strict (a file that is one byte short is an error, not a smaller data set), and
need no torchvision for the MNIST family. CIFAR, SVHN and USPS are checked against torchvision's MD5 sums
before they are parsed, once: after that they come from the cache, as long as the files stay as they are.
The MNIST family's files are plain bytes already, and reading them takes what reading the cache would.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import math
import os
import pickle
import pickletools
import shutil
import socket
import string
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainer.data.cache import cached
from trainer.data.dataset import Dataset, Split, check_labels, data_root, make_dataset
from trainer.errors import DataError

EmnistSplit = Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]

_DIGITS = tuple(string.digits)
_MERGED = set("cijklmopsuvwxyz")  # lower-case letters that `bymerge` and `balanced` count as upper-case
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
"""Input shape and number of classes of the named sets, so that a config can be checked without the data;
`emnist.<split>` for the splits of emnist."""


def mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return MNIST: 60,000 and 10,000 handwritten digits, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds MNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    return _mnist_like("mnist", "MNIST", _DIGITS, root, download)


def fashion_mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return Fashion-MNIST: 60,000 and 10,000 articles of clothing, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds FashionMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    return _mnist_like("fashion_mnist", "FashionMNIST", _FASHION, root, download)


def kmnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return Kuzushiji-MNIST: 70,000 cursive Japanese characters, uint8 [N, 1, 28, 28], 10 classes.

    Args:
        root: folder that holds KMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    return _mnist_like("kmnist", "KMNIST", _KUZUSHIJI, root, download)


def emnist(
    *, split: EmnistSplit = "balanced", root: str | Path | None = None, download: bool = True
) -> Dataset:
    """Return one split of EMNIST: handwritten letters and digits, uint8 [N, 1, 28, 28].

    The files hold every image mirrored along its diagonal; here they stand upright. The labels of
    `letters`, stored from 1, start at 0 (26 classes).

    Args:
        split: byclass (62 classes), bymerge (47), balanced (47), letters (26), digits (10) or mnist (10).
        root: folder that holds EMNIST/raw; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk (all splits come in one archive of 0.5 GB).
    """
    classes = _EMNIST_CLASSES[split]
    raw = data_root(root) / "EMNIST" / "raw"
    files = {
        part: [raw / f"emnist-{split}-{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        for part in ("train", "test")
    }
    _fetch("emnist", "EMNIST", root, download, [*files["train"], *files["test"]], [{"split": split}])

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
        download: fetch what is not on disk.
    """
    raw = data_root(root) / "QMNIST" / "raw"
    files = {
        part: [raw / f"qmnist-{part}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx2-int")]
        for part in _PARTS
    }
    _fetch("qmnist", "QMNIST", root, download, [*files["train"], *files["test"]], _BOTH)

    def read(part: str) -> Split:
        images, labels = files[part]
        table = read_idx(labels, 2)  # [N, 8]: the class, then the writer and where the image came from
        return _paired(
            read_images(images, (28, 28)), check_labels(table[:, 0], 10, str(labels)), images, labels
        )

    return make_dataset(read("train"), read("test"), _DIGITS)


def cifar10(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return CIFAR-10: 50,000 and 10,000 photographs, uint8 [N, 3, 32, 32], 10 classes.

    Args:
        root: folder that holds cifar-10-batches-py; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    return _cifar("cifar10", _CIFAR10, root, download)


def cifar100(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return CIFAR-100: 50,000 and 10,000 photographs, uint8 [N, 3, 32, 32], its 100 fine classes.

    Args:
        root: folder that holds cifar-100-python; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    return _cifar("cifar100", _CIFAR100, root, download)


def svhn(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return SVHN: 73,257 and 26,032 digits of house numbers, uint8 [N, 3, 32, 32], 10 classes.

    The files label the digit 0 as 10; here it is 0, as in torchvision.

    Args:
        root: folder of train_32x32.mat and test_32x32.mat; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk (0.25 GB).
    """
    folder = data_root(root)
    files = {part: folder / f"{part}_32x32.mat" for part in _PARTS}
    _fetch("svhn", "SVHN", root, download, list(files.values()), [{"split": part} for part in _PARTS])

    def decode() -> Dataset:
        sums = {entry[1]: entry[2] for entry in _torchvision("SVHN").split_list.values()}
        for file in files.values():
            _check_md5(file, sums[file.name], "svhn")
        return make_dataset(read_svhn(files["train"]), read_svhn(files["test"]), _DIGITS)

    return cached(list(files.values()), decode, variant=["svhn"])


def usps(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return USPS: 7,291 and 2,007 digits of envelopes, uint8 [N, 1, 16, 16], 10 classes.

    Args:
        root: folder that holds usps.bz2 and usps.t.bz2; null = $OPTLAB_DATA, else ~/.cache/optlab/data.
        download: fetch what is not on disk.
    """
    folder = data_root(root)
    files = [folder / "usps.bz2", folder / "usps.t.bz2"]
    _fetch("usps", "USPS", root, download, files, _BOTH)

    def decode() -> Dataset:
        for _, file_name, md5 in _torchvision("USPS").split_list.values():
            _check_md5(folder / file_name, md5, "usps")
        return make_dataset(read_usps(files[0]), read_usps(files[1]), _DIGITS)

    return cached(files, decode, variant=["usps"])


_PARTS = ("train", "test")
_BOTH: list[dict[str, Any]] = [{"train": True}, {"train": False}]


def _mnist_like(
    name: str, cls: str, classes: Sequence[str], root: str | Path | None, download: bool
) -> Dataset:
    raw = data_root(root) / cls / "raw"
    files = {
        part: [raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"]
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }
    _fetch(name, cls, root, download, [*files["train"], *files["test"]], [{}])

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
            fix=_AGAIN,
        )
    return Split(images, labels)


# --- files ------------------------------------------------------------------------------------------------

_AGAIN = "delete the file and run `optlab prepare` for this data set, which fetches it again"
_IDX_TYPES: dict[int, str] = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path, dims: int) -> Tensor:
    """Return the integers of an idx file (http://yann.lecun.com/exdb/mnist): uint8, or else int64.

    Args:
        path: the file, not compressed.
        dims: how many dimensions it has to have.

    Raises:
        DataError: no idx file, other dimensions, no samples, or a length that differs from the header's.
    """
    start = 4 + 4 * dims
    try:
        content = np.fromfile(path, np.uint8)  # unlike bytes it can be written to, so nothing is copied
    except OSError as error:
        raise _unreadable(path, error) from error
    head = content[:start].tobytes()
    if len(head) < start or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or head[3] != dims:
        raise DataError(
            f"no idx file of {dims} dimensions: it starts with {head[:4].hex(' ') or 'nothing'}",
            where=str(path),
            fix=_AGAIN,
        )
    dtype = np.dtype(_IDX_TYPES[head[2]])
    shape = struct.unpack(f">{dims}I", head[4:])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected or 0 in shape or dtype.kind == "f":
        raise DataError(
            f"{len(content):,} bytes, and its header ({dtype.name} {list(shape)}) says {expected:,}",
            where=str(path),
            expected="whole numbers, as many as the header says, at least one",
            fix=_AGAIN,
        )
    array = content[start:].view(dtype).reshape(shape)
    return torch.from_numpy(array.astype(np.uint8 if dtype == np.uint8 else np.int64, copy=False))


def read_images(path: Path, sides: tuple[int, int]) -> Tensor:
    """Return the grey images of an idx file as uint8 [N, 1, H, W]; DataError for another size."""
    images = read_idx(path, 3)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != sides:
        raise DataError(
            f"images of {list(images.shape[1:])} pixels, {images.dtype}",
            where=str(path),
            expected=f"uint8 of {list(sides)}",
            fix=_AGAIN,
        )
    return images.unsqueeze(1)


class _PickledType:
    """Stands for numpy.dtype in a pickle; knows no more than its code."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Take nothing: the order of bytes means nothing to a byte."""


class _PickledBytes:
    """Stands for a numpy array of uint8 in a pickle: numpy's own can crash on a damaged state."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take what numpy pickles: version, shape, type, whether columns come first, content."""
        _, shape, dtype, by_columns, content = state
        if dtype.code != "u1" or min(shape) < 0:
            raise pickle.UnpicklingError("it has an array that is not of bytes")
        raw = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the array."""
        return self.array


class _PlainUnpickler(pickle.Unpickler):
    """Loads numbers, strings, lists, dicts and arrays of bytes; refuses every other function and class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the named function or class."""
        if (module, name) == ("numpy", "dtype"):
            return _PickledType
        if (module, name) == ("numpy", "ndarray"):
            return object  # only ever the first argument of _reconstruct
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _PickledBytes
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in Python 2's protocol
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")


def _unpickle(content: bytes) -> Any:
    """Return the plain values of a pickle; what it raises for a damaged one is nearly anything."""
    for code, value, _ in pickletools.genops(content):  # C's unpickler takes memory for what these say
        if code.name in ("PUT", "LONG_BINPUT") and not 0 <= int(value or 0) <= len(content):
            raise pickle.UnpicklingError(f"it numbers a value {value:,}")
    return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()


def read_cifar_batch(path: Path, key: str, classes: int) -> Split:
    """Return one pickled batch of CIFAR; what is more than numbers, strings and arrays is refused.

    Args:
        path: the file, as `data_batch_1`.
        key: where the labels are: `labels`, or `fine_labels` in CIFAR-100.
        classes: how many classes there are.
    """
    content = _read_bytes(path)
    try:
        entry = _unpickle(content)
        images, labels = np.asarray(entry["data"]), np.asarray(entry[key])
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"no CIFAR batch: {error!r}", where=str(path), fix=_AGAIN) from error
    if (
        images.dtype != np.uint8
        or images.ndim != 2
        or images.shape[1] != 3072
        or labels.shape != (len(images),)
        or labels.dtype.kind not in "iu"
        or len(labels) == 0
    ):
        raise DataError(
            f"images {images.dtype} {list(images.shape)} and labels {labels.dtype} {list(labels.shape)}",
            where=str(path),
            expected="uint8 [N, 3072] and whole numbers [N], at least one",
            fix=_AGAIN,
        )
    numbers = check_labels(torch.from_numpy(labels.astype(np.int64)), classes, str(path))
    return Split(torch.from_numpy(images.copy()).view(-1, 3, 32, 32), numbers)


def _check_mat(content: bytes) -> None:
    """Raise unless a .mat file holds numeric arrays only: scipy crashes on types that are none."""
    if content[126:128] != b"IM":
        raise ValueError("it is no little-endian .mat file of version 5")
    at = 128
    while at < len(content):
        kind, size = struct.unpack_from("<II", content, at)
        body = content[at + 8 : at + 8 + size]
        at += 8 + size
        if kind == 15:  # compressed
            body = zlib.decompress(body)
            kind, size = struct.unpack_from("<II", body)
            body = body[8:]
        if kind != 14 or len(body) != size or not 6 <= body[8] <= 15 or body[9] & 8:
            raise ValueError("it holds more than whole real arrays of numbers")
        inner = 0
        while inner < size:
            kind, length = struct.unpack_from("<II", body, inner)
            inner += 8 if kind >> 16 else 8 + (length + 7) // 8 * 8
            if kind & 0xFFFF not in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13):
                raise ValueError(f"it has an element of type {kind & 0xFFFF}")


def read_svhn(path: Path) -> Split:
    """Return one .mat file of SVHN's cropped digits; the label 10 becomes 0."""
    from scipy.io import loadmat

    try:
        _check_mat(path.read_bytes())
        content = loadmat(path)
        images, labels = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    except Exception as error:  # a damaged .mat file raises nearly anything
        raise DataError(f"no SVHN file: {error!r}", where=str(path), fix=_AGAIN) from error
    if (
        images.dtype != np.uint8
        or images.shape != (32, 32, 3, len(labels))
        or labels.dtype.kind not in "iu"
        or len(labels) == 0
    ):
        raise DataError(
            f"images {images.dtype} {list(images.shape)} and {len(labels):,} labels {labels.dtype}",
            where=str(path),
            expected="uint8 [32, 32, 3, N] and N whole numbers",
            fix=_AGAIN,
        )
    numbers = check_labels(torch.from_numpy(labels.astype(np.int64)) - 1, 10, f"{path} (less 1)")
    return Split(torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), (numbers + 1) % 10)


def read_usps(path: Path) -> Split:
    """Return one bzip2 file of USPS in libsvm's text form; labels from 1, pixels -1 to 1 become 0 to 255."""
    content = _read_bytes(path)
    try:
        rows = [line.split() for line in _whole_bz2(content).decode("ascii").splitlines()]
        labels = torch.tensor([int(row[0]) - 1 for row in rows])
        places = [f"{n}:" for n in range(1, 257)]
        for row in rows:
            if [cell[: cell.find(":") + 1] for cell in row[1:]] != places:
                raise ValueError("a line has not the pixels 1 to 256, one after the other")
        pixels = np.array([[float(cell.split(":")[1]) for cell in row[1:]] for row in rows], dtype=np.float32)
    except Exception as error:  # among them torch's RuntimeError for a label that no int64 holds
        raise DataError(f"no USPS file: {error}", where=str(path), fix=_AGAIN) from error
    if pixels.shape != (len(labels), 256) or len(labels) == 0 or not (np.abs(pixels) <= 1).all():
        raise DataError(
            f"pixels of shape {list(pixels.shape)}",
            where=str(path),
            expected="256 numbers from -1 to 1 in every line",
            fix=_AGAIN,
        )
    images = torch.from_numpy(((pixels + 1) / 2 * 255).astype(np.uint8))  # rounds down, as torchvision does
    return Split(images.view(-1, 1, 16, 16), check_labels(labels, 10, str(path)))


def _whole_bz2(content: bytes) -> bytes:
    """Return all that a bzip2 file holds; `bz2.decompress` leaves out what follows a damaged stream."""
    parts: list[bytes] = []
    while content or not parts:
        stream = bz2.BZ2Decompressor()
        parts.append(stream.decompress(content))
        if not stream.eof:
            raise EOFError("it ends before its end mark")
        content = stream.unused_data
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Cifar:
    """What tells CIFAR-10 from CIFAR-100: its class in torchvision, its files, and the keys in them."""

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
    folder = data_root(root) / kind.folder
    files = [folder / file for file in (*kind.train, kind.test, kind.meta)]
    _fetch(name, kind.cls, root, download, files, [{}])

    def decode() -> Dataset:
        source = _torchvision(kind.cls)
        sums = dict([*source.train_list, *source.test_list]) | {kind.meta: source.meta["md5"]}
        for file in files:
            _check_md5(file, sums[file.name], name)
        *parts, test = [
            read_cifar_batch(folder / file, kind.labels_key, kind.classes)
            for file in (*kind.train, kind.test)
        ]
        train = Split(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
        names = _unpickle(_read_bytes(folder / kind.meta))[kind.names_key]
        return make_dataset(train, test, names)

    return cached(files, decode, variant=[name])


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror}", where=str(path))


def _check_md5(path: Path, md5: str, name: str) -> None:
    found = hashlib.md5(_read_bytes(path), usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"damaged: its MD5 is {found}",
            where=str(path),
            expected=md5,
            fix=f"delete the file and run `optlab prepare {name}`, which fetches it again",
        )


# --- downloading ------------------------------------------------------------------------------------------


def _torchvision(cls: str) -> Any:
    """Return a class of torchvision.datasets (imported late: it costs 1.4 s)."""
    import torchvision.datasets

    return getattr(torchvision.datasets, cls)


def _fetch(
    name: str,
    cls: str,
    root: str | Path | None,
    download: bool,
    files: Sequence[Path],
    calls: Sequence[dict[str, Any]],
) -> None:
    """See to it that all files are there: download them with torchvision (checksums, progress on stderr).

    They arrive in `<root>/.<name>.download` and move to their places when all are whole, so an interrupted
    download leaves no half file behind, and running it again keeps the archives that are whole.

    Args:
        name: the data set as the config names it.
        cls: its class in torchvision.datasets.
        root: the user's folder; None = the default one.
        download: whether downloading is allowed.
        files: what has to be there.
        calls: arguments for the class, one call for each part it downloads.
    """
    folder = data_root(root)
    absent = [file for file in files if not file.is_file()]
    if not absent:
        return
    if not download:
        raise _not_there(name, absent, "and data.download is false")
    staging = folder / f".{name}.download"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder / f".{name}.lock"), _network_timeout(30):
            if all(file.is_file() for file in files):  # another process has fetched them meanwhile
                return
            for file in files:  # torchvision checks archives by their sums, and takes other files as whole
                (staging / file.relative_to(folder)).unlink(missing_ok=True)
            try:
                for arguments in calls:
                    _torchvision(cls)(staging, download=True, **arguments)
            except BaseException:
                if not any(file.is_file() for file in staging.rglob("*")):
                    shutil.rmtree(staging, ignore_errors=True)  # nothing to go on from
                raise
            for source in [file for file in staging.rglob("*") if file.is_file()]:
                target = folder / source.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
            shutil.rmtree(staging, ignore_errors=True)
    except Exception as error:  # urllib, tarfile, zipfile, lzma, sockets: each has errors of its own
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise _not_there(name, absent, f"and downloading failed: {reason}") from error
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise _not_there(name, absent, "even after downloading")


def _not_there(name: str, absent: Sequence[Path], why: str) -> DataError:
    return DataError(
        f"{name} is not on disk ({absent[0]} is missing), {why}",
        key="name",
        fix=f"run `optlab prepare {name}` where there is a network; or point data.root (or OPTLAB_DATA) at a "
        "folder that has it; or train on data.name=digits, which needs no download",
    )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process downloads here; the lock ends with its holder."""
    with path.open("w") as stream:
        try:
            import fcntl
        except ImportError:  # Windows: nothing but luck keeps two downloads apart there
            yield
            return
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Let a silent network end in an error: torchvision sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
