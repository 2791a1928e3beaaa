"""The lock of a run directory, and the check that this process still holds it.

The lock is an flock on the file `lock`; a crash releases it. Some shared file systems apply an flock only
within one host. The file therefore names the host of its holder, who touches it every few seconds and sets
its time to 0 at the end. On another host a lock counts as held until it has not been touched for a minute;
then it is deleted and created anew.

If someone deletes that file, a second process can lock the directory. The holder therefore checks before
every write that it still owns the run: the path of the lock is still the file that it locked, and status.json
still names it as the writer.

filelock would replace only the calls of flock: it has no shared lock for `is_locked`, does not check that
`lock` was written by optlab, and does not check during a run that the path is still the locked file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from trainer.errors import BusyError, RunError
from trainer.runs import run_files
from trainer.runs.files import HOST, VanishedError, no_follow
from trainer.runs.run_files import LOCK, STATUS

_TRIES, _PAUSE_SECONDS, _WAIT_SECONDS = 5, 0.02, 0.5
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Age of a heartbeat after which another host takes over a lock; clocks must differ by less than this."""

_CONTENT = re.compile(rb"(p|pi|pid|pid \d*( [\w. -]*)?\n?)?\Z")  # possibly truncated by a full disk
_WHOLE = re.compile(rb"pid \d+( on (?P<host>[\w.-]+))?\n\Z")
_MAX_BYTES = 200


class LostError(VanishedError):
    """Another process took over the run while this one was writing it."""


class RunLock:
    """The lock of a directory, held by this process.

    Args:
        folder: the directory.
        file: its open and locked lock file.
    """

    def __init__(self, folder: Path, file: IO[str]) -> None:
        self.folder = folder
        self.name = uuid4().hex
        self._file = file
        self._own_status: os.stat_result | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def _beat(self) -> None:
        """Touch the lock file until the lock is released, so that other hosts see that it is held."""
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with suppress(OSError, ValueError):  # ValueError: closed in the meantime
                os.utime(self._file.fileno())

    def check(self) -> None:
        """Check that this process still owns the run; takes a few microseconds.

        Raises:
            LostError: another process owns it.
            VanishedError: the directory does not exist any more.
        """
        lock = _lstat(self.folder / LOCK)
        if lock is None:
            self._reacquire()
        elif not os.path.samestat(lock, os.fstat(self._file.fileno())):
            raise self._lost()
        if self._own_status is None:
            return
        status = _lstat(self.folder / STATUS)
        if status is not None and _unchanged(status, self._own_status):
            return
        try:
            writer = run_files.read_status(self.folder).writer
        except RunError as error:
            raise self._lost() from error
        if writer != self.name:
            raise self._lost()
        self.record_writer()

    def record_writer(self) -> None:
        """Record the current status.json, which names this process as the writer, for later checks."""
        self._own_status = _lstat(self.folder / STATUS)

    def close(self) -> None:
        """Release the lock."""
        self._closed.set()
        with suppress(OSError):  # no write, which a full disk would refuse
            os.utime(self._file.fileno(), (0, 0))
        self._file.close()

    def _reacquire(self) -> None:
        """Lock the directory again after its lock file was deleted, unless another process has locked it."""
        try:
            file = open(self.folder / LOCK, "x+", encoding="utf-8", opener=no_follow)  # noqa: SIM115
        except FileNotFoundError as error:
            raise VanishedError(f"{self.folder} was moved or deleted during the run") from error
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
            fix="the other process continues the run; this one has stopped and writes nothing more",
        )


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _unchanged(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[RunLock]:
    """Hold the lock of a directory; a crash releases it.

    Args:
        path: the directory; created if missing.
        wait: wait until another process that holds the lock releases it.

    Raises:
        BusyError: another process holds the lock, and `wait` is false.
        RunError: the directory cannot be written, or its `lock` was not written by optlab.
    """
    while True:
        file, created = _open(path)
        try:
            _lock(file, wait)
        except OSError as error:
            busy = _busy(path, file)
            file.close()
            raise busy from error
        status = _lstat(path / LOCK)
        if status is None or not os.path.samestat(status, os.fstat(file.fileno())):
            file.close()  # deleted between opening and locking
            continue
        if created or not _is_foreign(_content(file)):
            break
        if _held_elsewhere(file.fileno()):
            busy = _busy(path, file)
            file.close()
            if not wait:
                raise busy
            time.sleep(_WAIT_SECONDS)
            continue
        # Of another host: a new file, so that its holder, if it still exists, notices that it lost the lock.
        with suppress(OSError):
            os.unlink(path / LOCK)
        file.close()
    run_lock = RunLock(path, file)
    try:
        _write_holder(file)
        yield run_lock
    finally:
        run_lock.close()


def _busy(path: Path, file: IO[str]) -> BusyError:
    holder = _content(file).decode(errors="replace").strip()
    return BusyError(
        f"{path} is being written by another process" + (f" ({holder})" if holder else ""),
        fix="use --wait to wait for it, or choose another --run-dir",
    )


def _content(file: IO[str]) -> bytes:
    """Return the content of a lock file; if another process has just created it, wait until it is written."""
    while True:
        content = os.pread(file.fileno(), _MAX_BYTES, 0)
        if content or abs(time.time() - os.fstat(file.fileno()).st_mtime) > 1:
            return content
        time.sleep(_PAUSE_SECONDS)


def _is_foreign(content: bytes) -> bool:
    """Return whether a lock file names another host."""
    match = _WHOLE.match(content)
    return match is not None and match["host"] not in (None, HOST.encode())


def _held_elsewhere(descriptor: int) -> bool:
    """Return whether a process on another host holds this lock."""
    if not _is_foreign(os.pread(descriptor, _MAX_BYTES, 0)):
        return False
    return time.time() - os.fstat(descriptor).st_mtime < STALE_SECONDS


def _open(path: Path) -> tuple[IO[str], bool]:
    """Open the lock file of a directory; return it, and whether this process created it.

    Only one process on all hosts can create it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            return open(path / LOCK, "x+", encoding="utf-8", opener=no_follow), True
        file = open(path / LOCK, "a+", encoding="utf-8", errors="replace", opener=no_follow)  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            reason = f"{LOCK} is a symbolic link"
        raise RunError(f"cannot write in {path}: {reason}", fix="choose another --run-dir") from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or not _CONTENT.match(os.pread(file.fileno(), _MAX_BYTES, 0)):
        file.close()
        raise RunError(f"{path / LOCK} was not written by optlab", fix="choose another --run-dir")
    return file, False


def is_lock_file(lock: Path) -> bool:
    """Return whether a `lock` file was written by optlab."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and bool(_WHOLE.match(file.read(_MAX_BYTES)))


def _write_holder(file: IO[str]) -> None:
    """Write the process id and the host of the holder; a full disk must not stop the run here."""
    with suppress(OSError):
        file.seek(0)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {HOST}\n")
        file.flush()


def _lock(file: IO[str], wait: bool) -> None:
    """Take the lock. Tries several times, because `is_locked` in another process holds it for a moment."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_PAUSE_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def is_locked(path: Path) -> bool:
    """Return whether a process on this or another host holds the lock of this run directory."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _held_elsewhere(descriptor)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
