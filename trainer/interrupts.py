"""Ctrl-C from the first moment on, also where other packages swallow it.

A KeyboardInterrupt that arrives while a package is imported may end up in one of its `except:` clauses, or
come out as another error. So the request is remembered, and asked for (`check`) before a run begins.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_CODE = 130

_received = False


def leave_at_once() -> None:
    """Let SIGINT end the process while it has nothing to clean up: the command line is being imported."""
    signal.signal(signal.SIGINT, _leave)


def remember() -> None:
    """Let the first SIGINT raise KeyboardInterrupt and be remembered; a second one ends the process."""
    signal.signal(signal.SIGINT, _raise)


def received() -> bool:
    """Return whether a SIGINT has come since `remember`."""
    return _received


def check() -> None:
    """Raise KeyboardInterrupt when a SIGINT has come; somebody else may have swallowed the first."""
    if _received:
        raise KeyboardInterrupt


def exit_code(name: str) -> int:
    """Return the exit code of what the named signal ended: 143 SIGTERM, 129 SIGHUP, else 130."""
    return {"SIGTERM": 143, "SIGHUP": 129}.get(name, EXIT_CODE)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        os._exit(EXIT_CODE)
    _received = True
    raise KeyboardInterrupt
