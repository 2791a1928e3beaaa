"""Layers of a config made one: `base:` files below, the file itself, overrides from the command line on top.

The rules (values always come with the place of the layer that set them):

- sections (`train`, `log` ...) merge key by key; lists and all other values are replaced, by `null` as well;
- a component that states `name` replaces the one below it, one that omits it merges into it; `data` with a
  name drops the options of the data set below and keeps the rest (batch size, split ...);
- `train.epochs` and `train.steps` exclude each other: a layer that sets one drops the other from below.

Whether the keys exist and the values fit is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.paths import absolute_path
from trainer.config.positions import KeyPath, Origin, Position, Tree, display_name, parse, read_file
from trainer.config.slots import SECTIONS, Slot, slot_at, spell_out
from trainer.errors import ConfigError, OptlabError, Problem, nearest

_LENGTHS = ("epochs", "steps")


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the command line.

    Args:
        text: as it was given, `optimizer.lr=0.1`.
        key: the parts of its key.
        value: its value, a plain Python value.
    """

    text: str
    key: tuple[str, ...]
    value: Any

    @property
    def position(self) -> Position:
        """Where messages say that the value is from; relative paths in it start at the working directory."""
        return _position(self.text)


def _position(text: str) -> Position:
    return Position(Origin(f"override {text!r}", Path.cwd(), lines=False))


def read_layers(path: Path) -> Tree:
    """Read a YAML file and the files it builds on (`base:`), merged.

    Raises:
        ConfigError: a file cannot be read, or the bases run in a circle.
    """
    layers: list[Tree] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        tree = read_file(following)
        seen.append(_real(following))
        spell_out(tree)
        layers.append(tree)
        following = _base_of(tree, following, seen)
    merged = layers.pop()
    while layers:
        merged = merge(merged, layers.pop())
    return merged


def _real(path: Path) -> Path:
    return Path(path).resolve()


def _base_of(tree: Tree, path: Path, seen: Sequence[Path]) -> Path | None:
    """Take `base` out of a layer and return the file it names."""
    base = tree.data.pop("base", None)
    position = tree.positions.pop(("base",), None)
    if base is None:
        return None
    where = str(position)
    if not isinstance(base, str) or not base or "\0" in base:
        raise ConfigError(
            f"got {base!r}", key="base", where=where, expected="one YAML file, as `base: mnist_mlp.yaml`"
        )
    file = Path(absolute_path(base, path.absolute().parent))
    try:
        known = file.is_file()
        siblings = [] if known else [item.name for item in file.parent.iterdir()]
        real = _real(file)
    except (OSError, ValueError, RuntimeError):
        known, siblings, real = False, [], file
    if not known:
        guess = nearest(file.name, siblings)
        raise ConfigError(
            f"there is no file {display_name(file)}",
            key="base",
            where=where,
            expected="a file, relative to the one that names it",
            fix=f"did you mean {guess!r}?" if guess else "",
        )
    if real in seen:
        circle = " -> ".join(display_name(item) for item in [*seen[seen.index(real) :], real])
        raise ConfigError(f"the bases run in a circle: {circle}", key="base", where=where)
    return file


def merge(base: Tree, over: Tree) -> Tree:
    """Return `over` laid on `base`; both stay as they are."""
    result = Tree(copy.deepcopy(base.data), dict(base.positions))
    train = over.data.get("train")
    if isinstance(train, dict):
        _drop_other_length(result, train)
    for key, value in over.data.items():
        _put(result, (key,), value, over.positions)
    if () in over.positions:
        result.positions[()] = over.positions[()]
    return result


def _drop_other_length(tree: Tree, mentioned: Mapping[Hashable, Any]) -> None:
    """A layer that sets the length in epochs means them instead of steps, and the other way round."""
    below = tree.data.get("train")
    for one, other in (_LENGTHS, _LENGTHS[::-1]):
        if mentioned.get(one) is not None and other not in mentioned and isinstance(below, dict):
            _remove(tree, ("train", other))


def _put(tree: Tree, path: KeyPath, value: Any, positions: Mapping[KeyPath, Position]) -> list[str]:
    """Lay `value` on the tree at `path`, whose parents exist; return what of a component it dropped."""
    slot = slot_at(path)
    old = _get(tree.data, path)
    dropped: list[str] = []
    if slot and isinstance(value, dict) and "name" not in value and isinstance(old, list):
        old = _unwrap_single(tree, path, old, positions)
    merges = isinstance(value, dict) and isinstance(old, dict) and (slot is not None or path in SECTIONS)
    if merges and slot and "name" in value:
        dropped = _drop_options(tree, path, slot)
        merges = slot.kind == "dataset"
    if not merges:
        _remove(tree, path)
        parent = _get(tree.data, path[:-1])
        parent[path[-1]] = copy.deepcopy(value)
        for below in _paths(value, path):
            if below in positions:
                tree.positions[below] = positions[below]
        return dropped
    if path in positions:
        tree.positions[path] = positions[path]
    for key, item in value.items():
        _put(tree, (*path, key), item, positions)
    return dropped


def _unwrap_single(tree: Tree, path: KeyPath, old: list[Any], positions: Mapping[KeyPath, Position]) -> Any:
    """Make a list of one component that component, so that a mapping without a name can merge into it."""
    if len(old) != 1:
        raise ConfigError(
            f"there are {len(old)} of them below, and no name says that this one replaces them",
            key=".".join(map(str, path)),
            where=str(positions.get(path, "")),
            expected="a list, or a mapping with a name",
        )
    places = {
        (*path, *below[len(path) + 1 :]): tree.positions[below]
        for below in _paths(old, path)
        if below in tree.positions and below != path
    }
    item = old[0]
    _remove(tree, path)
    _get(tree.data, path[:-1])[path[-1]] = item
    tree.positions.update(places)
    return item


def _drop_options(tree: Tree, path: KeyPath, slot: Slot) -> list[str]:
    """Drop what another component of this kind would not understand; return it as `key=value`."""
    component = _get(tree.data, path)
    kept = slot.own_keys() if slot.kind == "dataset" else ["name"]
    dropped = [key for key in component if key not in kept]
    words = [f"{key}={component[key]!r}" for key in dropped]
    for key in dropped:
        _remove(tree, (*path, key))
    return words


def _get(data: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _remove(tree: Tree, path: KeyPath) -> None:
    """Take the value at `path` and the places below it out of the tree; a list item leaves None."""
    parent = _get(tree.data, path[:-1])
    if isinstance(parent, list) and isinstance(path[-1], int):
        for below in _paths(parent[path[-1]], path):
            tree.positions.pop(below, None)
        parent[path[-1]] = None
    elif isinstance(parent, dict) and path[-1] in parent:
        for below in _paths(parent[path[-1]], path):
            tree.positions.pop(below, None)
        del parent[path[-1]]


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of a value and of everything below it."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))


def parse_override(text: str) -> Override:
    """Read `optimizer.lr=0.1`; the value is YAML.

    A value that begins like no YAML value does (`*.bias`, `%x`) is a string.

    Raises:
        ConfigError: there is no `=`, a part of the key is empty, or the value is no YAML.
    """
    position = _position(text)
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise ConfigError(
            "this is no override", where=str(position), expected="key=value, as optimizer.lr=0.1"
        )
    value = value.strip()
    if not value:
        raise ConfigError("there is no value", where=str(position), expected=f"{key}=null, or a value")
    if value[0] in "*&!@%`|>":
        return Override(text, parts, value)
    return Override(text, parts, parse(value, position.origin).data)


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> tuple[Tree, list[str]]:
    """Lay overrides on a config.

    Args:
        tree: the config so far; it stays as it is.
        overrides: as `optimizer.lr=0.1`. Those that name a component come first, whatever their order.

    Returns:
        The new config, and notes on what a new name dropped.

    Raises:
        ConfigError: with every override that cannot be read or placed.
    """
    tree = Tree(copy.deepcopy(tree.data), dict(tree.positions))
    problems: list[Problem] = []
    parsed: dict[tuple[str, ...], Override] = {}
    for text in overrides:
        try:
            override = parse_override(text)
            if override.key in parsed:
                raise ConfigError(
                    f"{'.'.join(override.key)} is also set by {parsed[override.key].text!r}",
                    where=str(override.position),
                    fix="keep one of them",
                )
            if override.key == ("base",):
                raise ConfigError(
                    "the base belongs to the file",
                    where=str(override.position),
                    fix="train from that file instead",
                )
            parsed[override.key] = override
        except OptlabError as error:
            problems += error.problems
    _drop_other_length(tree, _train_keys(parsed))
    notes: list[str] = []
    for override in sorted(parsed.values(), key=lambda item: not _names_component(item)):
        try:
            notes += _apply(tree, override)
        except OptlabError as error:
            problems += error.problems
    if problems:
        raise ConfigError.of(problems)
    return tree, notes


def _train_keys(overrides: Mapping[tuple[str, ...], Override]) -> dict[Hashable, Any]:
    """Return what the overrides together say about the section `train`, key by key."""
    whole = overrides.get(("train",))
    keys: dict[Hashable, Any] = dict(whole.value) if whole and isinstance(whole.value, dict) else {}
    return keys | {
        key[1]: item.value for key, item in overrides.items() if key[0] == "train" and len(key) == 2
    }


def _names_component(override: Override) -> bool:
    """Tell whether it chooses a component: `model.name=mlp`, `model=mlp`, `model={name: mlp}`."""
    return (
        override.key[-1] == "name"
        or isinstance(override.value, str | list)
        or (isinstance(override.value, dict) and "name" in override.value)
        or override.value is None
    )


def _apply(tree: Tree, override: Override) -> list[str]:
    path = _resolve(tree, override)
    value = override.value
    if path[-1] == "name" and slot_at(path[:-1]):
        path, value = path[:-1], {"name": value}
    single = Tree(value, {})
    if slot_at(path) and isinstance(value, str):
        single.data = value = {"name": value}
    in_list = bool(path) and isinstance(path[-1], int)
    old = _get(tree.data, path)
    if in_list and isinstance(value, dict) and "name" in value and isinstance(old, dict):
        # The label is how this one is spoken of, and the match is its place among the others: both stay.
        value = {key: old[key] for key in ("label", "match") if key in old} | value
    positions = dict.fromkeys(_paths(value, path), override.position)
    wrapper: dict[Hashable, Any] = {}
    _nest(wrapper, path, value)
    layer = Tree(wrapper, positions)
    if not in_list:
        spell_out(layer)
        value = _get(layer.data, path)
    dropped = _put(tree, path, value, layer.positions)
    dropped = [word for word in dropped if not in_list or word.split("=")[0] not in ("label", "match")]
    return [f"override {override.text!r} drops {', '.join(dropped)}"] if dropped else []


def _nest(wrapper: dict[Hashable, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        wrapper = wrapper.setdefault(part, {})
    wrapper[path[-1]] = value


def _resolve(tree: Tree, override: Override) -> KeyPath:
    """Turn an override's key into a path of the tree: labels into indices, missing sections made."""
    path: KeyPath = ()
    container = tree.data
    for depth, part in enumerate(override.key):
        if isinstance(container, list):
            index, used = _index(container, part, path, override)
            path = (*path, index)
            container = container[index]
            if used:
                if depth == len(override.key) - 1:
                    return path
                container = _inside(tree, path, container, override)
                continue
            container = _inside(tree, path, container, override)
        elif _is_itself(path, container, part) and depth < len(override.key) - 1:
            continue
        key = _key(container, part)
        path = (*path, key)
        if depth < len(override.key) - 1:
            container = _inside(tree, path, container.get(key), override)
    return path


def _inside(tree: Tree, path: KeyPath, value: Any, override: Override) -> Any:
    """Return the container at `path`; one that is absent or null is made."""
    if value is None:
        value = {}
        _put(tree, path, value, {path: override.position})
        return _get(tree.data, path)
    if not isinstance(value, dict | list):
        raise ConfigError(
            f"{'.'.join(map(str, path))} is {value!r}, which has no keys",
            key=".".join(override.key),
            where=str(override.position),
        )
    return value


def _is_itself(path: KeyPath, container: dict[Hashable, Any], part: str) -> bool:
    """Tell whether `part` addresses the only optimizer or schedule: by its label, or as number 0."""
    if path not in (("optimizer",), ("scheduler",)) or part in container:
        return False
    return part in ("0", container.get("label"))


def _index(items: list[Any], part: str, path: KeyPath, override: Override) -> tuple[int, bool]:
    """Return the index that `part` means, and whether it used `part` up (a list of one needs no index)."""
    for key in ("label", "name"):
        found = [i for i, item in enumerate(items) if isinstance(item, dict) and item.get(key) == part]
        if len(found) == 1:
            return found[0], True
    if part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(items):
        return int(part), True
    if len(items) == 1 and path in (("optimizer",), ("scheduler",)) and not isinstance(items[0], list):
        return 0, False
    names = [str(item.get("label") or item.get("name")) if isinstance(item, dict) else "" for item in items]
    choices = [name if name and names.count(name) == 1 else str(i) for i, name in enumerate(names)]
    head = ".".join(map(str, path))
    guess = nearest(part, choices)
    raise ConfigError(
        f"{head} is a list of {len(items)}, and {part!r} is none of them",
        key=".".join(override.key),
        where=str(override.position),
        expected=" or ".join(f"{head}.{choice}" for choice in choices) or f"{head}=[...]",
        fix=f"did you mean {guess!r}?" if guess else "",
    )


def _key(mapping: dict[Hashable, Any], part: str) -> Hashable:
    """Return the key that `part` means: a number where the mapping's keys are numbers."""
    if part not in mapping and any(not isinstance(key, str) for key in mapping):
        number = parse(part, Origin("", Path())).data
        if isinstance(number, int | float):
            return number
    return part
