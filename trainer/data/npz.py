"""The user's own arrays: one .npz file of `x_train y_train x_test y_test`, and `x_val y_val` by choice.

Pickled content is never read.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.arrays import Layout, TargetType, check_keys, from_arrays
from trainer.data.cache import cached
from trainer.data.dataset import Dataset, memory_bytes
from trainer.data.files import check_file
from trainer.errors import DataError

# Deflate packs zeros 1,030 to 1, and images or labels hardly ever 100 to 1.
_SWOLLEN_RATIO, _SWOLLEN_BYTES = 500, 1 << 30


def npz(*, path: str | Path, layout: Layout = "auto", target_type: TargetType = "auto") -> Dataset:
    """Return the arrays of one .npz file as a data set; a compressed file is unpacked once, into the cache.

    Args:
        path: the file, with arrays x_train, y_train, x_test, y_test, and x_val, y_val for a validation split
            of its own. Inputs: uint8 or float, [N, H, W], [N, H, W, C], [N, C, H, W] or flat [N, D].
            Targets: integers [N] or [N, 1], or floats [N] or [N, K].
        layout: where the channels of 4-dimensional inputs are; auto = the side that has 1, 3 or 4 of them.
        target_type: classes = integers from 0; real = real values (regression), also where they are integers;
            auto = floats are real values, integers are classes, and a note says so.

    Raises:
        DataError: the file is absent, no regular file, damaged or larger than the machine's memory; an array
            is missing, of another type, length or shape, has NaN or infinity, or labels outside the training
            classes.
    """
    file = Path(path).expanduser()
    try:
        check_file(file)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {file}", key="path", fix="check data.path") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    if _is_compressed(file):
        return cached(
            [file], lambda: _decode(file, layout, target_type), variant=["npz", layout, target_type]
        )
    return _decode(file, layout, target_type)


def _is_compressed(file: Path) -> bool:
    """Return whether an array has to be unpacked; False also where the file cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # told by the reading proper
        return False


def _decode(file: Path, layout: Layout, target_type: TargetType) -> Dataset:
    arrays, unused = _read_arrays(file)
    return from_arrays(arrays, where=str(file), layout=layout, target_type=target_type, unused=unused)


def _read_arrays(file: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the arrays, after a look at the sizes and types they declare; name those that are not read."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            how = "write it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
            keys = check_keys(names, str(file), how)
            for entry in archive.infolist():
                if entry.file_size > max(_SWOLLEN_BYTES, _SWOLLEN_RATIO * entry.compress_size):
                    raise DataError(
                        f"{entry.filename} swells from {entry.compress_size:,} bytes to {entry.file_size:,}",
                        where=str(file),
                        expected="data, which does not compress so well",
                        fix="write it with np.savez if it is what you mean",
                    )
            declared = sum(_declared_bytes(archive, file, key) for key in keys)
            memory = memory_bytes()
            if declared > memory:
                raise DataError(
                    f"arrays of {declared / 2**30:,.1f} GiB of {memory / 2**30:,.1f} GiB memory",
                    where=str(file),
                    fix="make the set smaller, or store images as uint8",
                )
            return {key: _read_array(archive, file, key) for key in keys}, sorted(names - set(keys))
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
