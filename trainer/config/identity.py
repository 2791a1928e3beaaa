"""The identity of a run: its resolved config, the code of its components and its data.

Which keys may differ between runs that count as the same is declared on the config's fields
(`models.MayDiffer`). Users' files are read, parsed and hashed; nothing is imported or executed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from trainer.config.component_paths import find_components
from trainer.config.models import OPTIONS, Component, Config, MayDiffer, SeedConfig, Verb, WithOptions
from trainer.config.paths import split_import_path


def may_differ(key: str, verb: Verb) -> bool:
    """Return whether runs that differ in a dotted key may be treated as the same run by a verb.

    Args:
        key: as `train.threads`, `optimizer.lr`, `optimizer.0.fused` or `optimizer.muon.fused`.
        verb: see `models.MayDiffer`.
    """
    return any(getattr(mark, verb) for mark in _marks(key))


@cache
def _marks(key: str) -> tuple[MayDiffer, ...]:
    """Return the marks of a key and of the sections that contain it."""
    parts = key.split(".")
    section: type[BaseModel] | None = Config
    marks = []
    for depth, part in enumerate(parts):
        if section is None:
            break
        if part not in section.model_fields:
            if issubclass(section, WithOptions):
                if depth == len(parts) - 1 and (mark := OPTIONS.get(section, {}).get(part)):
                    marks.append(mark)
                continue  # a label or an index in a list of components; options are not followed further
            break
        info = section.model_fields[part]
        marks += [mark for mark in info.metadata if isinstance(mark, MayDiffer)]
        section = _section_of(info.annotation)
    return tuple(marks)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model in an annotation, also inside a list or a union; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _section_of(part))), None)


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted key; a single optimizer becomes a list, a single seed four."""
    if prefix in ("optimizer", "scheduler") and not isinstance(value, list):
        value = [] if value is None else [value]
    if prefix == "seed" and not isinstance(value, Mapping):
        value = dict.fromkeys(SeedConfig.model_fields, value)
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def config_differences(saved: Mapping[str, Any], current: Mapping[str, Any], verb: Verb) -> list[str]:
    """Return the dotted keys in which two complete configs differ although a verb does not allow it.

    Args:
        saved: the resolved config of an existing run.
        current: the requested config; null or `auto` in it accepts any saved value of a key marked `unset`.
        verb: see `models.MayDiffer`.
    """
    old, new = dict(leaves(saved)), dict(leaves(current))
    return [
        key
        for key in dict.fromkeys([*old, *new])
        if not _same(old.get(key, _ABSENT), new.get(key, _ABSENT))
        and not may_differ(key, verb)
        and not (new.get(key, _ABSENT) in (None, "auto") and may_differ(key, "unset"))
    ]


_ABSENT = "absent"


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of one type: 1, True and "1" all differ."""
    return one == other and type(one) is type(other) and repr(one) == repr(other)


def describe_differences(
    keys: Sequence[str], saved: Mapping[str, Any], requested: Mapping[str, Any]
) -> list[str]:
    """Return one line per key, as `optimizer.0.lr: 0.1 in the existing run, 0.2 requested`."""
    old, new = dict(leaves(saved)), dict(leaves(requested))
    return [
        f"{key}: {old.get(key, _ABSENT)!r} in the existing run, {new.get(key, _ABSENT)!r} requested"
        for key in keys
    ]


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a run's components, without that of optlab and torch.

    Args:
        files: SHA-256 by absolute path, of the user's files and of the files that they import from their
            own folder.
        packages: version by name, of the distributions that components come from.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)


def code_of(config: Config) -> Code:
    """Return the current files and packages of the components of a config."""
    return code_at(*import_paths(config))


def code_at(*texts: str) -> Code:
    """Return the current files and packages of import paths."""
    files: dict[str, str] = {}
    packages: dict[str, str] = {}
    for text in texts:
        path = split_import_path(text)
        assert path is not None
        if path.is_file:
            sources = source_files(Path(path.source))
        else:
            module = path.source.split(".")[0]
            versions = _distributions(module)
            packages |= versions
            sources = [] if versions else _module_files(module)
        for source in sources:
            if str(source) not in files:
                files[str(source)] = file_digest(source)
    return Code(files, packages)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or `absent` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return _ABSENT


def import_paths(config: Config) -> list[str]:
    """Return the unique import paths in a config: names of components, and options that name functions."""
    components: list[Component] = [config.data, *config.data.augment, config.model, config.loss]
    components += [*config.optimizer, *config.scheduler, *config.train.metrics]
    if config.init:
        targets = [config.init, *config.init.layers]
        components += [part for target in targets for part in (target.weight, target.bias) if part]
    for optimizer in config.optimizer:
        inner = optimizer.base
        while inner is not None:
            components.append(inner)
            inner = inner.base
    texts = [component.name for component in components]
    for component in components:
        texts += texts_in(component.options)
    for optimizer in config.optimizer:
        texts += [text for group in optimizer.groups for text in texts_in(group.options)]
    return [text for text in dict.fromkeys(texts) if split_import_path(text)]


def named_code(*values: Any) -> list[str]:
    """Return the files and modules of all import paths in plain values that are not validated yet.

    Args:
        values: components, options or values of an axis.
    """
    paths = (split_import_path(text) for value in values for text in texts_in(value))
    named = [path for path in paths if path is not None]
    return list(dict.fromkeys(path.source for path in named if path.is_file or not _is_standard(path.source)))


def _is_standard(module: str) -> bool:
    """Return whether a module belongs to Python's standard library (refused, or only computes)."""
    return module.split(".")[0] in sys.stdlib_module_names


def components_in(config: Any) -> list[Any]:
    """Return the components of a config's plain values, as written."""
    return [component for _, _, component in find_components(config)]


def texts_in(value: Any) -> Iterator[str]:
    """Yield the strings of a plain value, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def source_files(file: Path) -> list[Path]:
    """Return a user's file and the files of its folder that it imports, directly or indirectly."""
    folder, sources, waiting = file.parent, [], [file]
    while waiting:
        source = waiting.pop()
        if source in sources:
            continue
        sources.append(source)
        for name in _imported_names(source):
            module, package = folder / f"{name}.py", folder / name
            if module.is_file():
                waiting.append(module)
            if package.is_dir():
                waiting += sorted(package.rglob("*.py"))
    return [sources[0], *sorted(sources[1:])]


def _imported_names(source: Path) -> list[str]:
    """Return the top-level names of the modules that a file imports, relative imports included."""
    try:
        return _names_imported_in(source.read_bytes())
    except OSError:
        return []


@lru_cache(maxsize=256)  # every run of a process asks for the same files several times
def _names_imported_in(content: bytes) -> list[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names]
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def _distributions(module: str) -> dict[str, str]:
    """Return the versions of the installed distributions that a top-level module belongs to.

    The result is empty for a module that is not installed, or is installed as editable (`pip install -e`).
    """
    versions = {}
    for name in dict.fromkeys(_top_level_modules().get(module, ())):
        distribution = metadata.distribution(name)
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        except ValueError:
            origin = {}
        if not origin.get("dir_info", {}).get("editable"):
            versions[name] = distribution.version
    return versions


@cache  # reading the metadata of every installed distribution takes some 0.1 s
def _top_level_modules() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _module_files(module: str) -> list[Path]:
    """Return the Python files of a top-level module that belongs to no installed distribution."""
    try:
        spec = importlib.util.find_spec(module)  # imports nothing: the name has no dots
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    folders = [Path(location) for location in spec.submodule_search_locations or ()]
    if folders:
        return sorted(path for folder in folders for path in folder.rglob("*.py"))
    return source_files(Path(spec.origin)) if spec.origin and Path(spec.origin).is_file() else []


def recorded_code(recorded: Mapping[str, Any]) -> Code:
    """Return the code recorded in the environment.json of an existing run."""
    parts = recorded.get("components") or ()
    files = {str(part.get("source")): str(part.get("sha256")) for part in parts}
    packages = {str(name): str(version) for name, version in (recorded.get("packages") or {}).items()}
    return Code(files, packages)


def code_changes(before: Code, now: Code) -> list[str]:
    """Return one line per file or package that differs between two states of the code."""
    lines = []
    for path in dict.fromkeys([*before.files, *now.files]):
        old, new = before.files.get(path, _ABSENT), now.files.get(path, _ABSENT)
        if old != new:
            lines.append(f"{path}: SHA-256 was {old[:12]}, is {new[:12]}")
    for name in dict.fromkeys([*before.packages, *now.packages]):
        old, new = before.packages.get(name, _ABSENT), now.packages.get(name, _ABSENT)
        if old != new:
            lines.append(f"package {name}: was {old}, is {new}")
    return lines


def data_difference(recorded: Mapping[str, Any], digest: str) -> list[str]:
    """Return one line if the data of an existing run differ from the current data or are unknown."""
    before = (recorded.get("data") or {}).get("sha256")
    if before == digest:
        return []
    return [f"data content: SHA-256 was {str(before or _ABSENT)[:12]}, is {digest[:12]}"]
