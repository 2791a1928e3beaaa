"""Which files a reader may read: regular ones that fit in memory, so that no read is endless."""

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
    """Raise DataError where `file` is there and is no regular file, or is larger than the machine's memory.

    Raises:
        OSError: it is not there or cannot be looked at.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for holds, name in _KINDS if holds(found.st_mode)), "no regular file")
        raise DataError(f"this is {kind}", where=str(file), expected="a regular file, or a link to one")
    memory = memory_bytes()
    if found.st_size > memory:
        raise DataError(
            f"a file of {found.st_size / 2**30:,.1f} GiB, with {memory / 2**30:,.1f} GiB of memory",
            where=str(file),
            expected="a file that fits in memory",
        )
