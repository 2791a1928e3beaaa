"""The lock of a run directory, and the proof that this process still holds it.

The lock is an flock on the file `lock`; a crash releases it. Whoever deletes that file lets a second process
in, so the holder proves before every write that the run is still its own: the lock's path is the file that
it locked, and status.json carries its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from trainer.runs import run_files
from trainer.errors import BusyError, RunError
from trainer.runs.files import VanishedError, no_follow
from trainer.runs.run_files import LOCK, STATUS

_TRIES, _PAUSE_SECONDS = 5, 0.02
_CONTENT = re.compile(rb"(p|pi|pid|pid \d*\n?)?\Z")  # a full disk may have cut it
_WHOLE = re.compile(rb"pid \d+\n\Z")


class LostError(VanishedError):
    """Another process took a run over while this one wrote it."""


class Claim:
    """A directory that this process holds the lock of.

    Args:
        folder: the directory.
        file: its open and locked lock file.
    """

    def __init__(self, folder: Path, file: IO[str]) -> None:
        self.folder = folder
        self.name = uuid4().hex
        self._file = file
        self._signed: os.stat_result | None = None

    def check(self) -> None:
        """See that no other process may write here; costs some microseconds.

        Raises:
            LostError: another one may.
            VanishedError: the directory is gone.
        """
        lock = _lstat(self.folder / LOCK)
        if lock is None:
            self._take_again()
        elif not os.path.samestat(lock, os.fstat(self._file.fileno())):
            raise self._lost()
        if self._signed is None:
            return
        status = _lstat(self.folder / STATUS)
        if status is not None and _unchanged(status, self._signed):
            return
        try:
            writer = run_files.read_status(self.folder).writer
        except RunError as error:
            raise self._lost() from error
        if writer != self.name:
            raise self._lost()
        self.sign()

    def sign(self) -> None:
        """Remember status.json, which carries this claim's name now."""
        self._signed = _lstat(self.folder / STATUS)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def _take_again(self) -> None:
        """Lock the directory anew after somebody deleted its lock, unless another process was faster."""
        try:
            file = open(self.folder / LOCK, "x+", encoding="utf-8", opener=no_follow)  # noqa: SIM115
        except FileNotFoundError as error:
            raise VanishedError(f"{self.folder} vanished while the run was going on") from error
        except OSError as error:
            raise self._lost() from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise self._lost() from error
        self._file.close()
        self._file = file
        _write_holder(file)

    def _lost(self) -> LostError:
        return LostError(
            f"{self.folder} was taken over by another process: its {LOCK} or {STATUS} was replaced",
            fix="the other process goes on with the run; this one has stopped and writes nothing more",
        )


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _unchanged(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[Claim]:
    """Hold a directory's lock; a crash releases it.

    Args:
        path: the directory; it is made.
        wait: until whoever writes there is done.

    Raises:
        BusyError: another process writes there, and this one is not to wait.
        RunError: the directory cannot be written, or its `lock` is not optlab's.
    """
    while True:
        file = _open(path)
        try:
            _lock(file, wait)
        except OSError as error:
            file.seek(0)
            holder = file.read(100).strip()
            file.close()
            raise BusyError(
                f"{path} is being written by another process" + (f" ({holder})" if holder else ""),
                fix="say --wait to wait for it, or choose another --run-dir",
            ) from error
        found = _lstat(path / LOCK)
        if found is not None and os.path.samestat(found, os.fstat(file.fileno())):
            break
        file.close()  # it was deleted between opening and locking
    claim = Claim(path, file)
    try:
        _write_holder(file)
        yield claim
    finally:
        claim.close()


def _open(path: Path) -> IO[str]:
    """Open a directory's lock, and make both where they are not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "a+", encoding="utf-8", errors="replace", opener=no_follow)  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            reason = f"{LOCK} is a symbolic link"
        raise RunError(f"cannot write in {path}: {reason}", fix="choose another --run-dir") from error
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or not _CONTENT.match(os.pread(file.fileno(), 100, 0)):
        file.close()
        raise RunError(f"{path / LOCK} is not optlab's", fix="choose another --run-dir")
    return file


def is_ours(lock: Path) -> bool:
    """Return whether a `lock` is one that a process of optlab left."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and bool(_WHOLE.match(file.read(100)))


def _write_holder(file: IO[str]) -> None:
    """Write who holds the lock, which is for people: a full disk must not stop a run here."""
    with suppress(OSError):
        file.truncate(0)
        file.write(f"pid {os.getpid()}\n")
        file.flush()


def _lock(file: IO[str], wait: bool) -> None:
    """Take the lock; a reader that looks whether it is held (`is_locked`) holds it for a moment itself."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_PAUSE_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def is_locked(path: Path) -> bool:
    """Return whether a living process writes this run directory now."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
