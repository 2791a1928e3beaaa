"""Merge the layers of a config (a file and its `base:` files), and parse overrides.

The rules of merging (every value keeps the location of the layer that set it):

- sections (`train`, `log` ...) merge key by key; lists and all other values are replaced, also by `null`;
- a component with a `name` replaces the base's component, one without a name merges into it; `data` with a
  name drops the options of the base's data set and keeps the other keys (batch size, split ...);
- `train.epochs` and `train.steps` exclude each other: a layer that sets one drops the base's other one.

Keys and values are validated later, by `load`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import packaged
from trainer.config.component_paths import SECTIONS, Slot, slot_at, spell_out
from trainer.config.paths import absolute_path
from trainer.config.yaml_reader import KeyPath, Origin, Position, Tree, display_name, parse, read_file
from trainer.errors import ConfigError, nearest

SWEEP_KEYS = (
    *("variants", "axes", "seeds", "strategy", "trials", "batch", "search_seed", "objective", "prune"),
    *(
        "final_seeds",
        "allow_unequal",
        "workers",
        "runs_per_gpu",
        "resources",
        "problems",
        "target",
        "reference",
    ),
)
"""Keys of sweep files that the config of one run does not have."""

_LENGTHS = ("epochs", "steps")


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the command line.

    Args:
        text: as given, `optimizer.lr=0.1`.
        key: the parts of the dotted key.
        value: the value, a plain Python value.
    """

    text: str
    key: tuple[str, ...]
    value: Any

    @property
    def position(self) -> Position:
        """The location for messages; relative paths in the value start at the working directory."""
        return _position(self.text)


def _position(text: str) -> Position:
    return Position(Origin(f"override {text!r}", Path.cwd(), lines=False))


def read_layers(path: Path) -> Tree:
    """Read a YAML file and its bases (`base:`), and merge them.

    Raises:
        ConfigError: a file cannot be read, or a file is its own base, directly or indirectly.
    """
    layers: list[Tree] = []
    seen: list[Path] = []
    following: Path | None = packaged.find(path)
    while following is not None:
        tree = read_file(following)
        _refuse_sweep(tree, following)
        seen.append(_real(following))
        spell_out(tree)
        layers.append(tree)
        following = _base_of(tree, following, seen)
    merged = layers.pop()
    while layers:
        merged = merge(merged, layers.pop())
    return merged


def _refuse_sweep(tree: Tree, path: Path) -> None:
    """Raise ConfigError if a file has keys that only a sweep has."""
    for key in SWEEP_KEYS:
        if key in tree.data:
            raise ConfigError(
                f"this is a sweep, not the config of one run: it has {key!r}",
                where=str(tree.positions[(key,)]),
                fix=f"run it with: optlab sweep {packaged.short_name(path)}",
            )


def _real(path: Path) -> Path:
    return Path(path).resolve()


def _base_of(tree: Tree, path: Path, seen: Sequence[Path]) -> Path | None:
    """Remove `base` from a layer and return the file that it names."""
    base = tree.data.pop("base", None)
    position = tree.positions.pop(("base",), None)
    if base is None:
        return None
    where = str(position)
    if not isinstance(base, str) or not base or "\0" in base:
        raise ConfigError(
            f"got {base!r}", key="base", where=where, expected="one YAML file, as `base: mnist_mlp.yaml`"
        )
    file = base_file(base, path.absolute().parent, where)
    try:
        real = _real(file)
    except (OSError, RuntimeError):
        real = file
    if real in seen:
        circle = " -> ".join(display_name(item) for item in [*seen[seen.index(real) :], real])
        raise ConfigError(f"the bases form a cycle: {circle}", key="base", where=where)
    return file


def base_file(base: str, folder: Path, where: str) -> Path:
    """Return the file that `base` names: a path, relative to `folder`, or a packaged config (`optlab:NAME`).

    Raises:
        ConfigError: there is no such file.
    """
    if base.startswith(packaged.PREFIX):
        return packaged.packaged(base, key="base", where=where)
    file = Path(absolute_path(base, folder))
    try:
        known = file.is_file()
        siblings = [] if known else [item.name for item in file.parent.iterdir()]
    except (OSError, ValueError, RuntimeError):
        known, siblings = False, []
    if not known:
        guess = nearest(file.name, siblings)
        raise ConfigError(
            f"there is no file {display_name(file)}",
            key="base",
            where=where,
            expected="a file, relative to the folder of the file that names it, or a packaged config, as "
            "`optlab:mnist_mlp`",
            fix=f"did you mean {guess!r}?" if guess else "",
        )
    return file


def merge(base: Tree, over: Tree) -> Tree:
    """Return `base` updated with `over`, without changing either."""
    result = Tree(copy.deepcopy(base.data), dict(base.positions))
    train = over.data.get("train")
    if isinstance(train, dict):
        drop_other_length(result, train)
    for key, value in over.data.items():
        put(result, (key,), value, over.positions)
    if () in over.positions:
        result.positions[()] = over.positions[()]
    return result


def drop_other_length(tree: Tree, mentioned: Mapping[Hashable, Any]) -> None:
    """Drop `train.steps` from the tree if a layer sets `train.epochs`, and vice versa."""
    below = tree.data.get("train")
    for one, other in (_LENGTHS, _LENGTHS[::-1]):
        if mentioned.get(one) is not None and other not in mentioned and isinstance(below, dict):
            _remove(tree, ("train", other))


def put(
    tree: Tree,
    path: KeyPath,
    value: Any,
    positions: Mapping[KeyPath, Position],
    keep: Collection[KeyPath] = (),
) -> list[str]:
    """Set or merge `value` at `path`, whose parents exist; return the options of a component that it drops.

    Args:
        tree: the tree, changed in place.
        path: the path of the value.
        value: a plain value; a mapping merges into a section or a component.
        positions: the locations of the value and of the values in it.
        keep: paths that a new name does not drop, because the same layer sets them.
    """
    slot = slot_at(path)
    old = value_at(tree.data, path)
    dropped: list[str] = []
    if slot and isinstance(value, dict) and "name" not in value and isinstance(old, list):
        old = _unwrap_single(tree, path, old, positions)
    if not (isinstance(value, dict) and isinstance(old, dict) and (slot is not None or path in SECTIONS)):
        _remove(tree, path)
        parent = value_at(tree.data, path[:-1])
        parent[path[-1]] = copy.deepcopy(value)
        for below in paths(value, path):
            if below in positions:
                tree.positions[below] = positions[below]
        return dropped
    if slot and "name" in value:
        dropped = _drop_options(tree, path, slot, keep)
    if path in positions:
        tree.positions[path] = positions[path]
    for key, item in value.items():
        dropped += put(tree, (*path, key), item, positions, keep)
    return dropped


def _unwrap_single(tree: Tree, path: KeyPath, old: list[Any], positions: Mapping[KeyPath, Position]) -> Any:
    """Replace a list of one component by that component; a mapping without a name can merge into it."""
    if len(old) != 1:
        raise ConfigError(
            f"the base has a list of {len(old)}, and a mapping without a name cannot replace it",
            key=".".join(map(str, path)),
            where=str(positions.get(path, "")),
            expected="a list, or a mapping with a name",
        )
    places = {
        (*path, *below[len(path) + 1 :]): tree.positions[below]
        for below in paths(old, path)
        if below in tree.positions and below != path
    }
    item = old[0]
    _remove(tree, path)
    value_at(tree.data, path[:-1])[path[-1]] = item
    tree.positions.update(places)
    return item


def _drop_options(tree: Tree, path: KeyPath, slot: Slot, keep: Collection[KeyPath]) -> list[str]:
    """Drop the options of the previous component; return them as `key=value`."""
    component = value_at(tree.data, path)
    kept = {"name", *(below[len(path)] for below in keep if below[: len(path)] == path != below)}
    if slot.kind == "dataset":
        kept |= set(slot.own_keys())
    dropped = [key for key in component if key not in kept]
    parts = [f"{key}={component[key]!r}" for key in dropped]
    for key in dropped:
        _remove(tree, (*path, key))
    return parts


def value_at(data: Any, path: KeyPath) -> Any:
    """Return the value at `path`, or None if there is none."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _remove(tree: Tree, path: KeyPath) -> None:
    """Remove the value at `path` and its locations from the tree; a list item becomes None."""
    parent = value_at(tree.data, path[:-1])
    if isinstance(parent, list) and isinstance(path[-1], int):
        for below in paths(parent[path[-1]], path):
            tree.positions.pop(below, None)
        parent[path[-1]] = None
    elif isinstance(parent, dict) and path[-1] in parent:
        for below in paths(parent[path[-1]], path):
            tree.positions.pop(below, None)
        del parent[path[-1]]


def paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of a value and the paths of all values in it."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


def parse_override(text: str) -> Override:
    """Read `optimizer.lr=0.1`; the value is YAML.

    A value with a first character that cannot start a YAML value (`*.bias`, `%x`) is a string.

    Raises:
        ConfigError: there is no `=`, a part of the key is empty, or the value is not YAML.
    """
    position = _position(text)
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise ConfigError(
            "this is not an override", where=str(position), expected="key=value, as optimizer.lr=0.1"
        )
    value = value.strip()
    if not value:
        raise ConfigError("there is no value", where=str(position), expected=f"{key}=null, or a value")
    if value[0] in "*&!@%`|>" and "\0" not in value:
        return Override(text, parts, value)
    return Override(text, parts, parse(value, position.origin).data)
