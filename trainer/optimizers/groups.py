"""Which optimizer and which parameter group owns each parameter.

Answers with names only; building the optimizers is `build`'s work. First match wins among groups; several
optimizers share the parameters out without overlap and without leaving one over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from trainer.errors import ConfigError, Problem
from trainer.matching import matching, trainable

REST = "rest"
"""Label of the group of all parameters that no pattern claimed."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A parameter group as the user describes it.

    Args:
        match: conditions, the keywords of `trainer.matching.matching`.
        label: its name in logs; None = its pattern.
        options: optimizer options of its own (lr, weight_decay ...).
    """

    match: Mapping[str, Any]
    label: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group of a model.

    Args:
        label: its name in logs; empty when it is the only one.
        names: full names of its parameters, in the model's order.
        options: optimizer options of its own.
        parameters: how many numbers those parameters hold together.
    """

    label: str
    names: tuple[str, ...]
    options: Mapping[str, Any]
    parameters: int


def assign_groups(model: nn.Module, owned: Sequence[str], specs: Sequence[GroupSpec]) -> list[Group]:
    """Share the parameters of one optimizer out among its groups; the first group that matches wins.

    Args:
        model: holds the parameters.
        owned: names of the parameters that the optimizer owns.
        specs: the groups, in the user's order.

    Returns:
        The groups in that order, then the group `rest` unless nothing is left; without specs one group
        with an empty label.

    Raises:
        ConfigError: a pattern that matches nothing, a group that earlier ones emptied, a label used twice.
    """
    if not specs:
        return [_group(model, "", list(owned), {})]
    problems: list[Problem] = []
    left = list(owned)
    taken: dict[str, str] = {}
    groups: list[Group] = []
    for index, spec in enumerate(specs):
        key = f"groups.{index}.match"
        label = spec.label or _described(spec.match)
        wanted = set(matching(model, **spec.match))
        found = [name for name in left if name in wanted]
        earlier = sorted({taken[name] for name in wanted if name in taken})
        if not wanted:
            problems.append(_matches_nothing(spec.match, key, owned))
        elif not found and earlier:
            problems.append(
                Problem(
                    f"all that {_described(spec.match)!r} matches went to {_quoted(earlier)} before it",
                    key,
                    fix="put the narrower pattern first: the first group that matches wins",
                )
            )
        elif not found:
            problems.append(
                Problem(
                    f"{_described(spec.match)!r} matches only parameters that another optimizer owns",
                    key,
                    expected=f"a pattern on {_listed(owned)}",
                )
            )
        taken |= dict.fromkeys(found, label)
        left = [name for name in left if name not in wanted]
        groups.append(_group(model, label, found, spec.options))
    if left:
        groups.append(_group(model, REST, left, {}))
    for label, count in Counter(group.label for group in groups).items():
        if count > 1:
            index = [group.label for group in groups[: len(specs)]].index(label)
            what = f"{count} groups are called {label!r}"
            what += ", the name of the group of all others" if label == REST else ""
            problems.append(Problem(what, f"groups.{index}.label", fix="give each group a label of its own"))
    if problems:
        raise ConfigError.of(problems)
    return groups


def assign_owners(model: nn.Module, matches: Mapping[str, Mapping[str, Any] | None]) -> dict[str, list[str]]:
    """Share the model's trainable parameters out among several optimizers.

    Args:
        model: holds the parameters.
        matches: by optimizer label, the conditions on what it owns; None = all that no other owns.

    Returns:
        Names of parameters by label, in the model's order.

    Raises:
        ConfigError: no trainable parameters, a pattern that matches nothing, overlapping optimizers, more
            than one without a match, nothing left for that one, parameters that nobody owns.
    """
    names = list(trainable(model))
    if not names:
        raise ConfigError(
            "the model has no trainable parameters", fix="an optimizer needs something to train"
        )
    problems: list[Problem] = []
    owners: dict[str, list[str]] = {
        label: [] if match is None else matching(model, **match) for label, match in matches.items()
    }
    for label, match in matches.items():
        if match is not None and not owners[label]:
            problems.append(_matches_nothing(match, f"{label}.match", names))
    labels = list(matches)
    for index, label in enumerate(labels):
        for other in labels[:index]:
            if both := [name for name in owners[label] if name in set(owners[other])]:
                problems.append(
                    Problem(
                        f"{label!r} and {other!r} both claim {_listed(both)}",
                        f"{label}.match",
                        expected="every parameter with exactly one optimizer",
                        fix="narrow one of the patterns, or leave out one match (it then takes the rest)",
                    )
                )
    claimed = {name for owned in owners.values() for name in owned}
    left = [name for name in names if name not in claimed]
    open_labels = [label for label, match in matches.items() if match is None]
    if len(open_labels) > 1:
        problems.append(
            Problem(
                f"{_quoted(open_labels)} have no match; only one optimizer can take the rest",
                f"{open_labels[1]}.match",
                fix=f"give all but one a match; the parameters are {_listed(names)}",
            )
        )
    elif open_labels and not left:
        problems.append(
            Problem(f"the other optimizers leave {open_labels[0]!r} no parameter", f"{open_labels[0]}.match")
        )
    elif open_labels:
        owners[open_labels[0]] = left
    elif left:
        problems.append(
            Problem(
                f"no optimizer owns {_listed(left)}",
                fix="widen a match, or leave out the last optimizer's match: it then takes the rest",
            )
        )
    if problems:
        raise ConfigError.of(problems)
    return owners


def _group(model: nn.Module, label: str, names: Sequence[str], options: Mapping[str, Any]) -> Group:
    parameters = trainable(model)
    return Group(label, tuple(names), dict(options), sum(parameters[name].numel() for name in names))


def _described(match: Mapping[str, Any]) -> str:
    """Return a match as a short text: its name pattern alone, or `kind=Linear,ndim=2`."""
    given = {key: value for key, value in match.items() if value is not None}
    if list(given) == ["name"]:
        return str(given["name"])
    return ",".join(f"{key}={value}" for key, value in given.items())


def _matches_nothing(match: Mapping[str, Any], key: str, names: Sequence[str]) -> Problem:
    return Problem(
        f"{_described(match)!r} matches no trainable parameter",
        key,
        expected=f"a pattern on {_listed(names)}",
    )


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(repr(label) for label in labels)


def _listed(names: Sequence[str], at_most: int = 20) -> str:
    """Return the names, the middle of a long list left out (networks have hundreds)."""
    if len(names) <= at_most:
        return ", ".join(names)
    half = at_most // 2
    return ", ".join([*names[:half], f"... {len(names) - 2 * half} more ...", *names[-half:]])
