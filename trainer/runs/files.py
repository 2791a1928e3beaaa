"""Atomic writes, append-only tables and symbolic links.

CSV files are append-only. Every other file is written under a temporary name, synced and renamed, so that no
reader sees an incomplete file, even after a crash. A guard is called just before a file changes, and raises
if the file must not change. Does not import torch.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from trainer.errors import StorageError
from trainer.records import Cell, format_header, format_row

_MAX_PENDING = 64 << 20
_CHUNK = 1 << 20

Guard = Callable[[], None]


def _host() -> str:
    """Return a name of this host that differs after every boot, as its file locks do."""
    name = re.sub(r"[^\w.-]", "-", os.uname().nodename, flags=re.ASCII)[:64]
    with suppress(OSError):  # Linux
        name += "-" + Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return name


HOST = _host()


def temporary_name(name: str) -> str:
    """Return a hidden name next to a file that no other process uses, on any host."""
    return f".{name}.{HOST.replace('.', '-')}-{os.getpid()}.tmp"


class VanishedError(StorageError):
    """A file of a run was moved, replaced or deleted while the run was writing it."""


def no_follow(path: str, flags: int) -> int:
    """Open a file unless it is a symbolic link; for use as the `opener` of `open`."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def kind(path: Path) -> str:
    """Return the type of a path: absent, file, directory, symbolic link (not followed) or special file.

    Raises:
        OSError: the system does not allow access to the path.
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
    """Return the error for a file that cannot be written."""
    fixes = {
        errno.ENOSPC: "free some space, or use --runs DIR to write elsewhere",
        errno.EDQUOT: "free some space, or use --runs DIR to write elsewhere",
        errno.ENOENT: "do not move or delete the directory during the run",
        errno.ELOOP: "replace the symbolic link with a regular file or directory",
    }
    fix = fixes.get(error.errno or 0, "check that the directory is writable")
    return StorageError(f"cannot write {path}: {error.strerror}", fix=fix)


def write_atomically(
    path: Path,
    content: str | bytes,
    *,
    former: Path | None = None,
    verify: bool = False,
    guard: Guard | None = None,
) -> None:
    """Write a file atomically: temporary name, fsync, rename.

    Args:
        path: the file. A symbolic link is replaced, never followed.
        content: the new content.
        former: path under which the existing file is kept.
        verify: read the new file back and compare it before the rename.
        guard: called just before the rename.

    Raises:
        StorageError: the file cannot be written; the existing file is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=no_follow) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if verify and temporary.read_bytes() != data:
            raise OSError(errno.EIO, "the data read back differs from the data written")
        if guard is not None:
            guard()
        if former is not None:
            _keep(path, former)
        os.replace(temporary, path)
        if verify:
            sync_folder(path.parent)
    except (OSError, StorageError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, StorageError):
            raise
        raise refused(path, error) from error


def _keep(path: Path, former: Path) -> None:
    """Give the existing file a second name, so that `path` exists at all times."""
    link = former.with_name(temporary_name(former.name))
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
    """Sync a folder, so that renames in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder in a run directory. Raise StorageError if that fails or it is a symbolic link."""
    try:
        path.mkdir(exist_ok=True)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
    except OSError as error:
        raise refused(path, error) from error


def write_json(path: Path, content: Mapping[str, Any], *, guard: Guard | None = None) -> None:
    """Write JSON atomically; NaN and infinity, which JSON does not have, become null."""
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
    """An append-only, unbuffered CSV file with fixed columns.

    Rows that cannot be written are kept in memory and written when writes succeed again. A table that is
    continued is copied first, so that a process that lost the run, or a hard link, keeps the old file.

    Args:
        path: the file.
        columns: its header.
        size: number of bytes to keep of the existing file; None = start a new file.
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
        if not size:  # written atomically, so that a kill leaves no incomplete header
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
        """Replace the existing file with a copy of its first `size` bytes."""
        path = self._path
        temporary = path.with_name(temporary_name(path.name))
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
                    raise OSError(errno.EIO, f"it is {left} bytes shorter than its checkpoint says")
                new.flush()
                os.fsync(new.fileno())
            self._guard()
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise refused(path, error) from error

    def append(self, row: Mapping[str, Cell]) -> None:
        """Write one row. If that fails, keep the row and set `failure` to the error.

        Raises:
            StorageError: more than 64 MiB of rows are pending, or the guard raised.
        """
        self._guard()
        self._write(format_row(self.columns, row))
        if self.failure and len(self._pending) > _MAX_PENDING:
            raise self.failure

    def _write(self, line: str) -> None:
        self._pending += line.encode()
        self.failure = None
        try:
            while self._pending:  # a disk that fills up accepts only a part
                written = self._file.write(self._pending)
                self._pending = self._pending[written:]
                self._size += written
        except OSError as error:
            self.failure = refused(self._path, error)

    def flush(self, *, sync: bool = False) -> int:
        """Write all pending rows, to disk if `sync` is true; return the size of the file in bytes.

        Raises:
            StorageError: the rows cannot be written.
            VanishedError: the file was moved, replaced or deleted.
        """
        self._guard()
        self._write("")
        if self.failure:
            raise self.failure
        try:
            if not os.path.samestat(os.lstat(self._path), os.fstat(self._file.fileno())):
                raise FileNotFoundError(errno.ENOENT, "another file replaced it")
            if sync:
                os.fsync(self._file.fileno())
        except FileNotFoundError as error:
            raise VanishedError(f"{self._path} was moved, replaced or deleted during the run") from error
        except OSError as error:
            raise refused(self._path, error) from error
        return self._size

    def __str__(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def close(self) -> None:
        """Close the file and discard pending rows."""
        with suppress(OSError):
            self._file.close()


def _allow() -> None:
    """Allow every write (the default guard)."""
