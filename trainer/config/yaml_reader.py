"""Read YAML text as plain Python values, with the location of every key and list item.

PyYAML composes the nodes, which have line numbers. Depth, size and aliases are checked before, on the events
of its parser, because composing is recursive. The values that aliases add are counted while nodes are
converted to plain values, so a hostile file is rejected early.

Scalars follow YAML 1.2, not 1.1: `1e-3` is a number, `yes`, `no`, `on` and `off` are strings, `012` is 12.
"""

from __future__ import annotations

import math
import os
import re
import select
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainer.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 20_000
MAX_TEXT = 5_000
PIPE_SECONDS = 10.0

# A text with fewer brackets and shorter indentations cannot be nested deeply.
_FEW_BRACKETS = 1_000
_LONG_INDENTATION = re.compile(rb"^[ ?:-]{400}", re.MULTILINE)

KeyPath = tuple[Hashable, ...]

FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)
INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")
NULL = re.compile(r"(~|null|Null|NULL|)\Z")

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_PATTERNS = {"null": NULL, "bool": BOOL, "int": INT, "float": FLOAT, "merge": re.compile(r"<<\Z")}
_FIRST = {
    "null": ["~", "n", "N", ""],
    "bool": "tTfF",
    "int": "-+0123456789",
    "float": "-+.0123456789",
    "merge": "<",
}
_KINDS = {
    "scalar": {_TAG + kind: kind for kind in ("str", *_PATTERNS)},
    "sequence": {_TAG + "seq": "list"},
    "mapping": {_TAG + "map": "dict"},
}
_PyYAMLLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_PyYAMLLoader):  # type: ignore[misc]
    """PyYAML's loader with the plain scalars of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, _FIRST[_kind])


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a text.

    Args:
        name: its name in messages: the file, or `override 'optimizer.lr=0.1'`.
        folder: the folder to which relative paths in the text are relative.
        lines: whether messages include line numbers.
    """

    name: str
    folder: Path
    lines: bool = True


@dataclass(frozen=True, slots=True)
class Position:
    """The location of a key or a list item: its origin and its line, from 1."""

    origin: Origin
    line: int = 0

    def __str__(self) -> str:
        """Return `file:line`, or the name of the origin if it has no lines."""
        return f"{self.origin.name}:{self.line}" if self.origin.lines and self.line else self.origin.name


@dataclass(slots=True)
class Tree:
    """Plain values with their locations.

    Args:
        data: dicts, lists, strings, numbers, booleans and None.
        positions: the locations by path, as `("optimizer", "groups", 0, "lr")`; the root is `()`.
    """

    data: Any
    positions: dict[KeyPath, Position] = field(default_factory=dict)


def display_name(path: Path) -> str:
    """Return the name of a file for messages: relative to the working directory if it is inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def read_file(path: Path) -> Tree:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file cannot be read, is too large, is not UTF-8 or YAML, or has tags or objects.
    """
    name = display_name(path)
    origin = Origin(name, path.absolute().parent)
    try:
        if path.is_fifo():  # as in `optlab train <(generate)`
            content = _read_pipe(path, name)
        elif not path.is_file():
            what = "this is not a file" if path.exists() else "there is no such file"
            raise ConfigError(what, where=name, expected="a YAML file")
        else:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the file: {getattr(error, 'strerror', None) or error}", where=name
        ) from error
    try:
        text = content[:MAX_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= MAX_BYTES:
            line = content[: error.start].count(b"\n") + 1
            raise ConfigError(
                f"byte 0x{content[error.start]:02x} is not UTF-8 text",
                where=f"{name}:{line}",
                fix="save the file as UTF-8",
            ) from error
        text = ""
    if len(content) > MAX_BYTES:
        raise _too_large(name)
    return parse_mapping(text, origin)


def _read_pipe(path: Path, name: str) -> bytes:
    """Read a pipe up to one byte more than the maximum config size; raise ConfigError if no data arrives."""
    content = b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while len(content) <= MAX_BYTES:
            if not select.select([pipe], [], [], PIPE_SECONDS)[0]:
                raise ConfigError(
                    f"no data arrived through this pipe for {PIPE_SECONDS:g} s",
                    where=name,
                    expected="a YAML file, or a pipe with a process that writes to it",
                )
            part = pipe.read(MAX_BYTES + 1 - len(content))
            if not part:
                break
            content += part
    return content


def parse_mapping(text: str, origin: Origin) -> Tree:
    """Parse YAML text whose top level is a mapping; raise ConfigError as `read_file` does."""
    tree = parse(text, origin)
    if not isinstance(tree.data, dict):
        kind = "nothing" if tree.data is None else f"a {type(tree.data).__name__}"
        raise ConfigError(
            f"found {kind} at the top level",
            where=str(tree.positions[()]),
            expected="a mapping of sections, as `model: {name: mlp}`",
        )
    return tree


def parse(text: str, origin: Origin) -> Tree:
    """Parse one YAML document of plain values; raise ConfigError as `read_file` does."""
    if len(text) > MAX_BYTES:
        raise _too_large(origin.name)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError("there is a NUL character", where=str(Position(origin, line)), expected="YAML text")
    reader = _Reader(origin)
    try:
        reader.check(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        with suppress(yaml.YAMLError):  # the parser reads ahead and may reach its own depth limit first
            reader.check(text[: mark.index])
        raise _syntax_error(error, Position(origin, mark.line + 1), text) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"this is not YAML: {error}", where=origin.name, expected="YAML text") from error
    if root is None:
        return Tree(None, {(): Position(origin, 1)})
    reader.positions[()] = reader.position(root)
    return Tree(reader.convert(root, ()), reader.positions)


def refuse_deep(content: bytes) -> None:
    """Raise yaml.YAMLError if a text is nested so deeply that PyYAML before 6.0.4 overflows the stack."""
    if content.count(b"[") + content.count(b"{") < _FEW_BRACKETS and not _LONG_INDENTATION.search(content):
        return
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"values are nested more than {MAX_DEPTH} deep")


def _too_large(name: str) -> ConfigError:
    return ConfigError("the file is larger than 1 MiB", where=name, expected="a config of at most 1 MiB")


def _syntax_error(error: yaml.MarkedYAMLError, position: Position, text: str) -> ConfigError:
    what = " ".join(part for part in (error.context, error.problem) if part)
    tabbed = "".join(text.split("\n")[position.line - 1 : position.line]).lstrip(" ").startswith("\t")
    fix = "indent with spaces, not with tabs" if tabbed else ""
    return ConfigError(f"this is not YAML: {what}", where=str(position), fix=fix)


class _Reader:
    """Checks the events of one text and converts its nodes to plain values with positions."""

    def __init__(self, origin: Origin) -> None:
        self.positions: dict[KeyPath, Position] = {}
        self._origin = origin
        self._count = 0

    def position(self, item: Any) -> Position:
        """Return the position of an event or a node."""
        return Position(self._origin, item.start_mark.line + 1)

    def _error(self, item: Any, what: str, expected: str = "", fix: str = "") -> ConfigError:
        return ConfigError(what, where=str(self.position(item)), expected=expected, fix=fix)

    def _too_large(self, item: Any, count: int) -> ConfigError:
        if count > MAX_NODES:
            return self._error(item, f"there are more than {MAX_NODES} values (aliases expanded)")
        return self._error(item, f"values are nested more than {MAX_DEPTH} deep")

    def check(self, text: str) -> None:
        """Check that a text is a single document, small and flat enough, with an anchor for every alias."""
        documents = nodes = 0
        anchors: dict[str, Any] = {}
        parents: list[str | None] = []  # the anchors of the collections around the event
        event: Any
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.NodeEvent):
                nodes += 1
                if nodes > MAX_NODES or len(parents) >= MAX_DEPTH:
                    raise self._too_large(event, nodes)
                name = event.anchor
                if isinstance(event, yaml.AliasEvent):
                    if name in parents:
                        raise self._error(event, f"*{name} refers to itself")
                    if name not in anchors:
                        expected = "an alias of an anchor above it"
                        raise self._error(event, f"there is no anchor &{name} above", expected)
                elif name in anchors:
                    raise self._duplicate(event, f"the anchor &{name}", anchors[name])
                elif name:
                    anchors[name] = event
                if isinstance(event, yaml.CollectionStartEvent):
                    parents.append(name)
            elif isinstance(event, yaml.CollectionEndEvent):
                parents.pop()
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document starts here", "one document")

    def convert(self, node: Any, path: KeyPath) -> Any:
        """Convert a node to plain values; every alias becomes a copy."""
        self._count += 1
        if self._count > MAX_NODES or len(path) >= MAX_DEPTH:
            raise self._too_large(node, self._count)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if self._kind(node) == "list":
            for index, item in enumerate(node.value):
                self.positions[*path, index] = self.position(item)
            return [self.convert(item, (*path, index)) for index, item in enumerate(node.value)]
        data: dict[Hashable, Any] = {}
        for key, (key_node, value) in self._entries(node, len(path) + 1).items():
            self.positions[*path, key] = self.position(key_node)
            data[key] = self.convert(value, (*path, key))
        return data

    def _entries(self, node: Any, depth: int) -> dict[Hashable, tuple[Any, Any]]:
        """Return the nodes of a mapping by key; `<<` adds keys that the mapping itself lacks."""
        self._kind(node)
        self._count += len(node.value)
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise self._too_large(node, self._count)
        own: dict[Hashable, tuple[Any, Any]] = {}
        inherited: dict[Hashable, tuple[Any, Any]] = {}
        merge = None
        for key_node, value in node.value:
            if key_node.tag == _MERGE and key_node.value == "<<":
                if merge:
                    raise self._duplicate(key_node, "the key '<<'", merge)
                merge = key_node
                for parent in value.value if self._kind(value) == "list" else [value]:
                    if not isinstance(parent, yaml.MappingNode):
                        expected = "an alias of a mapping, as `<<: *name`"
                        raise self._error(key_node, "`<<` merges mappings only", expected)
                    inherited = {**self._entries(parent, depth + 1), **inherited}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a list or a mapping cannot be a key", "a name or a number")
            key = self._scalar(key_node)
            if isinstance(key, float) and math.isnan(key):
                raise self._error(key_node, "NaN cannot be a key", "a name or a number")
            if key in own:
                raise self._duplicate(key_node, f"the key {key!r}", own[key][0])
            own[key] = (key_node, value)
        return {**inherited, **own}

    def _duplicate(self, item: Any, what: str, first: Any) -> ConfigError:
        line = self.position(first).line
        return self._error(item, f"{what} is already set in line {line}", fix="keep one of them")

    def _scalar(self, node: Any) -> Any:
        text: str = node.value
        if "\0" in text:  # not allowed in file names and arguments
            raise self._error(node, "there is a NUL character", "text without \\0")
        if len(text) > MAX_TEXT or len(node.tag) > MAX_TEXT:  # error messages show the text
            raise self._error(node, f"a text has more than {MAX_TEXT:,} characters")
        kind = self._kind(node)
        if kind == "str":
            return text
        if not _PATTERNS[kind].match(text):
            raise self._error(node, f"{text!r} is not a !!{kind}")
        if kind == "merge":  # `<<` that is not a key
            return text
        if len(text) > 400:
            raise self._error(node, "this number has more than 400 characters")
        return _number(kind, text)

    def _kind(self, node: Any) -> str:
        """Return the type of a node; raise ConfigError for a tag that YAML's core schema lacks."""
        kind = _KINDS[node.id].get(node.tag)
        if kind is None:
            raise self._error(node, f"unknown tag {node.tag!r}", "plain values without tags")
        return kind


def _number(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text.replace(".", "") if text[-1:].isalpha() else text)
