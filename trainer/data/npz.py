"""The user's own arrays: one .npz file of `x_train y_train x_test y_test`; pickled content is never read."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.cache import cached
from trainer.data.dataset import Dataset, Split, check_labels, make_dataset, memory_bytes
from trainer.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 65_536
_CHANNELS = (1, 3, 4)

Layout = Literal["auto", "nhwc", "nchw"]

# Deflate packs zeros 1,030 to 1, and images or labels hardly ever 100 to 1.
_SWOLLEN_RATIO, _SWOLLEN_BYTES = 500, 1 << 30


def npz(*, path: str | Path, layout: Layout = "auto") -> Dataset:
    """Return the arrays of one .npz file as a data set; a compressed file is unpacked once, into the cache.

    Args:
        path: the file, with arrays x_train, y_train, x_test, y_test. Inputs: uint8 or float, [N, H, W],
            [N, H, W, C], [N, C, H, W] or flat [N, D]. Targets: integers [N] or [N, 1] (classes, from 0), or
            floats [N] or [N, K] (real targets).
        layout: where the channels of 4-dimensional inputs are; auto = the side that has 1, 3 or 4 of them.

    Raises:
        DataError: the file is absent, damaged or larger than the machine's memory; an array is missing, of
            another type, length or shape, has NaN or infinity, or labels outside the training classes.
    """
    file = Path(path).expanduser()
    if _is_compressed(file):
        return cached([file], lambda: _decode(file, layout), variant=["npz", layout])
    return _decode(file, layout)


def _is_compressed(file: Path) -> bool:
    """Return whether an array has to be unpacked; False also where the file cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # told by the reading proper
        return False


def _decode(file: Path, layout: Layout) -> Dataset:
    arrays = _read_arrays(file)
    train = _inputs(arrays["x_train"], layout, f"{file}: x_train")
    test = _inputs(arrays["x_test"], layout, f"{file}: x_test")
    for name, one, other in (("inputs", train.shape[1:], test.shape[1:]), ("types", train.dtype, test.dtype)):
        if one != other:
            raise DataError(f"x_train and x_test have different {name}: {one} and {other}", where=str(file))
    for part, inputs in (("train", train), ("test", test)):
        if len(inputs) != len(arrays[f"y_{part}"]):
            raise DataError(
                f"x_{part} has {len(inputs):,} rows and y_{part} has {len(arrays[f'y_{part}']):,}",
                where=str(file),
                expected="one target for every input",
            )
    targets = [_targets(arrays[f"y_{part}"], f"{file}: y_{part}") for part in ("train", "test")]
    if targets[0].shape[1:] != targets[1].shape[1:] or targets[0].dtype != targets[1].dtype:
        raise DataError(
            "y_train and y_test differ in kind: "
            + " and ".join(f"{target.dtype} {list(target.shape)}" for target in targets),
            where=str(file),
            expected="both class numbers, or both real targets of one width",
        )
    if targets[0].is_floating_point():
        return make_dataset(Split(train, targets[0]), Split(test, targets[1]), None)
    classes = _count_classes(targets[0], f"{file}: y_train")
    y_test = check_labels(targets[1], classes, f"{file}: y_test")
    return make_dataset(Split(train, targets[0]), Split(test, y_test), [str(n) for n in range(classes)])


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read the four arrays, after a look at the sizes and types they declare."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            missing = [key for key in KEYS if f"{key}.npy" not in names]
            if missing:
                raise DataError(
                    f"no array {', '.join(missing)}",
                    where=str(file),
                    expected=f"arrays {', '.join(KEYS)}",
                    fix=f"it has {', '.join(sorted(name.removesuffix('.npy') for name in names)) or 'none'}; "
                    "write it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)",
                )
            for entry in archive.infolist():
                if entry.file_size > max(_SWOLLEN_BYTES, _SWOLLEN_RATIO * entry.compress_size):
                    raise DataError(
                        f"{entry.filename} swells from {entry.compress_size:,} bytes to {entry.file_size:,}",
                        where=str(file),
                        expected="data, which does not compress so well",
                        fix="write it with np.savez if it is what you mean",
                    )
            declared = sum(_declared_bytes(archive, file, key) for key in KEYS)
            memory = memory_bytes()
            if declared > memory:
                raise DataError(
                    f"arrays of {declared / 2**30:,.1f} GiB of {memory / 2**30:,.1f} GiB memory",
                    where=str(file),
                    fix="make the set smaller, or store images as uint8",
                )
            return {key: _read_array(archive, file, key) for key in KEYS}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {file}", key="path", fix="check data.path") from error
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        raise DataError(f"not a whole .npz file: {error}", where=str(file), fix="write it again") from error


def _declared_bytes(archive: zipfile.ZipFile, file: Path, key: str) -> int:
    """Return the bytes that one array's header declares, without reading the array."""
    with archive.open(f"{key}.npy") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(stream)
        except (ValueError, EOFError) as error:
            raise DataError(f"{key} is no numpy array: {error}", where=str(file)) from error
    if dtype.hasobject:
        raise DataError(
            f"{key} holds Python objects (pickled), which are never read",
            where=str(file),
            expected="plain numbers",
            fix="save it as uint8, float32 or int64",
        )
    count = 1
    for size in shape:  # np.prod would overflow on a forged header
        count *= size
    return count * dtype.itemsize


def _read_array(archive: zipfile.ZipFile, file: Path, key: str) -> NDArray[Any]:
    with archive.open(f"{key}.npy") as stream:
        try:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{key} is damaged or cut short: {error}", where=str(file)) from error
        # Reading on to the end lets zipfile compare the checksum.
        if stream.read(1):
            raise DataError(f"{key} is longer than its header says", where=str(file))
    return array


def _inputs(array: NDArray[Any], layout: Layout, where: str) -> Tensor:
    """Return inputs as uint8 or float32, [N, C, H, W] or [N, D]."""
    if not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise DataError(
            f"inputs of type {array.dtype}",
            where=where,
            expected="uint8 (pixels 0 to 255) or a float type",
            fix="convert with .astype(np.uint8) or .astype(np.float32)",
        )
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise DataError(
            f"inputs of shape {list(array.shape)}",
            where=where,
            expected="[N, D], [N, H, W], [N, H, W, C] or [N, C, H, W], none of them 0",
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and _channels_last(array.shape, layout, where):
        array = array.transpose(0, 3, 1, 2)
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # too large for float32 = infinity, which is refused just below
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
    return _finite(tensor, where)


def _channels_last(shape: tuple[int, ...], layout: Layout, where: str) -> bool:
    if layout != "auto":
        return layout == "nhwc"
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        raise DataError(
            f"inputs of shape {list(shape)} do not tell where the channels are",
            where=where,
            expected="1, 3 or 4 channels on one side only",
            fix="say data.layout=nhwc or data.layout=nchw",
        )
    return last


def _finite(tensor: Tensor, where: str) -> Tensor:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        wrong = (~tensor.flatten(1).isfinite()).any(1).nonzero().flatten()
        raise DataError(
            f"NaN or infinity (as float32) in {len(wrong):,} of {len(tensor):,} rows: {int(wrong[0])} ...",
            where=where,
            expected="finite numbers",
        )
    return tensor


def _targets(array: NDArray[Any], where: str) -> Tensor:
    """Return class numbers as int64 [N], or real targets as float32 [N, K]."""
    kind, shape = array.dtype.kind, array.shape
    if kind == "f" and len(shape) in (1, 2) and 0 not in shape:
        with np.errstate(over="ignore"):  # as in _inputs
            real = torch.from_numpy(array.astype(np.float32).reshape(shape[0], -1))
        return _finite(real, where)
    if kind in "iu" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        largest = int(array.max(initial=0))
        if largest >= MAX_CLASSES:  # also keeps uint64 from wrapping around
            raise DataError(
                f"label {largest}", where=where, expected=f"classes from 0, below {MAX_CLASSES:,}"
            )
        return torch.from_numpy(array.astype(np.int64).reshape(-1))
    raise DataError(
        f"targets of type {array.dtype} and shape {list(shape)}",
        where=where,
        expected="class numbers: integers [N] or [N, 1]; real targets: floats [N] or [N, K]",
        fix="turn one-hot rows into numbers with .argmax(1)" if kind in "iub" and len(shape) == 2 else "",
    )


def _count_classes(labels: Tensor, where: str) -> int:
    """Return the number of classes: the largest training label and one more."""
    classes = int(labels.max()) + 1
    check_labels(labels, max(classes, 1), where)
    return classes
