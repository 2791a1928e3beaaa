"""Names of run directories: the overrides, then the seed, as `lr=0.1,seed=0`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.component_paths import slot_at
from trainer.config.identity import may_differ
from trainer.config.merge import parse_override
from trainer.config.models import SeedConfig
from trainer.config.paths import split_import_path
from trainer.errors import OptlabError

_LONGEST = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._+\-=,()\[\]{}]")


def run_id(overrides: Sequence[str], seed: SeedConfig, *, texts: Mapping[str, str] | None = None) -> str:
    """Return the name of a run's directory.

    The name has the last part of every overridden key, or as many parts as are needed to be unique. The seed
    comes last (four numbers if the streams differ). A whole component is named by its parts:
    `optimizer={name: SGD, lr: 0.1}` gives `optimizer=SGD,lr=0.1`. Characters that are special to file systems
    or shells are percent-encoded. A name of more than 120 characters is truncated and gets a hash of the full
    name. Keys marked with `MayDiffer.name` are omitted.

    Args:
        overrides: as given on the command line; the last one of a key applies.
        seed: the run's seeds.
        texts: values as text, by dotted key, for keys that are never omitted: the axes of a sweep.
    """
    texts = texts or {}
    chosen: dict[tuple[str, ...], str] = {}
    for override in map(parse_override, overrides):
        if text := texts.get(".".join(override.key)):
            chosen[override.key] = text
        else:
            values = _parts(override.key, override.value)
            chosen |= {key: value_name(value) for key, value in values.items() if _names_the_run(key)}
    labels = _shortest(list(chosen))
    parts = [f"{labels[key]}={text}" for key, text in sorted(chosen.items())]
    streams = list(seed.model_dump().values())
    parts.append("seed=" + (str(streams[0]) if len(set(streams)) == 1 else "-".join(map(str, streams))))
    name = _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), ",".join(parts))
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - len(parts[-1]) - 10]}~{digest},{parts[-1]}"


def value_names(key: str, values: Sequence[Any]) -> list[str]:
    """Return a unique text for every value of an axis.

    Values with the same short text, such as two files of one name in different folders, get a hash of the
    whole value.

    Args:
        key: the dotted key of the axis.
        values: the values of the axis.
    """
    is_path = key == "data.path"
    names = [
        Path(value).name if is_path and isinstance(value, str) else axis_value_name(value) for value in values
    ]
    return [
        f"{name}~{hashlib.sha256(repr(value).encode()).hexdigest()[:6]}" if names.count(name) > 1 else name
        for name, value in zip(names, values, strict=True)
    ]


def axis_value_name(value: Any) -> str:
    """Return the name of a value; of a component its name and its options, as `SGD,lr=0.1`."""
    if not isinstance(value, Mapping) or "name" not in value:
        return value_name(value)
    options = [f"{key}={value_name(item)}" for key, item in value.items() if key != "name"]
    return ",".join([value_name(value["name"]), *options])


def _parts(key: tuple[str, ...], value: Any) -> dict[tuple[str, ...], Any]:
    """Return the values of a whole section or component by key; the name of a component has its key."""
    if not isinstance(value, Mapping) or not (len(key) == 1 or slot_at(key)):
        return {key: value}
    return {key if part == "name" else (*key, str(part)): item for part, item in value.items()}


def _names_the_run(key: tuple[str, ...]) -> bool:
    return key[0] not in ("seed", "name") and not may_differ(".".join(key), "name")


def _shortest(keys: Sequence[tuple[str, ...]]) -> Mapping[tuple[str, ...], str]:
    """Return the shortest unique suffix of every key."""
    labels = {}
    for key in keys:
        lengths = range(1, len(key) + 1)
        unambiguous = [n for n in lengths if all(other == key or other[-n:] != key[-n:] for other in keys)]
        labels[key] = ".".join(key[-(unambiguous or [len(key)])[0] :])
    return labels


def value_name(value: Any) -> str:
    """Return a value as written on a command line; quote text that YAML reads as another value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(value_name, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_name(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and (path := split_import_path(value)) and path.is_file:
        return f"{Path(path.source).name}:{path.attribute}"
    if isinstance(value, str):
        return value if _reads_as_itself(value) else f'"{value}"'
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(parse_override(f"key={text}").value == text)
    except OptlabError:
        return True
