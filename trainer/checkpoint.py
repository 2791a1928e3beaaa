"""Checkpoints: an experiment's whole state in one file (floor 3).

Only tensors and plain Python values go in, so that `torch.load(weights_only=True)` reads them and loading
never runs code. A checkpoint is there whole or not at all.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.errors import RunError
from trainer.rundir import write_atomically

FORMAT = 1
LAST = "last.pt"
BEST = "best.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; StorageError when the disk will not take it."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        RunError: it is absent, damaged, holds more than tensors and plain values, or has another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"there is no checkpoint at {path}") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise RunError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise RunError(f"{path} has format {found!r}", expected=f"format {FORMAT}")
    return state
