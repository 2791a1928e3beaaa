"""Files as optlab reads and writes them: bounded reading, whole or no writing, no symbolic links.

CSV files are only ever appended to; everything else is written to a temporary name, synced and renamed, so
that a reader or a crash never meets half a file. A guard, where one is given, is called just before a file
changes and raises an error when it must not. No torch here.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from trainer.errors import StorageError
from trainer.records import Cell, format_header, format_row

_MOST_PENDING = 64 << 20
_CHUNK = 1 << 20

Guard = Callable[[], None]


class VanishedError(StorageError):
    """A run's file is no longer where it was, so what is written goes nowhere."""


def no_follow(path: str, flags: int) -> int:
    """Open a file unless its name is a symbolic link: an `opener` for `open`."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def kind(path: Path) -> str:
    """Return what is at a path, links not followed: absent, file, directory, symbolic link or special file.

    Raises:
        OSError: the path cannot be looked at.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return "absent"
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symbolic link" if stat.S_ISLNK(mode) else "special file"


def refused(path: Path, error: OSError) -> StorageError:
    """Return the error for a file that the system does not write."""
    fixes = {
        errno.ENOSPC: "free some space, or say --runs DIR to write elsewhere",
        errno.EDQUOT: "free some space, or say --runs DIR to write elsewhere",
        errno.ENOENT: "the directory is gone; it was there when the command started",
        errno.ELOOP: "put a regular file or directory there: symbolic links are not followed",
    }
    fix = fixes.get(error.errno or 0, "see that the directory can be written")
    return StorageError(f"cannot write {path}: {error.strerror}", fix=fix)


def write_atomically(
    path: Path,
    content: str | bytes,
    *,
    former: Path | None = None,
    proved: bool = False,
    guard: Guard | None = None,
) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename.

    Args:
        path: the file. A link of that name is replaced, never followed.
        content: what it will hold.
        former: name that the file which is there now is kept under.
        proved: read the new file back and compare before it takes its place.
        guard: called just before it takes its place.

    Raises:
        StorageError: the disk is full or the directory is gone; the former file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=no_follow) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if proved and temporary.read_bytes() != data:
            raise OSError(errno.EIO, "what was read back is not what was written")
        if guard is not None:
            guard()
        if former is not None:
            _keep(path, former)
        os.replace(temporary, path)
        if proved:
            sync_folder(path.parent)
    except (OSError, StorageError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, StorageError):
            raise
        raise refused(path, error) from error


def _keep(path: Path, former: Path) -> None:
    """Give the file that is there a second name, so that at no moment there is none."""
    link = former.with_name(f".{former.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError:  # a file system without hard links
        with open(path, "rb", opener=no_follow) as file:
            link.write_bytes(file.read())
    os.replace(link, former)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder within a run directory; StorageError when that fails or a link is in its place."""
    try:
        path.mkdir(exist_ok=True)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
    except OSError as error:
        raise refused(path, error) from error


def write_json(path: Path, content: Mapping[str, Any], *, guard: Guard | None = None) -> None:
    """Write JSON atomically; NaN and infinity, which JSON has not, become null."""
    write_atomically(path, json.dumps(_finite(content), indent=2) + "\n", guard=guard)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Table:
    """An append-only CSV file with columns fixed from the start; the system gets every row at once.

    Rows that the disk will not take are kept and come first when it takes some again. A table that is
    continued is copied first: a process that lost the run, and whoever else holds the old file by another
    name, keeps that one.

    Args:
        path: the file.
        columns: its header.
        size: bytes to keep of the file that is there; None = it starts anew.
        guard: called before every row and every flush.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], size: int | None = None, *, guard: Guard | None = None
    ) -> None:
        self._path = path
        self._guard = guard or _allow
        self.columns = tuple(columns)
        self._pending = b""
        self.failure: StorageError | None = None
        if not size:  # the header comes whole or not at all: a kill leaves no table that cannot be read
            header = format_header(self.columns).encode()
            write_atomically(path, header, guard=self._guard)
            size = len(header)
        else:
            self._continue(size)
        try:
            self._file: IO[bytes] = open(path, "ab", buffering=0, opener=no_follow)  # noqa: SIM115
        except OSError as error:
            raise refused(path, error) from error
        self._size = size

    def _continue(self, size: int) -> None:
        """Replace the file that is there with a copy of its first bytes."""
        path = self._path
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            with (
                open(path, "rb", opener=no_follow) as old,
                open(temporary, "xb", opener=no_follow) as new,
            ):
                left = size
                while left and (chunk := old.read(min(left, _CHUNK))):
                    new.write(chunk)
                    left -= len(chunk)
                if left:
                    raise OSError(errno.EIO, f"it ends {left} bytes before its checkpoint")
                new.flush()
                os.fsync(new.fileno())
            self._guard()
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise refused(path, error) from error

    def append(self, row: Mapping[str, Cell]) -> None:
        """Write one row; `failure` says why when the disk will not take it now.

        Raises:
            StorageError: more than 64 MiB are waiting, or the guard refuses.
        """
        self._guard()
        self._write(format_row(self.columns, row))
        if self.failure and len(self._pending) > _MOST_PENDING:
            raise self.failure

    def _write(self, line: str) -> None:
        self._pending += line.encode()
        self.failure = None
        try:
            while self._pending:  # a disk that fills up takes a part
                written = self._file.write(self._pending)
                self._pending = self._pending[written:]
                self._size += written
        except OSError as error:
            self.failure = refused(self._path, error)

    def flush(self, *, sync: bool = False) -> int:
        """See that every row is with the system, or on the disk (`sync`); return the file's size in bytes.

        Raises:
            StorageError: the disk will not take it.
            VanishedError: the file is no longer where it was.
        """
        self._guard()
        self._write("")
        if self.failure:
            raise self.failure
        try:
            if not os.path.samestat(os.lstat(self._path), os.fstat(self._file.fileno())):
                raise FileNotFoundError(errno.ENOENT, "another file took its place")
            if sync:
                os.fsync(self._file.fileno())
        except FileNotFoundError as error:
            raise VanishedError(f"{self._path} vanished while the run was going on") from error
        except OSError as error:
            raise refused(self._path, error) from error
        return self._size

    def __str__(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def close(self) -> None:
        """Close the file; rows that still wait are lost."""
        with suppress(OSError):
            self._file.close()


def _allow() -> None:
    """Allow every write: the guard of a table that no process can lose."""
