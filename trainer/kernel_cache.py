"""The folder where torch's compiler keeps what it compiles.

torch makes this folder when a process builds its first optimizer, whether anything is compiled or not.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache

import torch

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@cache
def build_first_optimizer() -> None:
    """Let torch import what its optimizers need, also where the cache folder cannot be made."""
    if "torch._dynamo" in sys.modules or _problem() is None:
        return
    former = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.sep  # it exists; nothing is written before something is compiled
    try:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    finally:
        del os.environ[VARIABLE]
        if former is not None:
            os.environ[VARIABLE] = former


def unwritable() -> str | None:
    """Return why the compiler cannot keep anything, with the folder's name; None when it can."""
    problem = _problem(writes=True)
    if problem is None:
        return None
    return f"torch's compiler cannot write its cache: {problem}; set {VARIABLE} to a writable folder"


def _problem(*, writes: bool = False) -> str | None:
    """Return what the system says against the folder; with `writes`, also against a file in it."""
    folder = os.environ.get(VARIABLE)
    try:
        folder = folder or tempfile.gettempdir()
        os.makedirs(folder, exist_ok=True)
        if writes:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))
    except OSError as error:
        return f"{folder or 'the folder for temporary files'}: {error.strerror or error}"
    return None
