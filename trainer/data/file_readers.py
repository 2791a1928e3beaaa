"""Strict readers of the published image sets' files: idx, CIFAR's pickles, SVHN's .mat and USPS's text.

An incomplete file is an error, not a smaller data set, and no file can make a reader execute code.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import math
import pickle
import pickletools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import Split, check_labels
from trainer.data.files import check_file
from trainer.errors import DataError

AGAIN = "delete the file and run `optlab prepare` for this data set to download it again"
_IDX_TYPES: dict[int, str] = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path, dims: int) -> Tensor:
    """Return the integers of an idx file (http://yann.lecun.com/exdb/mnist): uint8, or else int64.

    Args:
        path: the file, not compressed.
        dims: the required number of dimensions.

    Raises:
        DataError: the file is not an idx file, has other dimensions or no samples, or its length differs from
            the header.
    """
    start = 4 + 4 * dims
    try:
        check_file(path)
        content = np.fromfile(path, np.uint8)  # writable, unlike bytes, so torch needs no copy
    except OSError as error:
        raise _unreadable(path, error) from error
    head = content[:start].tobytes()
    if len(head) < start or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or head[3] != dims:
        raise DataError(
            f"not an idx file of {dims} dimensions: it starts with {head[:4].hex(' ') or 'nothing'}",
            where=str(path),
            fix=AGAIN,
        )
    dtype = np.dtype(_IDX_TYPES[head[2]])
    shape = struct.unpack(f">{dims}I", head[4:])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected or 0 in shape or dtype.kind == "f":
        raise DataError(
            f"{len(content):,} bytes, but its header ({dtype.name} {list(shape)}) declares {expected:,}",
            where=str(path),
            expected="integers, as many as the header declares, at least one",
            fix=AGAIN,
        )
    array = content[start:].view(dtype).reshape(shape)
    return torch.from_numpy(array.astype(np.uint8 if dtype == np.uint8 else np.int64, copy=False))


def read_images(path: Path, sides: tuple[int, int]) -> Tensor:
    """Return the grey images of an idx file as uint8 [N, 1, H, W]; raise DataError for another size."""
    images = read_idx(path, 3)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != sides:
        raise DataError(
            f"images of {list(images.shape[1:])} pixels, {images.dtype}",
            where=str(path),
            expected=f"uint8 of {list(sides)}",
            fix=AGAIN,
        )
    return images.unsqueeze(1)


class _PickledType:
    """Replaces numpy.dtype in a pickle; stores only the type code."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Ignore the byte order, which does not matter for uint8."""


class _PickledBytes:
    """Replaces a NumPy array of uint8 in a pickle: NumPy's own class can crash on a damaged state."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the array from NumPy's pickled state: version, shape, type, Fortran order, content."""
        _, shape, dtype, by_columns, content = state
        if dtype.code != "u1" or min(shape) < 0:
            raise pickle.UnpicklingError("it has an array of another type than uint8")
        raw = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the array."""
        return self.array


class _PlainUnpickler(pickle.Unpickler):
    """Loads numbers, strings, lists, dicts and uint8 arrays; rejects every other function and class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a function or class."""
        if (module, name) == ("numpy", "dtype"):
            return _PickledType
        if (module, name) == ("numpy", "ndarray"):
            return object  # occurs only as the first argument of _reconstruct
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _PickledBytes
        if (module, name) == ("_codecs", "encode"):  # Python 3 writes bytes this way in protocol 2
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it uses {module}.{name}, which is not allowed")


def _unpickle(content: bytes) -> Any:
    """Return the plain values of a pickle; a damaged pickle can raise any exception."""
    for code, value, _ in pickletools.genops(content):  # the C unpickler allocates memory for these indices
        if code.name in ("PUT", "LONG_BINPUT") and not 0 <= int(value or 0) <= len(content):
            raise pickle.UnpicklingError(f"it has the memo index {value:,}")
    return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle of numbers, strings, lists, dicts and uint8 arrays."""
    return _unpickle(_read_bytes(path))


def read_cifar_batch(path: Path, key: str, classes: int) -> Split:
    """Return one pickled batch of CIFAR; reject pickles with other objects than numbers, strings and arrays.

    Args:
        path: the file, as `data_batch_1`.
        key: key of the labels: `labels`, or `fine_labels` in CIFAR-100.
        classes: number of classes.
    """
    content = _read_bytes(path)
    try:
        entry = _unpickle(content)
        images, labels = np.asarray(entry["data"]), np.asarray(entry[key])
    except Exception as error:  # a damaged pickle can raise any exception
        raise DataError(f"not a CIFAR batch: {error!r}", where=str(path), fix=AGAIN) from error
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
            expected="uint8 [N, 3072] and integers [N], at least one",
            fix=AGAIN,
        )
    numbers = check_labels(torch.from_numpy(labels.astype(np.int64)), classes, str(path))
    return Split(torch.from_numpy(images.copy()).view(-1, 3, 32, 32), numbers)


def _check_mat(content: bytes) -> None:
    """Raise ValueError if a .mat file has types that are not valid: SciPy crashes on them."""
    if content[126:128] != b"IM":
        raise ValueError("it is not a little-endian .mat file of version 5")
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
            raise ValueError("it has other content than complete real arrays")
        inner = 0
        while inner < size:
            kind, length = struct.unpack_from("<II", body, inner)
            inner += 8 if kind >> 16 else 8 + (length + 7) // 8 * 8
            if kind & 0xFFFF not in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13):
                raise ValueError(f"it has an element of type {kind & 0xFFFF}")


def read_svhn(path: Path) -> Split:
    """Return the cropped digits of one .mat file of SVHN; the label 10 becomes 0."""
    from scipy.io import loadmat

    raw = _read_bytes(path)
    try:
        _check_mat(raw)
        content = loadmat(io.BytesIO(raw))
        images, labels = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    except Exception as error:  # a damaged .mat file can raise any exception
        raise DataError(f"not an SVHN file: {error!r}", where=str(path), fix=AGAIN) from error
    if (
        images.dtype != np.uint8
        or images.shape != (32, 32, 3, len(labels))
        or labels.dtype.kind not in "iu"
        or len(labels) == 0
    ):
        raise DataError(
            f"images {images.dtype} {list(images.shape)} and {len(labels):,} labels {labels.dtype}",
            where=str(path),
            expected="uint8 [32, 32, 3, N] and N integers",
            fix=AGAIN,
        )
    numbers = check_labels(torch.from_numpy(labels.astype(np.int64)) - 1, 10, f"{path} (minus 1)")
    return Split(torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), (numbers + 1) % 10)


def read_usps(path: Path) -> Split:
    """Return the digits of one USPS file (libsvm format, bzip2); labels - 1, pixels as 0 to 255."""
    content = _read_bytes(path)
    try:
        rows = [line.split() for line in _whole_bz2(content).decode("ascii").splitlines()]
        labels = torch.tensor([int(row[0]) - 1 for row in rows])
        places = [f"{n}:" for n in range(1, 257)]
        for row in rows:
            if [cell[: cell.find(":") + 1] for cell in row[1:]] != places:
                raise ValueError("a line does not have the pixels 1 to 256 in this order")
        pixels = np.array([[float(cell.split(":")[1]) for cell in row[1:]] for row in rows], dtype=np.float32)
    except Exception as error:  # such as torch's RuntimeError for a label outside int64
        raise DataError(f"not a USPS file: {error}", where=str(path), fix=AGAIN) from error
    if pixels.shape != (len(labels), 256) or len(labels) == 0 or not (np.abs(pixels) <= 1).all():
        raise DataError(
            f"pixels of shape {list(pixels.shape)}",
            where=str(path),
            expected="256 numbers from -1 to 1 in every line",
            fix=AGAIN,
        )
    images = torch.from_numpy(((pixels + 1) / 2 * 255).astype(np.uint8))  # rounds down, as torchvision does
    return Split(images.view(-1, 1, 16, 16), check_labels(labels, 10, str(path)))


def _whole_bz2(content: bytes) -> bytes:
    """Decompress a bzip2 file; `bz2.decompress` ignores the data after a damaged stream."""
    parts: list[bytes] = []
    while content or not parts:
        stream = bz2.BZ2Decompressor()
        parts.append(stream.decompress(content))
        if not stream.eof:
            raise EOFError("it ends without an end-of-stream marker")
        content = stream.unused_data
    return b"".join(parts)


def _read_bytes(path: Path) -> bytes:
    try:
        check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror}", where=str(path))


def check_md5(path: Path, md5: str, name: str) -> None:
    """Raise DataError if the MD5 of a file differs from `md5`; `name` is the name of the data set."""
    found = hashlib.md5(_read_bytes(path), usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"damaged: its MD5 is {found}",
            where=str(path),
            expected=md5,
            fix=f"delete the file and run `optlab prepare {name}` to download it again",
        )
