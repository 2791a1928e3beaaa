"""Assign each parameter to an optimizer and a parameter group.

Works with parameter names; `build` builds the optimizers. The first matching group gets a parameter. With
several optimizers, each parameter must belong to exactly one.
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
"""Label of the group of all parameters that no pattern matches."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A parameter group as described in the config.

    Args:
        match: conditions, the keywords of `trainer.matching.matching`.
        label: its name in logs; None = its pattern.
        options: optimizer options of the group (lr, weight_decay, ...).
    """

    match: Mapping[str, Any]
    label: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group of a model.

    Args:
        label: its name in logs; empty if it is the only group.
        names: full names of its parameters, in the model's order.
        options: optimizer options of the group.
        parameters: total number of elements of its parameters.
    """

    label: str
    names: tuple[str, ...]
    options: Mapping[str, Any]
    parameters: int


def assign_groups(model: nn.Module, owned: Sequence[str], specs: Sequence[GroupSpec]) -> list[Group]:
    """Assign the parameters of one optimizer to its groups; the first matching group wins.

    Args:
        model: the model with the parameters.
        owned: names of the parameters that the optimizer owns.
        specs: the groups, in the user's order.

    Returns:
        The groups in the same order, followed by the group `rest` if parameters remain. Without specs, one
        group with an empty label.

    Raises:
        ConfigError: a pattern matches nothing, earlier groups match all parameters of a group, or two groups
            have the same label.
    """
    if not specs:
        return [_group(model, "", list(owned), {})]
    problems: list[Problem] = []
    remaining = list(owned)
    group_of: dict[str, str] = {}
    groups: list[Group] = []
    for index, spec in enumerate(specs):
        key = f"groups.{index}.match"
        label = spec.label or _described(spec.match)
        wanted = set(matching(model, **spec.match))
        matched = [name for name in remaining if name in wanted]
        earlier = sorted({group_of[name] for name in wanted if name in group_of})
        if not wanted:
            problems.append(_matches_nothing(spec.match, key, owned))
        elif not matched and earlier:
            problems.append(
                Problem(
                    f"{_described(spec.match)!r} matches only parameters already in {_quoted(earlier)}",
                    key,
                    fix="put the narrower pattern first: the first matching group gets a parameter",
                )
            )
        elif not matched:
            problems.append(
                Problem(
                    f"{_described(spec.match)!r} matches only parameters that another optimizer owns",
                    key,
                    expected=f"a pattern on {_listed(owned)}",
                )
            )
        group_of |= dict.fromkeys(matched, label)
        remaining = [name for name in remaining if name not in wanted]
        groups.append(_group(model, label, matched, spec.options))
    if remaining:
        groups.append(_group(model, REST, remaining, {}))
    for label, count in Counter(group.label for group in groups).items():
        if count > 1:
            index = [group.label for group in groups[: len(specs)]].index(label)
            what = f"{count} groups have the label {label!r}"
            what += ", which is reserved for the remaining parameters" if label == REST else ""
            problems.append(Problem(what, f"groups.{index}.label", fix="give each group a unique label"))
    if problems:
        raise ConfigError.of(problems)
    return groups


def assign_owners(model: nn.Module, matches: Mapping[str, Mapping[str, Any] | None]) -> dict[str, list[str]]:
    """Assign the trainable parameters of a model to one or more optimizers.

    Args:
        model: the model with the parameters.
        matches: optimizer label -> conditions on its parameters; None = all remaining parameters.

    Returns:
        Optimizer label -> names of its parameters, in the model's order.

    Raises:
        ConfigError: the model has no trainable parameters, a pattern matches nothing, two optimizers match
            one parameter, two have no match, none remain for that one, or a parameter has no owner.
    """
    names = list(trainable(model))
    if not names:
        raise ConfigError(
            "the model has no trainable parameters", fix="use a model with at least one trainable parameter"
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
                        expected="exactly one optimizer for each parameter",
                        fix="narrow one of the patterns, or leave out one match (it then gets the rest)",
                    )
                )
    claimed = {name for owned in owners.values() for name in owned}
    unclaimed = [name for name in names if name not in claimed]
    open_labels = [label for label, match in matches.items() if match is None]
    if len(open_labels) > 1:
        problems.append(
            Problem(
                f"{_quoted(open_labels)} have no match; only one optimizer can get the remaining parameters",
                f"{open_labels[1]}.match",
                fix=f"give all but one a match; the parameters are {_listed(names)}",
            )
        )
    elif open_labels and not unclaimed:
        problems.append(Problem(f"no parameters remain for {open_labels[0]!r}", f"{open_labels[0]}.match"))
    elif open_labels:
        owners[open_labels[0]] = unclaimed
    elif unclaimed:
        problems.append(
            Problem(
                f"no optimizer owns {_listed(unclaimed)}",
                fix="widen a match, or leave out the last optimizer's match (it then gets the rest)",
            )
        )
    if problems:
        raise ConfigError.of(problems)
    return owners


def _group(model: nn.Module, label: str, names: Sequence[str], options: Mapping[str, Any]) -> Group:
    parameters = trainable(model)
    return Group(label, tuple(names), dict(options), sum(parameters[name].numel() for name in names))


def _described(match: Mapping[str, Any]) -> str:
    """Return a match as text: only its name pattern, or for example `kind=Linear,ndim=2`."""
    stated = {key: value for key, value in match.items() if value is not None}
    if list(stated) == ["name"]:
        return str(stated["name"])
    return ",".join(f"{key}={value}" for key, value in stated.items())


def _matches_nothing(match: Mapping[str, Any], key: str, names: Sequence[str]) -> Problem:
    return Problem(
        f"{_described(match)!r} matches no trainable parameter",
        key,
        expected=f"a pattern on {_listed(names)}",
    )


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(repr(label) for label in labels)


def _listed(names: Sequence[str], at_most: int = 20) -> str:
    """Return the names, joined; a long list is abbreviated in the middle (networks have hundreds)."""
    if len(names) <= at_most:
        return ", ".join(names)
    half = at_most // 2
    return ", ".join([*names[:half], f"... {len(names) - 2 * half} more ...", *names[-half:]])
