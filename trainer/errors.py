"""What can go wrong by a user's hand, told so that it can be mended.

Every error says what is wrong, where, what was expected and what to do. `OptlabError` and its kinds are
for what a user can cause; `assert` is for what only this code can.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        what: the fault, with the value that was found.
        key: dotted config key, as `optimizer.lr`; empty when no key is to blame.
        where: `file:line`, or what stands for it (`command line`); empty when unknown.
        expected: what would have been right.
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
    """Something a user can cause and mend; carries one or several `Problem`s and the exit code."""

    exit_code = 1

    def __init__(
        self, what: str, *, key: str = "", where: str = "", expected: str = "", fix: str = ""
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, key, where, expected, fix),)
        super().__init__(what)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> OptlabError:
        """Make one error of several problems, in the order given (at least one)."""
        found = tuple(problems)
        assert found, "an error needs a problem"
        error = cls(found[0].what)
        error.problems = found
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ConfigError(OptlabError):
    """The experiment's description or the command's usage is wrong; nothing has run."""

    exit_code = 2


class DataError(OptlabError):
    """A data set is absent, damaged or does not fit; nothing has run."""

    exit_code = 2


class PartError(OptlabError):
    """A component failed while a run was going on."""

    exit_code = 1


class RunError(OptlabError):
    """A run directory cannot be used as asked (it exists, is locked, is not writable, is not a run)."""

    exit_code = 2


class BusyError(RunError):
    """Another process writes the run directory now."""


class StorageError(OptlabError):
    """Writing failed while a run was going on (full disk, vanished directory)."""

    exit_code = 1


class FigureError(OptlabError):
    """A figure could not be drawn."""


class OutputError(OptlabError):
    """A result could not be written to stdout.

    Args:
        reason: what the system says.
        closed: whether the reader closed the pipe, as `head` does: no news to anybody.
    """

    def __init__(self, reason: str, *, closed: bool = False) -> None:
        super().__init__(f"cannot write the result to stdout: {reason}")
        self.reason = reason
        self.closed = closed
        self.exit_code = 141 if closed else 1  # 141 is what the shell makes of SIGPIPE


def first_line(error: Exception) -> str:
    """Return an error of another package in one line: its own message, or its type and the first line."""
    if isinstance(error, OptlabError):
        return str(error)
    words = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {words[0]}".rstrip(": ")


_MOST_CHOICES = 40  # of the 90 models, the first ones are ours; `optlab list` names them all


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `name` most likely meant, or None when none is close."""
    known = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def unknown_name(
    kind: str, name: str, choices: Sequence[str], *, key: str = "", where: str = ""
) -> ConfigError:
    """Return the error for a name that nobody knows: it lists the choices and the nearest one."""
    guess = nearest(name, choices)
    more = f" ... ({len(choices)} in all)" if len(choices) > _MOST_CHOICES else ""
    return ConfigError(
        f"unknown {kind} {name!r}",
        key=key,
        where=where,
        expected=f"one of {', '.join(choices[:_MOST_CHOICES])}{more}",
        fix=f"did you mean {guess!r}?" if guess else "",
    )
