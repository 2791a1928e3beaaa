"""Read a user's arrays from an .npz file: `x_train y_train x_test y_test`, and optionally `x_val y_val`.

Pickled content is never loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.arrays import IntegerTargets, Layout, TargetType, check_keys, from_arrays
from trainer.data.cache import cached
from trainer.data.dataset import Dataset, memory_bytes
from trainer.data.files import user_file
from trainer.errors import DataError

# Deflate compresses zeros 1,030 to 1, and images or labels rarely more than 100 to 1.
_SWOLLEN_RATIO, _SWOLLEN_BYTES = 500, 1 << 30


def npz(
    *,
    path: str | Path,
    layout: Layout = "auto",
    target_type: TargetType = "auto",
    integer_targets: IntegerTargets = "classes",
) -> Dataset:
    """Return the arrays of an .npz file as a data set; the cache stores compressed files unpacked.

    Args:
        path: the file, with arrays x_train, y_train, x_test, y_test, and optionally x_val, y_val for a
            validation split. Inputs: uint8 or float, [N, H, W], [N, H, W, C], [N, C, H, W] or flat [N, D].
            Targets: integers [N] or [N, 1], or floats [N] or [N, K].
        layout: position of the channels in 4-dimensional inputs; auto = the dimension of size 1, 3 or 4.
        target_type: classes = integers from 0; real = real values (regression), also if stored as integers;
            auto = floats are real values; integers are classes, or real values if the task or the loss is one
            of a regression.
        integer_targets: what integers are with auto.

    Raises:
        DataError: the file is missing, not a regular file, damaged or larger than the machine's memory; or an
            array is missing, has a wrong type, length or shape, contains NaN or infinity, or has labels
            outside the training classes.
    """
    file = user_file(path)
    if _is_compressed(file):
        variant = ["npz", layout, target_type, integer_targets]
        return cached([file], lambda: _decode(file, layout, target_type, integer_targets), variant=variant)
    return _decode(file, layout, target_type, integer_targets)


def _is_compressed(file: Path) -> bool:
    """Return whether an array is compressed; False if the file cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # `_read_arrays` reports it
        return False


def _decode(file: Path, layout: Layout, target_type: TargetType, integer_targets: IntegerTargets) -> Dataset:
    arrays, unused = _read_arrays(file)
    return from_arrays(
        arrays,
        where=str(file),
        layout=layout,
        target_type=target_type,
        integer_targets=integer_targets,
        unused=unused,
    )


def _read_arrays(file: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Check the declared sizes and types, and return the arrays and the names of unused ones."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            how = "write it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
            keys = check_keys(names, str(file), how)
            for entry in archive.infolist():
                if entry.file_size > max(_SWOLLEN_BYTES, _SWOLLEN_RATIO * entry.compress_size):
                    raise DataError(
                        f"{entry.filename} decompresses {entry.compress_size:,} bytes to {entry.file_size:,}",
                        where=str(file),
                        expected=f"at most {_SWOLLEN_RATIO} times the compressed size",
                        fix="if the data are correct, save them uncompressed with np.savez",
                    )
            declared = sum(_declared_bytes(archive, file, key) for key in keys)
            memory = memory_bytes()
            if declared > memory:
                raise DataError(
                    f"arrays of {declared / 2**30:,.1f} GiB exceed the {memory / 2**30:,.1f} GiB of memory",
                    where=str(file),
                    fix="use a smaller data set, or store images as uint8",
                )
            return {key: _read_array(archive, file, key) for key in keys}, sorted(names - set(keys))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    except Exception as error:  # for a damaged archive, zipfile and numpy raise many kinds of exceptions
        raise DataError(f"not a valid .npz file: {error}", where=str(file), fix="save it again") from error


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
            raise DataError(f"{key} is not a NumPy array: {error}", where=str(file)) from error
    if dtype.hasobject:
        raise DataError(
            f"{key} has Python objects (pickled), which are never loaded",
            where=str(file),
            expected="plain numbers",
            fix="save it as uint8, float32 or int64",
        )
    count = 1
    for size in shape:  # np.prod could overflow for a forged header
        count *= size
    return count * dtype.itemsize


def _read_array(archive: zipfile.ZipFile, file: Path, key: str) -> NDArray[Any]:
    with archive.open(f"{key}.npy") as stream:
        try:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{key} is damaged or truncated: {error}", where=str(file)) from error
        # zipfile verifies the checksum when the stream is read to its end.
        if stream.read(1):
            raise DataError(f"{key} is longer than its header declares", where=str(file))
    return array
