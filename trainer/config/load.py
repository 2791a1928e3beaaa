"""Load a validated `Config` from a YAML file, YAML text or a dict, with overrides; write it back as YAML.

Validation has two passes: the options of every component against the model of its builder, then the
structure against `Config`. The problems of both passes are reported together, each with its location. The
caller passes the available components (`Components`).
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from trainer.config import suggestions, yaml_reader
from trainer.config import validation_errors as messages
from trainer.config.component_paths import Slot, find_components, spell_out
from trainer.config.merge import read_layers, value_at
from trainer.config.models import Config, GroupConfig, SeedConfig
from trainer.config.overrides import apply_overrides
from trainer.config.paths import absolute_import_path, absolute_path, split_import_path
from trainer.config.signature_schema import BuilderDefault, is_import_path, is_path
from trainer.config.yaml_reader import KeyPath, Position, Tree
from trainer.errors import ConfigError, OptlabError, Problem, unknown_name

MAX_COMPONENTS = 100  # data, model, optimizers, augmentations ...: validating one takes a few milliseconds


@dataclass(frozen=True, slots=True)
class Components:
    """The available components; the catalog provides them.

    Args:
        models: maps (kind, name) to the model of the component's options. Returns None or raises ConfigError
            if there is no such component. A name may be an import path, `/absolute/file.py:Thing` or
            `package.module:Thing`.
        names: the names of every kind, by kind, as `optimizer`.
        check: called with (kind, name, options) after the types are validated. Raises ConfigError, with keys
            relative to the component, for values that the builder rejects. None = no such check.
        default_loss: returns the name of the loss of a config's plain values that state none.
    """

    models: Callable[[str, str], type[BaseModel] | None]
    names: Mapping[str, Sequence[str]]
    check: Callable[[str, str, Mapping[str, Any]], None] | None = None
    default_loss: Callable[[Any], str] = lambda config: "cross_entropy"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A validated config and the locations of its values.

    Args:
        config: the complete config, with every default filled in.
        positions: the location of every dotted key that a file or an override sets.
        notes: messages for the user, such as the options that an override dropped.
    """

    config: Config
    positions: Mapping[str, Position] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def where(self, key: str) -> str:
        """Return the location of a dotted key, or of its nearest parent that is set, as `file:line`."""
        for candidate in (key, *_other_spellings(key)):
            if candidate in self.positions:
                return str(self.positions[candidate])
        head, dot, _ = key.rpartition(".")
        if dot:
            return self.where(head)
        return str(self.positions[""]) if "" in self.positions else ""


def _other_spellings(key: str) -> list[str]:
    """Return equivalent keys: with a single optimizer, `optimizer.lr` and `optimizer.0.lr` are the same."""
    head, _, rest = key.partition(".")
    if head not in ("optimizer", "scheduler"):
        return []
    if rest == "0" or rest.startswith("0."):
        return [head + rest[1:]]
    return [".".join(part for part in (head, "0", rest) if part)]


@dataclass(frozen=True, slots=True)
class Draft:
    """A config with its layers and overrides merged, before validation.

    Args:
        tree: the values as written.
        notes: messages for the user, such as the options that an override dropped.
    """

    tree: Tree
    notes: list[str]

    def wants_figures(self) -> bool:
        """Return whether the run draws figures; True if the section `log` is not valid."""
        log = self.tree.data.get("log")
        return not isinstance(log, dict) or log.get("plots") != []


def read(path: Path, overrides: Sequence[str] = ()) -> Draft:
    """Read a YAML file with its bases and apply overrides, without validation (see `check`).

    Raises:
        ConfigError: a file cannot be read or an override cannot be applied.
    """
    return draft_of(read_layers(Path(path)), overrides)


def draft_of(tree: Tree, overrides: Sequence[str]) -> Draft:
    """Apply overrides to a merged config, without validation."""
    spell_out(tree)
    return Draft(*apply_overrides(tree, overrides))


def check(draft: Draft, *, components: Components) -> Loaded:
    """Validate a config.

    Args:
        draft: the config; defaults are added to its tree in place.
        components: the available components.

    Raises:
        ConfigError: the config is not valid; the error lists every problem.
    """
    config = _check(draft.tree, components)
    places = {".".join(map(str, path)): position for path, position in draft.tree.positions.items()}
    return Loaded(config, places, draft.notes)


def load(path: Path, overrides: Sequence[str] = (), *, components: Components) -> Loaded:
    """Read a YAML file with its bases, apply overrides and validate the result.

    Args:
        path: the file.
        overrides: as `optimizer.lr=0.1`.
        components: the available components.

    Raises:
        ConfigError: a file cannot be read, an override cannot be applied, or the config is not valid; the
            error lists every problem.
    """
    return check(read(path, overrides), components=components)


def from_tree(tree: Tree, overrides: Sequence[str] = (), *, components: Components) -> Loaded:
    """Load layers that `merge.merge` has merged as `load` does, without changing the tree."""
    copied = Tree(copy.deepcopy(tree.data), dict(tree.positions))
    return check(draft_of(copied, overrides), components=components)


@dataclass(slots=True)
class _ProblemList:
    """Problems with their paths, which are needed to sort them by line."""

    tree: Tree
    problems: list[tuple[KeyPath, Problem]] = field(default_factory=list)

    def add(self, path: KeyPath, problem: Problem) -> None:
        """Add a problem with the key and the location of `path`."""
        position = self.position(path)
        key = ".".join(map(str, path))
        where = problem.where or (str(position) if position else "")
        self.problems.append((path, Problem(problem.what, key, where, problem.expected, problem.fix)))

    def position(self, path: KeyPath) -> Position | None:
        """Return the location of `path` or of its nearest parent."""
        while path and path not in self.tree.positions:
            path = path[:-1]
        return self.tree.positions.get(path)

    def in_order(self) -> list[Problem]:
        """Return the unique problems, sorted by file and line; those of overrides come last."""

        def order(item: tuple[KeyPath, Problem]) -> tuple[bool, str, int]:
            position = self.position(item[0])
            return (
                (not position.origin.lines, position.origin.name, position.line)
                if position
                else (True, "", 0)
            )

        return list(dict.fromkeys(problem for _, problem in sorted(self.problems, key=order)))


def _check(tree: Tree, components: Components) -> Config:
    loss = tree.data.setdefault("loss", {})
    if isinstance(loss, dict) and "name" not in loss:  # options alone are those of the default loss
        loss["name"] = components.default_loss(tree.data)
    collected = _ProblemList(tree)
    checked = _Checked(tree.data)
    slots = list(islice(find_components(tree.data), MAX_COMPONENTS + 1))
    if len(slots) > MAX_COMPONENTS:
        collected.add(slots[-1][1], Problem(f"there are more than {MAX_COMPONENTS} components"))
        raise ConfigError.of(collected.in_order())
    option_names: dict[str, list[str]] = {}
    for slot, path, value in slots:
        option_names[_address(path, value)] = _check_component(
            slot, path, value, collected, checked, components
        )
    data = checked.built(tree.data, ())
    config: Config | None = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        for path, problem in messages.explain(error, data, Config):
            path = _as_written(tree, path)
            collected.add(path, _with_hint(problem, path, collected, option_names))
    if collected.problems or config is None:
        raise ConfigError.of(collected.in_order())
    return config


@dataclass(slots=True)
class _Checked:
    """The components with validated options, by path, in the form of `Component`."""

    data: Any
    components: dict[KeyPath, dict[Hashable, Any]] = field(default_factory=dict)

    def built(self, value: Any, path: KeyPath) -> Any:
        """Return the config's values with the validated components inserted."""
        value = self.components.get(path, value)
        if isinstance(value, dict):
            return {
                key: item if key == "options" and path in self.components else self.built(item, (*path, key))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.built(item, (*path, index)) for index, item in enumerate(value)]
        return value


def _check_component(
    slot: Slot,
    path: KeyPath,
    value: dict[Hashable, Any],
    problems: _ProblemList,
    checked: _Checked,
    components: Components,
) -> list[str]:
    """Validate a component's options against the model of its builder; return their names."""
    own_keys = slot.own_keys()
    own: dict[Hashable, Any] = {key: item for key, item in value.items() if key in own_keys}
    stated = {key: item for key, item in value.items() if key not in own_keys}
    checked.components[path] = {**own, "options": {}}
    groups = value.get("groups") if slot.kind == "optimizer" else None
    group_paths = []
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        if isinstance(group, dict):
            group_own = {
                key: item
                for key, item in group.items()
                if key in GroupConfig.model_fields and key != "options"
            }
            checked.components[(*path, "groups", index)] = {**group_own, "options": {}}
            group_paths.append(
                ((*path, "groups", index), {k: v for k, v in group.items() if k not in group_own})
            )
    name = value.get("name")
    if not isinstance(name, str):
        return []  # the second pass reports it
    name = _absolute_name(name, problems.position((*path, "name")))
    own["name"] = name
    checked.components[path]["name"] = name
    try:
        model = components.models(slot.kind, name)
        if model is None:
            raise unknown_name(slot.kind, name, components.names[slot.kind])
    except OptlabError as error:
        for problem in error.problems:
            problems.add((*path, "name"), problem)
        return []
    reserved = (*own_keys, "options")
    clash = [key for key, info in model.model_fields.items() if key in reserved and info.is_required()]
    if clash:
        what = f"{name} has a required parameter {', '.join(clash)}, which is a structural key of the config"
        problems.add((*path, "name"), Problem(what, fix="rename that parameter"))
        return []
    options = _check_options(model, stated, path, problems, siblings=own_keys)
    checked.components[path]["options"] = options
    if components.check and (options or not stated):
        try:
            components.check(slot.kind, name, {str(key): item for key, item in options.items()})
        except OptlabError as error:
            for problem in error.problems:
                problems.add((*path, *(problem.key.split(".") if problem.key else ())), problem)
    inner_options: dict[Hashable, Any] = options
    inner: Any = value.get("base")
    while group_paths and isinstance(inner, dict) and isinstance(inner.get("name"), str):
        name = _absolute_name(inner["name"], problems.position((*path, "name")))
        try:
            model = components.models("optimizer", name) or model
        except OptlabError:  # reported where the inner optimizer is checked
            return list(model.model_fields)
        inner_options = {key: item for key, item in inner.items() if key not in ("name", "base")}
        inner = inner.get("base")
    for group_path, group_stated in group_paths:
        # A class may read other keys in its groups than its constructor has; the builder checks them.
        is_free = split_import_path(name) is not None
        free = {key: item for key, item in group_stated.items() if is_free and key not in model.model_fields}
        known = {key: item for key, item in group_stated.items() if key not in free}
        complete = _check_options(model, {**inner_options, **known}, group_path, problems, keys=known)
        chosen = {key: item for key, item in complete.items() if key in known}
        checked.components[group_path]["options"] = chosen | free
    return list(model.model_fields)


def _address(path: KeyPath, component: Mapping[Hashable, Any]) -> str:
    """Return the dotted path of a component; an item of a list is addressed by its label or its name."""
    parts = list(path)
    if isinstance(parts[-1], int) and len(parts) == 2:
        parts[-1] = component.get("label") or component.get("name") or parts[-1]
    return ".".join(map(str, parts))


def _with_hint(
    problem: Problem, path: KeyPath, problems: _ProblemList, option_names: Mapping[str, Sequence[str]]
) -> Problem:
    """Return a problem of the config's structure with what the user most likely meant."""
    if path == ("seed",) and not isinstance(problems.tree.data["seed"], dict):
        streams = ", ".join(SeedConfig.model_fields)
        return replace(problem, expected=f"a whole number, or a mapping of {streams}")
    misplaced = len(path) == 1 and path[0] not in Config.model_fields
    if len(path) == 2 and path[0] in suggestions.SECTIONS:
        misplaced = path[1] not in suggestions.SECTIONS[str(path[0])].model_fields
    if not misplaced:
        return problem
    names = dict(sorted(option_names.items(), key=lambda item: not item[0].startswith("optimizer")))
    key = suggestions.full_key(str(path[-1]), names, exact=bool(problem.fix) or len(path) > 1)
    if key is None:
        return problem
    value = value_at(problems.tree.data, path)
    return replace(problem, fix=suggestions.did_you_mean(key, value, problems.position(path)))


def _with_override(
    problem: Problem, path: KeyPath, value: Any, model: type[BaseModel], problems: _ProblemList
) -> Problem:
    """Return the problem of an unknown option; if an override sets it, with the override that was meant."""
    guess, position = suggestions.nearest_key(str(path[-1]), model.model_fields), problems.position(path)
    if guess is None or position is None or position.origin.lines:
        return problem
    key = ".".join(map(str, (*path[:-1], guess)))
    return replace(problem, fix=suggestions.did_you_mean(key, value, position))


def _absolute_name(name: str, position: Position | None) -> str:
    return absolute_import_path(name, position.origin.folder if position else Path.cwd())


def _check_options(
    model: type[BaseModel],
    stated: Mapping[Hashable, Any],
    path: KeyPath,
    problems: _ProblemList,
    *,
    siblings: Sequence[str] = (),
    keys: Mapping[Hashable, Any] | None = None,
) -> dict[Hashable, Any]:
    """Return a component's options with defaults filled in, in the order of the builder's signature.

    Args:
        model: the model of the options.
        stated: the options in the config.
        path: the path of the component.
        problems: problems are added to it.
        siblings: the component's structural keys, suggested for an unknown key.
        keys: report only problems of these keys (a parameter group inherits its optimizer's options).
    """
    try:
        valid = model.model_validate(stated)
    except ValidationError as error:
        for below, problem in messages.explain(error, stated, model, siblings=siblings):
            if keys is None or (below and below[0] in keys):
                if len(below) == 1 and below[0] in stated and below[0] not in model.model_fields:
                    problem = _with_override(problem, (*path, *below), stated[below[0]], model, problems)
                problems.add((*path, *below), problem)
        return {}
    options: dict[Hashable, Any] = {}
    for key, info in model.model_fields.items():
        value = _plain_output(getattr(valid, key))
        if value is None and any(isinstance(mark, BuilderDefault) for mark in info.metadata):
            continue
        position = problems.position((*path, key)) if key in stated else None
        folder = position.origin.folder if position else Path.cwd()
        if is_path(info):
            value = _map_text(value, partial(absolute_path, folder=folder))
        elif is_import_path(info):
            value = _map_text(value, partial(absolute_import_path, folder=folder))
        options[key] = value
    return options | (valid.model_extra or {})


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _plain_output(value: Any) -> Any:
    """Convert a validated value to plain YAML values: tuples to lists, paths to text."""
    if isinstance(value, BaseModel):
        return _plain_output(value.model_dump())
    if isinstance(value, dict):
        return {key: _plain_output(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_output(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain_output(item) for item in value), key=repr)
    if isinstance(value, enum.Enum):
        return _plain_output(value.value)
    return str(value) if isinstance(value, Path) else value


def _as_written(tree: Tree, path: KeyPath) -> KeyPath:
    """Return a path as the user wrote it: without the index of a single optimizer, `seed` for equal seeds."""
    seed = tree.data.get("seed")
    if path[:1] == ("seed",) and isinstance(seed, dict) and set(seed) == set(SeedConfig.model_fields):
        return path[:1] if all(value == seed["init"] for value in seed.values()) else path
    if len(path) > 1 and path[0] in ("optimizer", "scheduler") and path[1] == 0:
        return path if isinstance(tree.data.get(path[0]), list) else (path[0], *path[2:])
    return path


class _Dumper(yaml.SafeDumper):
    """Writes YAML that this reader and other YAML readers read as the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Write text with control characters or line breaks in double quotes: other styles fold line breaks."""
    plain = all(char >= " " and char not in "\x7f\x85\u2028\u2029\ufeff" for char in text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _write_text)

# Quote text that our reader reads as a number; PyYAML quotes only what its own reader reads as one.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", yaml_reader.FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", yaml_reader.INT, list("-+0123456789"))


def dump(config: Config) -> str:
    """Return a complete config as YAML; `load` reads the same config from it, with bitwise equal floats."""
    fields = config.model_dump()
    for key in ("optimizer", "scheduler"):
        if len(fields[key]) < 2:
            fields[key] = fields[key][0] if fields[key] else None
    seeds = set(fields["seed"].values())
    if len(seeds) == 1:
        fields["seed"] = seeds.pop()
    text: str = yaml.dump(
        fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    return text
