"""Check that a file is regular and fits in memory before reading it, so that every read ends."""

from __future__ import annotations

import stat
from pathlib import Path

from trainer.data.dataset import memory_bytes
from trainer.errors import DataError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_file(file: Path) -> None:
    """Check that a file is a regular file that fits in memory.

    Raises:
        DataError: the file is not a regular file, or is larger than the machine's memory.
        OSError: the file does not exist or its status cannot be read.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for holds, name in _KINDS if holds(found.st_mode)), "not a regular file")
        raise DataError(f"this is {kind}", where=str(file), expected="a regular file, or a link to one")
    memory = memory_bytes()
    if found.st_size > memory:
        raise DataError(
            f"a file of {found.st_size / 2**30:,.1f} GiB, with {memory / 2**30:,.1f} GiB of memory",
            where=str(file),
            expected="a file that fits in memory",
        )


def user_file(path: str | Path) -> Path:
    """Return the file that `data.path` names, checked by `check_file`.

    Raises:
        DataError: the file does not exist, cannot be read, is not a regular file, or is larger than the
            machine's memory.
    """
    file = Path(path).expanduser()
    try:
        check_file(file)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {file}", key="path", fix="check data.path") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    return file
