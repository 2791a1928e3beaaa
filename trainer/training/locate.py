"""Gives errors their full key and their place in the config's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from trainer.config.load import Loaded
from trainer.errors import ConfigError, OptlabError, Problem


@contextmanager
def located(loaded: Loaded, prefix: str = "") -> Iterator[None]:
    """Give errors from inside the block their full dotted key and their place in the config's files."""
    try:
        yield
    except OptlabError as error:
        raise type(error).of(_locate(loaded, prefix, problem) for problem in error.problems) from error
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not _TOO_LARGE.search(reason):
            raise
        problem = Problem(f"a number is too large: {reason}", fix="give a smaller one")
        raise ConfigError.of([_locate(loaded, prefix, problem)]) from error


# How torch and Python say that a size goes beyond an integer of 64 bits, or beyond the memory.
_TOO_LARGE = re.compile(r"[Oo]verflow|too big|too large|allocate|out of memory|MemoryError")


def prefixed(problem: Problem, prefix: str) -> Problem:
    """Return a problem with its key below another one."""
    return replace(problem, key=".".join(part for part in (prefix, problem.key) if part))


def _locate(loaded: Loaded, prefix: str, problem: Problem) -> Problem:
    key = ".".join(part for part in (prefix, problem.key) if part)
    where = problem.where or (loaded.where(key) if key else "")
    return Problem(problem.what, key, where, problem.expected, problem.fix)
