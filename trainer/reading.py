"""Read untrusted files safely: only regular files, up to a maximum size."""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RunError


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a file.

    The file must not be a symbolic link. Reading never blocks on a FIFO or a device.

    Args:
        path: the file.
        limit: maximum size in bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        RunError: the file is not a regular file, is too large, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise RunError(f"cannot read {path}: {_reason(error)}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise RunError(f"cannot read {path}: it is not a regular file")
    with open(descriptor, "rb") as file:
        size = status.st_size
        if size > limit:
            raise RunError(f"cannot read {path}: it has {size:,} bytes", expected=f"at most {limit:,}")
        try:
            return file.read(size)  # ignore what a writer appends in the meantime
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, and symbolic links are not followed"
    return error.strerror or str(error)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while many files are read into objects that are all kept.

    The collector would traverse these objects again and again: a quarter of the time for 10,000 runs.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


FileVersion = tuple[int, int, int]
"""Number, size in bytes and time of change in nanoseconds of a file; zeros if there is none."""


def file_version(path: Path) -> FileVersion:
    """Return what differs after a file was changed or replaced; a symbolic link is not followed."""
    try:
        status = os.lstat(path)
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns
