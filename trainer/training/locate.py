"""Add the full key and the place in the config files to errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from trainer.config.load import Loaded
from trainer.errors import ConfigError, OptlabError, Problem


@contextmanager
def located(loaded: Loaded, prefix: str = "") -> Iterator[None]:
    """Add the full dotted key and the place in the config files to errors raised inside the block."""
    try:
        yield
    except OptlabError as error:
        raise type(error).of(_locate(loaded, prefix, problem) for problem in error.problems) from error
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not _TOO_LARGE.search(reason):
            raise
        problem = Problem(f"a number is too large: {reason}", fix="use a smaller number")
        raise ConfigError.of([_locate(loaded, prefix, problem)]) from error


# Messages of torch and Python for a size that exceeds a 64-bit integer or the memory.
_TOO_LARGE = re.compile(r"[Oo]verflow|too big|too large|allocate|out of memory|MemoryError")


def prefixed(problem: Problem, prefix: str) -> Problem:
    """Return the problem with a prefix added to its key."""
    return replace(problem, key=".".join(part for part in (prefix, problem.key) if part))


def _locate(loaded: Loaded, prefix: str, problem: Problem) -> Problem:
    key = ".".join(part for part in (prefix, problem.key) if part)
    where = problem.where or (loaded.where(key) if key else "")
    return Problem(problem.what, key, where, problem.expected, problem.fix)
