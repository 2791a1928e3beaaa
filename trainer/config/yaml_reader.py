"""Read YAML text as plain Python values, with the location of every key and list item.

The reader processes the events of PyYAML's parser itself: events have line numbers, the result contains
only plain values, and depth and size are checked while reading, before aliases are expanded, so a hostile
file is rejected early.

Scalars follow YAML 1.2, not 1.1: `1e-3` is a number, `yes`, `no`, `on` and `off` are strings, `012` is 12.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 20_000
MAX_TEXT = 5_000
PIPE_SECONDS = 10.0

KeyPath = tuple[Hashable, ...]

FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
)
INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")
NULL = re.compile(r"(~|null|Null|NULL|)\Z")

_TAG = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a text.

    Args:
        name: its name in messages: the file, or `override 'optimizer.lr=0.1'`.
        folder: the folder at which relative paths in the text start.
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


@dataclass(slots=True)
class _Node:
    """A YAML node; `size` and `height` are those of its subtree with aliases expanded."""

    line: int
    scalar: Any = None
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    size: int = 1
    height: int = 1
    is_merge: bool = False


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
    """Read a pipe up to one byte more than a config may have; raise ConfigError if no data arrives."""
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
        found = "nothing" if tree.data is None else f"a {type(tree.data).__name__}"
        raise ConfigError(
            f"found {found} at the top level",
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
    try:
        root = _compose(text, origin)
    except yaml.MarkedYAMLError as error:
        _refuse_depth(text, origin)
        raise _syntax_error(error, text, origin) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"this is not YAML: {error}", where=origin.name, expected="YAML text") from error
    tree = Tree(None, {(): Position(origin, root.line)})
    tree.data = _construct(root, (), tree.positions, origin)
    return tree


def _too_large(name: str) -> ConfigError:
    return ConfigError("the file is larger than 1 MiB", where=name, expected="a config of at most 1 MiB")


def _refuse_depth(text: str, origin: Origin) -> None:
    """Raise ConfigError if a text that the parser rejected is nested too deeply; otherwise return.

    The parser reads ahead after an opening bracket and has its own limit in some releases, so it can reject a
    text before its first event. Therefore parse only the text up to the first bracket beyond our limit.
    """
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_DEPTH:
            with contextlib.suppress(yaml.YAMLError):  # the brackets were in quoted text or in a comment
                _compose(text[: bracket.end()], origin)
            return


def _syntax_error(error: yaml.MarkedYAMLError, text: str, origin: Origin) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    number = getattr(mark, "line", -1)
    where = str(Position(origin, number + 1))
    what = " ".join(part for part in (error.context, error.problem) if part)
    lines = text.split("\n")
    tabbed = 0 <= number < len(lines) and lines[number].lstrip(" ").startswith("\t")
    fix = "indent with spaces, not with tabs" if tabbed else ""
    return ConfigError(f"this is not YAML: {what}", where=where, fix=fix)


def _compose(text: str, origin: Origin) -> _Node:
    """Build the node tree from the parser's events, and check depth and size."""
    anchors: dict[str, _Node | None] = {}
    open_nodes: list[tuple[_Node, str | None]] = []
    waiting_keys: list[_Node | None] = []
    root: _Node | None = None
    documents = 0

    def refuse(what: str, line: int, expected: str = "") -> ConfigError:
        return ConfigError(what, where=str(Position(origin, line)), expected=expected)

    def place(node: _Node, line: int) -> None:
        """Add a finished node to the innermost open collection."""
        nonlocal root
        if len(open_nodes) + node.height > MAX_DEPTH:
            raise refuse(f"values are nested more than {MAX_DEPTH} deep", line)
        if not open_nodes:
            root = node
            return
        parent, _ = open_nodes[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.size > MAX_NODES:
            raise refuse(f"there are more than {MAX_NODES} values (aliases expanded)", line)
        if parent.items is not None:
            parent.items.append(node)
        elif parent.pairs is not None:
            key = waiting_keys[-1]
            if key is None:
                waiting_keys[-1] = node
            else:
                parent.pairs.append((key, node))
                waiting_keys[-1] = None

    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise refuse("a second document starts here", line, "one document")
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            target = anchors.get(anchor)
            if target is None:
                what = (
                    f"*{anchor} refers to itself"
                    if anchor in anchors
                    else f"there is no anchor &{anchor} above"
                )
                raise refuse(what, line, "" if anchor in anchors else "an alias of an anchor above it")
            place(target, line)
        elif isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, line, refuse)
            if event.anchor:
                anchors[event.anchor] = node
            place(node, line)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
                raise refuse(f"unknown tag {event.tag!r}", line, "plain values without tags")
            if len(open_nodes) >= MAX_DEPTH:
                raise refuse(f"values are nested more than {MAX_DEPTH} deep", line)
            node = _Node(line, items=[]) if is_list else _Node(line, pairs=[])
            if event.anchor:
                anchors[event.anchor] = None
            open_nodes.append((node, event.anchor))
            waiting_keys.append(None)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            node, opened_anchor = open_nodes.pop()
            waiting_keys.pop()
            if opened_anchor:
                anchors[opened_anchor] = node
            place(node, node.line)
    return root or _Node(1)


def _scalar(event: Any, line: int, refuse: Any) -> _Node:
    text: str = event.value
    tag = event.tag
    if "\0" in text:  # not allowed in file names and arguments
        raise refuse("there is a NUL character", line, "text without \\0")
    if max(len(text), len(tag or "")) > MAX_TEXT:  # error messages show the text
        raise refuse(f"a text has more than {MAX_TEXT:,} characters", line)
    if tag in (None, "!"):
        if not event.implicit[0]:
            return _Node(line, text)
        if text == "<<":
            return _Node(line, text, is_merge=True)
        kind = _implicit_kind(text)
    else:
        kind = tag.removeprefix(_TAG)
        pattern = {"float": FLOAT, "int": INT, "bool": BOOL, "null": NULL}.get(kind)
        if not tag.startswith(_TAG) or (kind != "str" and pattern is None):
            raise refuse(f"unknown tag {tag!r}", line, "plain values without tags")
        if pattern and not pattern.match(text):
            raise refuse(f"{text!r} is not a !!{kind}", line)
    if kind == "str":
        return _Node(line, text)
    if len(text) > 400:
        raise refuse("this number has more than 400 characters", line)
    return _Node(line, _number(kind, text))


def _implicit_kind(text: str) -> str:
    if NULL.match(text):
        return "null"
    if BOOL.match(text):
        return "bool"
    if INT.match(text):
        return "int"
    return "float" if FLOAT.match(text) else "str"


def _number(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text.replace(".", "") if text[-1:].isalpha() else text)


def _construct(node: _Node, path: KeyPath, positions: dict[KeyPath, Position], origin: Origin) -> Any:
    """Convert nodes to plain values; every alias becomes a copy."""
    if node.items is not None:
        for index, item in enumerate(node.items):
            positions[(*path, index)] = Position(origin, item.line)
        return [_construct(item, (*path, index), positions, origin) for index, item in enumerate(node.items)]
    if node.pairs is not None:
        data: dict[Hashable, Any] = {}
        for key, (line, value) in _entries(node, origin).items():
            positions[(*path, key)] = Position(origin, line)
            data[key] = _construct(value, (*path, key), positions, origin)
        return data
    return node.scalar


def _entries(node: _Node, origin: Origin) -> Mapping[Hashable, tuple[int, _Node]]:
    """Return a mapping's keys with their lines and values; `<<` adds keys that the mapping itself lacks."""
    own: dict[Hashable, tuple[int, _Node]] = {}
    inherited: dict[Hashable, tuple[int, _Node]] = {}
    merged_at = 0
    for key_node, value in node.pairs or ():
        where = str(Position(origin, key_node.line))
        if key_node.is_merge:
            if merged_at:
                raise _duplicate("<<", merged_at, where)
            merged_at = key_node.line
            for parent in _parents(value, where):
                inherited = {**_entries(parent, origin), **inherited}
            continue
        key = key_node.scalar
        if key_node.items is not None or key_node.pairs is not None:
            raise ConfigError(
                "a list or a mapping cannot be a key", where=where, expected="a name or a number"
            )
        if isinstance(key, float) and math.isnan(key):
            raise ConfigError("NaN cannot be a key", where=where, expected="a name or a number")
        if key in own:
            raise _duplicate(key, own[key][0], where)
        own[key] = (key_node.line, value)
    return {**inherited, **own}


def _duplicate(key: object, first_line: int, where: str) -> ConfigError:
    return ConfigError(
        f"the key {key!r} is already set in line {first_line}", where=where, fix="keep one of them"
    )


def _parents(value: _Node, where: str) -> Iterator[_Node]:
    for parent in [value] if value.items is None else value.items:
        if parent.pairs is None:
            raise ConfigError(
                "`<<` merges mappings only", where=where, expected="an alias of a mapping, as `<<: *name`"
            )
        yield parent
