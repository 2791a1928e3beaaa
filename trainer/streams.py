"""Standard output and standard error that may be closed, full or missing while a run trains.

Results go to the stdout that the process was started with. While a command runs, `sys.stdout` is stderr, so
that the output of a user's component does not mix with results. Output that stderr does not accept is
dropped, because a run has its log. Output that stdout does not accept raises an OutputError.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from trainer.errors import OutputError

_WAIT_SECONDS = 1.0
"""Timeout for a non-blocking stderr that does not accept output; after it, output is dropped."""


class _Stream:
    """A text stream that forwards everything to another one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def write(self, text: str) -> int:
        raise NotImplementedError

    def isatty(self) -> bool:
        try:
            return self._file.isatty()
        except (AttributeError, OSError, ValueError):
            return False


class _Lenient(_Stream):
    """Drops everything after the first error."""

    _failed = False

    def write(self, text: str) -> int:
        if not self._failed:
            try:
                _write_whole(self._file, text, wait=_WAIT_SECONDS)
            except (AttributeError, OSError, ValueError):  # stream is None, not writable, or closed
                self._failed = True
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""


class _ToStderr(_Stream):
    """Writes to the current `sys.stderr`, which a progress display replaces temporarily."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Results(_Stream):
    """Raises OutputError if the stream does not accept output; waits for a slow reader without a limit."""

    def write(self, text: str) -> int:
        try:
            _write_whole(self._file, text, wait=None)
        except OSError as error:
            raise OutputError(error.strerror or str(error), closed=error.errno == errno.EPIPE) from error
        except (AttributeError, ValueError) as error:  # stream is None, or closed
            raise OutputError(str(error)) from error
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""


def _write_whole(file: TextIO, text: str, *, wait: float | None) -> None:
    """Write a whole text without buffering, because flushing a buffer at interpreter exit could fail again.

    Args:
        file: characters that its encoding lacks are escaped (`\\u2013`).
        text: the text.
        wait: timeout in seconds for a non-blocking stream; None = no limit.
    """
    encoding = getattr(file, "encoding", None) or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = None
    if isinstance(file, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):
            descriptor = file.fileno()
    if descriptor is None:  # a file in memory, or the stderr of a progress display
        file.write(data.decode(encoding))
        file.flush()
        return
    file.flush()
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            if not select.select([], [descriptor], [], wait)[1]:
                raise


def lenient(file: TextIO) -> TextIO:
    """Return a stream that drops output that the given one does not accept. It never raises."""
    return cast(TextIO, file if isinstance(file, _Lenient) else _Lenient(file))


_results: TextIO | None = None


def results() -> TextIO:
    """Return the stream for results: the stdout with which the command was started."""
    file = _results or sys.stdout
    return cast(TextIO, file if isinstance(file, _Results) else _Results(file))


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, ignore errors of stderr and turn errors of stdout into an OutputError."""
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = results(), lenient(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former


@contextmanager
def components_print_to_stderr() -> Iterator[None]:
    """Make `print` write to stderr within the block. `results` does not change."""
    global _results
    former = sys.stdout, _results
    _results = results()
    sys.stdout = cast(TextIO, _ToStderr(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, _results = former


def guard_worker() -> None:
    """Send all output of a worker process to stderr and ignore errors of stderr."""
    sys.stdout = sys.stderr = lenient(sys.stderr)


def own_descriptors() -> None:
    """Prepare the standard file descriptors of the optlab command.

    Closed descriptors are opened, because otherwise the next file of a run would get their numbers.
    Descriptor 1 is redirected to stderr for output of C code and child processes; `sys.stdout` keeps the
    original.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # 1 is opened for reading, so that writing a result fails, as with `cat`
            os.open(os.devnull, flags)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (lives with the process)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError):  # no descriptor left: output of C code goes to stdout
        real = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = open(real, "w", encoding=encoding)  # noqa: SIM115
