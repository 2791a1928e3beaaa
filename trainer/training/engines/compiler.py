"""The C++ compiler that the compiled engine needs on a CPU."""

from __future__ import annotations

import os
import shutil


def compiler() -> str | None:
    """Return the C++ compiler that Inductor would use; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
