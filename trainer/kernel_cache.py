"""The folder of torch's compiler cache.

torch creates this folder when a process builds its first optimizer, even if nothing is compiled.
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
    """Build an optimizer, so that torch imports what it needs even if it cannot create the cache folder."""
    if "torch._dynamo" in sys.modules or _problem() is None:
        return
    former = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.sep  # exists, and torch writes nothing before it compiles something
    try:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    finally:
        del os.environ[VARIABLE]
        if former is not None:
            os.environ[VARIABLE] = former


def unwritable() -> str | None:
    """Return why the compiler cannot write its cache, with the name of the folder; None if it can."""
    problem = _problem(writes=True)
    if problem is None:
        return None
    return f"torch's compiler cannot write its cache: {problem}; set {VARIABLE} to a writable folder"


def _problem(*, writes: bool = False) -> str | None:
    """Return the system's error on creating the folder or, with `writes`, a file in it; None on success."""
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
