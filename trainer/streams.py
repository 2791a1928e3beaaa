"""Standard output and standard error, which may be closed, full or gone while a run trains.

Results go to the stdout that the process was started with. While a command runs, `sys.stdout` is stderr, so
that what a user's component prints never mixes with results. What stderr does not take is dropped: a run
has its log. What stdout does not take is an OutputError.
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
"""How long stderr may be busy, where it does not block, before it counts as gone."""


class _Stream:
    """A text stream that passes everything on to another."""

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
            except (AttributeError, OSError, ValueError):  # there is none, it does not take it, it is closed
                self._failed = True
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` leaves nothing behind."""


class _ToStderr(_Stream):
    """Writes to what `sys.stderr` is at the moment: a progress display takes it over for its time."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Results(_Stream):
    """Raises OutputError where the stream does not take something; waits for a reader as long as it takes."""

    def write(self, text: str) -> int:
        try:
            _write_whole(self._file, text, wait=None)
        except OSError as error:
            raise OutputError(error.strerror or str(error), closed=error.errno == errno.EPIPE) from error
        except (AttributeError, ValueError) as error:  # there is none, it is closed
            raise OutputError(str(error)) from error
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` leaves nothing behind."""


def _write_whole(file: TextIO, text: str, *, wait: float | None) -> None:
    """Write all of a text, past the buffers, which would fail again when the interpreter ends.

    Args:
        file: what its encoding lacks is written out (`\\u2013`).
        text: everything.
        wait: seconds that a stream which does not block may be busy; None = no limit.
    """
    encoding = getattr(file, "encoding", None) or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = None
    if isinstance(file, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):
            descriptor = file.fileno()
    if descriptor is None:  # a file in memory, a progress display that prints above itself
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
    """Return a stream that drops what the given one does not take; it never raises."""
    return cast(TextIO, file if isinstance(file, _Lenient) else _Lenient(file))


_results: TextIO | None = None


def results() -> TextIO:
    """Return the stream for results: the stdout that the command was started with."""
    file = _results or sys.stdout
    return cast(TextIO, file if isinstance(file, _Results) else _Results(file))


@contextmanager
def guarded() -> Iterator[None]:
    """Let nothing fail for the sake of stderr, and stdout only with an OutputError, for the block."""
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = results(), lenient(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former


@contextmanager
def components_print_to_stderr() -> Iterator[None]:
    """Let `print` write to stderr for the block; `results` stays what it was."""
    global _results
    former = sys.stdout, _results
    _results = results()
    sys.stdout = cast(TextIO, _ToStderr(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, _results = former


def guard_worker() -> None:
    """Let nothing that a worker process prints fail or reach stdout, from now on."""
    sys.stdout = sys.stderr = lenient(sys.stderr)


def own_descriptors() -> None:
    """Prepare the standard descriptors of a process that is ours alone.

    Those that are closed are opened, else the next file of a run would get their numbers. Descriptor 1
    becomes stderr, for what is printed in C and by child processes; `sys.stdout` keeps the real one.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # 1 opened for reading: a result that nobody will see is an error, as it is for `cat`
            os.open(os.devnull, flags)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (lives with the process)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError):  # no descriptor left: what is printed in C goes to stdout
        real = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = open(real, "w", encoding=encoding)  # noqa: SIM115
