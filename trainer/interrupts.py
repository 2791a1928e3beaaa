"""Handling of Ctrl-C from process start on, including interrupts that other packages suppress.

A KeyboardInterrupt during an import may be caught by one of the package's `except:` clauses or turned into
another error. Therefore the signal is recorded, and `check` raises it again before a run begins.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_CODE = 130

_received = False


def leave_at_once() -> None:
    """Make SIGINT exit the process at once, while the command line is imported and nothing needs cleanup."""
    signal.signal(signal.SIGINT, _leave)


def remember() -> None:
    """Make the first SIGINT raise KeyboardInterrupt and record it; a second one exits the process."""
    signal.signal(signal.SIGINT, _raise)


def received() -> bool:
    """Return whether a SIGINT has been received since `remember`."""
    return _received


def check() -> None:
    """Raise KeyboardInterrupt if a SIGINT was received; other code may have suppressed the first one."""
    if _received:
        raise KeyboardInterrupt


def exit_code(name: str) -> int:
    """Return the exit code of a run stopped by the named signal: 143 SIGTERM, 129 SIGHUP, else 130."""
    return {"SIGTERM": 143, "SIGHUP": 129}.get(name, EXIT_CODE)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        os._exit(EXIT_CODE)
    _received = True
    raise KeyboardInterrupt
