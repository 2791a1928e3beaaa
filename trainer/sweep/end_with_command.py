"""Ends the process that imports this module, the fork server, as soon as the command has ended.

The server would otherwise go on with its imports and free torch, and keep the output of the command open, for
which a reader of a pipe waits.
"""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # of prctl(2)

ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
