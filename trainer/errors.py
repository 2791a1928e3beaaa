"""Errors that a user can cause.

Every error says what is wrong, where, what was expected and what to do. `OptlabError` and its subclasses are
for errors that a user can cause; `assert` is for errors of this program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        what: what is wrong, with the value found.
        key: dotted config key, e.g. `optimizer.lr`; empty if the problem has no key.
        where: `file:line` or another source (`command line`); empty if unknown.
        expected: valid values.
        fix: what to do about it.
    """

    what: str
    key: str = ""
    where: str = ""
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.key, self.what) if part)
        lines = [head]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class OptlabError(Exception):
    """Base class of errors that a user can cause and fix. Holds one or more `Problem`s and the exit code."""

    exit_code = 1

    def __init__(
        self, what: str, *, key: str = "", where: str = "", expected: str = "", fix: str = ""
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, key, where, expected, fix),)
        super().__init__(what)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> OptlabError:
        """Return one error with several problems, in the order given (at least one)."""
        all_problems = tuple(problems)
        assert all_problems, "an error needs a problem"
        error = cls(all_problems[0].what)
        error.problems = all_problems
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ConfigError(OptlabError):
    """The config or the command line is invalid. Nothing has been trained."""

    exit_code = 2


class DataError(OptlabError):
    """A data set is missing, damaged or does not fit the model. Nothing has been trained."""

    exit_code = 2


class AbsentDataError(DataError):
    """A data set that can be downloaded is not on disk."""


class PartError(OptlabError):
    """A component failed during a run."""

    exit_code = 1


class RunError(OptlabError):
    """A run directory cannot be used as requested (it exists, is locked, is not writable, is not a run)."""

    exit_code = 2


class BusyError(RunError):
    """Another process is writing to the run directory."""


class StorageError(OptlabError):
    """Writing failed during a run (full disk, missing directory)."""

    exit_code = 1


class FigureError(OptlabError):
    """A figure could not be drawn."""


class OutputError(OptlabError):
    """A result could not be written to stdout.

    Args:
        reason: the operating system's message.
        closed: whether the reader closed the pipe, as `head` does; then no message is printed.
    """

    def __init__(self, reason: str, *, closed: bool = False) -> None:
        super().__init__(f"cannot write the result to stdout: {reason}")
        self.reason = reason
        self.closed = closed
        self.exit_code = 141 if closed else 1  # 141: the shell's exit code for SIGPIPE


def first_line(error: Exception) -> str:
    """Return an error's message; for another package's error its type and the first line of its message."""
    if isinstance(error, OptlabError):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


_MAX_CHOICES = 40  # the longest list has 90 models, optlab's own first; `optlab list` prints all


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice closest to `name`, or None if none is close."""
    known = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return known[matches[0]] if matches else None


def unknown_name(
    kind: str, name: str, choices: Sequence[str], *, key: str = "", where: str = ""
) -> ConfigError:
    """Return the error for an unknown name, with the choices and the nearest one."""
    guess = nearest(name, choices)
    more = f" ... ({len(choices)} in all)" if len(choices) > _MAX_CHOICES else ""
    return ConfigError(
        f"unknown {kind} {name!r}",
        key=key,
        where=where,
        expected=f"one of {', '.join(choices[:_MAX_CHOICES])}{more}",
        fix=f"did you mean {guess!r}?" if guess else "",
    )
