"""Apply overrides to a config as one layer. Their order does not matter, and none is ignored.

- whole values are applied before their parts: `optimizer=Adam` before `optimizer.lr=0.1`;
- a new name drops the options in the config, but not those that another override sets;
- two overrides that set the same key, also with different spellings, are an error.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.component_paths import SECTIONS, slot_at, spell_out
from trainer.config.merge import Override, drop_other_length, parse_override, paths, put, value_at
from trainer.config.yaml_reader import KeyPath, Origin, Tree, parse
from trainer.errors import ConfigError, OptlabError, Problem, nearest

_SINGLE_OR_LIST = ("optimizer", "scheduler")  # may be a single component or a list


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> tuple[Tree, list[str]]:
    """Apply overrides to a config.

    Args:
        tree: the config; it is not changed.
        overrides: as `optimizer.lr=0.1`; their order does not matter.

    Returns:
        The new config, and notes on the options that a new name dropped.

    Raises:
        ConfigError: an override cannot be read or applied, or contradicts another one; the error lists all
            of them.
    """
    parsed, problems = _read_overrides(overrides)
    overlay = _Overlay(Tree(copy.deepcopy(tree.data), dict(tree.positions)))
    drop_other_length(overlay.tree, _train_keys(parsed))
    notes: list[str] = []
    sections = [override for override in parsed if len(override.key) == 1]
    parts = [override for override in parsed if len(override.key) > 1]
    for group in (sections, parts):  # whole sections first: they decide whether there are several optimizers
        for override in sorted(group, key=overlay.rank):
            try:
                notes += overlay.apply(override)
            except OptlabError as error:
                problems += error.problems
    problems += contradictions(overlay.assignments())
    if problems:
        raise ConfigError.of(dict.fromkeys(problems))
    return overlay.tree, notes


def _read_overrides(texts: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Return the overrides, one per key, and the problems of the others."""
    parsed: dict[tuple[str, ...], Override] = {}
    problems: list[Problem] = []
    for text in sorted(texts):
        try:
            override = parse_override(text)
            if override.key in parsed:
                raise ConfigError.of([_contradiction(override.key, parsed[override.key], override)])
            if override.key == ("base",):
                raise ConfigError(
                    "an override cannot set base",
                    where=str(override.position),
                    fix="set it in the file, or train from the base itself",
                )
            parsed[override.key] = override
        except OptlabError as error:
            problems += error.problems
    return list(parsed.values()), problems


def contradictions(assignments: Sequence[tuple[Override, KeyPath, Any]]) -> list[Problem]:
    """Return a problem for every pair of overrides that set the same key.

    Args:
        assignments: every override with its resolved path and its value, short forms expanded.
    """
    problems = []
    for number, (override, path, value) in enumerate(assignments):
        for other, other_path, other_value in assignments[:number]:
            ends = max(len(path), len(other_path))
            shared = _shared_path(_nested(other_path, other_value), _nested(path, value), ends=ends)
            if shared is not None:
                problems.append(_contradiction(shared, other, override))
    return problems


def _contradiction(path: KeyPath, one: Override, other: Override) -> Problem:
    first, second = sorted((one, other), key=lambda override: override.text)
    return Problem(
        f"{'.'.join(map(str, path))} is also set by {first.text!r}",
        where=str(second.position),
        fix="keep one of them",
    )


def _shared_path(one: Any, other: Any, path: KeyPath = (), *, ends: int) -> KeyPath | None:
    """Return a path that two nested values both set, or None if there is none.

    Args:
        one, other: the values; a mapping with integer keys represents some items of a list.
        path: the path of the values.
        ends: from this depth on, mappings other than sections and components count as one value.
    """
    if isinstance(one, list) and isinstance(other, dict):
        one, other = other, one
    if isinstance(one, dict) and isinstance(other, list) and all(isinstance(key, int) for key in one):
        other = dict(enumerate(other))
    if not isinstance(one, dict) or not isinstance(other, dict):
        return path
    if len(path) >= ends and path not in SECTIONS and slot_at(path) is None:
        return path
    for key, value in one.items():
        if key in other:
            below = _shared_path(value, other[key], (*path, key), ends=ends)
            if below is not None:
                return below
    return None


def gives(overrides: Sequence[str], key: str) -> bool:
    """Return whether overrides set a dotted key, a section that contains it, or a part of it."""
    path = tuple(key.split("."))
    return any(
        _shared_path(_nested(path, None), _nested(override.key, override.value), ends=len(path)) is not None
        for override in map(parse_override, overrides)
    )


def _train_keys(overrides: Sequence[Override]) -> dict[Hashable, Any]:
    """Return the keys of the section `train` that the overrides set, with their values."""
    keys: dict[Hashable, Any] = {}
    for override in overrides:
        if override.key == ("train",) and isinstance(override.value, dict):
            keys |= override.value
        elif override.key[0] == "train" and len(override.key) == 2:
            keys[override.key[1]] = override.value
    return keys


@dataclass(slots=True)
class _Overlay:
    """A config to which overrides are applied one after the other, whole values before their parts.

    Args:
        tree: the config so far.
        applied: the overrides applied so far, each with its path and its value, short forms expanded.
        labels: label and name of the items of every list that a key passed through, from before any override
            renamed them: `optimizer.Adam.lr` has the same meaning after `optimizer.Adam.name=SGD`.
    """

    tree: Tree
    applied: list[tuple[Override, KeyPath, Any]] = field(default_factory=list)
    labels: dict[KeyPath, list[tuple[Any, Any]]] = field(default_factory=dict)

    def rank(self, override: Override) -> tuple[int, bool, str]:
        """Return the sort key of an override: shorter keys first, then names first."""
        value = override.value
        names = (
            override.key[-1] == "name"
            or isinstance(value, str)
            or (isinstance(value, dict) and "name" in value)
        )
        return len(self._key(override)), not names, override.text

    def assignments(self) -> list[tuple[Override, KeyPath, Any]]:
        """Return the overrides with paths and values; a list of one optimizer is replaced by its item."""
        assignments = []
        for override, path, value in self.applied:
            section = self.tree.data.get(path[0])
            if path[0] in _SINGLE_OR_LIST and not (isinstance(section, list) and len(section) > 1):
                if path[1:2] == (0,):
                    path = (path[0], *path[2:])
                elif len(path) == 1 and isinstance(value, list) and len(value) == 1:
                    value = value[0]
            assignments.append((override, path, value))
        return assignments

    def apply(self, override: Override) -> list[str]:
        """Apply one override; return a note if it dropped options."""
        path = self._resolve(override)
        value = override.value
        if path[-1] == "name" and slot_at(path[:-1]):
            path, value = path[:-1], {"name": value}
        if slot_at(path) and isinstance(value, str):
            value = {"name": value}
        in_list = isinstance(path[-1], int)
        layer = Tree(_nested(path, value), dict.fromkeys(paths(value, path), override.position))
        if not in_list:
            spell_out(layer)
            value = value_at(layer.data, path)
        keep = {
            below
            for _, applied_path, applied in self.applied
            for below in paths(applied, applied_path)
            if len(below) > len(path)
        }
        self.applied.append((override, path, value))
        if in_list and slot_at(path):
            # The label addresses this item and the match selects its parameters: a new name drops neither.
            keep |= {(*path, "label"), (*path, "match")}
        dropped = put(self.tree, path, value, layer.positions, keep)
        if not dropped:
            return []
        return [
            f"override {override.text!r} drops {', '.join(dropped)}; its other options get their defaults"
        ]

    def _key(self, override: Override) -> tuple[str, ...]:
        """Return a key without the label or the 0 that addresses a single optimizer or schedule."""
        head, *rest = override.key
        section = self.tree.data.get(head)
        if len(rest) < 2 or head not in _SINGLE_OR_LIST:
            return override.key
        aliases: tuple[Any, ...] = ()
        if isinstance(section, list) and len(section) == 1:
            aliases = ("0", *self._labels((head,), section)[0])
        elif isinstance(section, dict) and rest[0] not in section:
            aliases = ("0", section.get("label"))
        return (head, *rest[1:]) if rest[0] in aliases else override.key

    def _resolve(self, override: Override) -> KeyPath:
        """Return the path of an override's key: replace labels by indices and create missing sections."""
        path: KeyPath = ()
        container = self.tree.data
        key = self._key(override)
        for depth, part in enumerate(key):
            last = depth == len(key) - 1
            if isinstance(container, list):
                index, used = self._index(container, part, path, override)
                path = (*path, index)
                if not used:  # a list of one needs no index
                    container = self._inside(path, container[index], override)
                    path = (*path, _key(container, part))
            else:
                path = (*path, _key(container, part))
            if not last:
                container = self._inside(path, value_at(self.tree.data, path), override)
        return path

    def _inside(self, path: KeyPath, value: Any, override: Override) -> Any:
        """Return the container at `path`; create it if it is absent or null."""
        if value is None:
            put(self.tree, path, {}, {path: override.position})
            return value_at(self.tree.data, path)
        if not isinstance(value, dict | list):
            raise ConfigError(
                f"{'.'.join(map(str, path))} is {value!r}, which has no keys",
                key=".".join(override.key),
                where=str(override.position),
            )
        return value

    def _labels(self, path: KeyPath, items: list[Any]) -> list[tuple[Any, Any]]:
        """Return label and name of every item of the list at `path`, as of the first call."""
        if path not in self.labels:
            self.labels[path] = [
                (item.get("label"), item.get("name")) if isinstance(item, dict) else (None, None)
                for item in items
            ]
        return self.labels[path]

    def _index(self, items: list[Any], part: str, path: KeyPath, override: Override) -> tuple[int, bool]:
        """Return the index of the item that `part` addresses, and whether `part` itself is that address."""
        labels = self._labels(path, items)
        for which in (0, 1):
            matching = [index for index, names in enumerate(labels) if names[which] == part]
            if len(matching) == 1:
                return matching[0], True
        if part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(items):
            return int(part), True
        if len(items) == 1 and path in (("optimizer",), ("scheduler",)) and not isinstance(items[0], list):
            return 0, False
        names = [str(label or name or "") for label, name in labels]
        choices = [name if name and names.count(name) == 1 else str(i) for i, name in enumerate(names)]
        head = ".".join(map(str, path))
        guess = nearest(part, choices)
        raise ConfigError(
            f"{head} is a list of {len(items)}, and has no item {part!r}",
            key=".".join(override.key),
            where=str(override.position),
            expected=" or ".join(f"{head}.{choice}" for choice in choices) or f"{head}=[...]",
            fix=f"did you mean {guess!r}?" if guess else "",
        )


def _nested(path: KeyPath, value: Any) -> Any:
    """Return `value` nested in one mapping per part of its path."""
    for part in reversed(path):
        value = {part: value}
    return value


def _key(mapping: dict[Hashable, Any], part: str) -> Hashable:
    """Return `part` as a key of the mapping: as a number if the mapping has numbers as keys."""
    if part not in mapping and any(not isinstance(key, str) for key in mapping):
        number = parse(part, Origin("", Path())).data
        if isinstance(number, int | float):
            return number
    return part
