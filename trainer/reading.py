"""Reads a file that may be damaged, foreign or made to harm: regular files only, up to a size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from trainer.errors import RunError


def read_regular(path: Path, limit: int) -> bytes:
    """Return a file's content.

    Links in the last place of the path are not followed, and a FIFO or a device is never waited for.

    Args:
        path: the file.
        limit: most bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        RunError: it is no regular file, is too large, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RunError(f"cannot read {path}: {_reason(error)}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise RunError(f"cannot read {path}: it is not a regular file")
    with open(descriptor, "rb") as file:
        size = found.st_size
        if size > limit:
            raise RunError(f"cannot read {path}: it has {size:,} bytes", expected=f"at most {limit:,}")
        try:
            return file.read(size)  # what a writer appends meanwhile is for the next reader
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, and those are not followed"
    return error.strerror or str(error)
