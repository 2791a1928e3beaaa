"""The name of a run's directory: what was overridden, then the seed, as `lr=0.1,seed=0`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.merge import Override, parse_override
from trainer.config.paths import split_import_path
from trainer.config.structure import SeedConfig

EXECUTION_KEYS = ("data.root", "data.download", "train.device", "train.engine", "train.threads", "log")
"""Where and how a run executes, not what it is: left out of names and of the comparison of configs."""

_LONGEST = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._+\-=,()\[\]{}]")


def run_id(overrides: Sequence[str], seed: SeedConfig) -> str:
    """Return the name of a run's directory.

    Every overridden key is there by its last part, or by as many parts as tell it from the others; the seed
    comes last (four numbers where the streams differ). Characters that file systems or shells mind are
    percent-encoded; a name of more than 120 characters is cut and ends in a hash of the whole.

    Args:
        overrides: as given on the command line; a later one of the same key wins.
        seed: the run's seeds.
    """
    chosen = {
        override.key: override for override in map(parse_override, overrides) if _names_the_run(override)
    }
    labels = _shortest(list(chosen))
    parts = [f"{labels[key]}={_text(override.value)}" for key, override in sorted(chosen.items())]
    streams = list(seed.model_dump().values())
    parts.append("seed=" + (str(streams[0]) if len(set(streams)) == 1 else "-".join(map(str, streams))))
    name = _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), ",".join(parts))
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - len(parts[-1]) - 10]}~{digest},{parts[-1]}"


def is_execution_key(key: str) -> bool:
    """Return whether a dotted key says where or how a run executes."""
    return any(key == name or key.startswith(f"{name}.") for name in EXECUTION_KEYS)


def _names_the_run(override: Override) -> bool:
    key = ".".join(override.key)
    return not is_execution_key(key) and override.key[0] not in ("seed", "name") and not _is_path(override)


def _is_path(override: Override) -> bool:
    return override.key in (("data", "path"),)


def _shortest(keys: Sequence[tuple[str, ...]]) -> Mapping[tuple[str, ...], str]:
    """Return for every key its shortest tail that no other key ends in."""
    labels = {}
    for key in keys:
        lengths = range(1, len(key) + 1)
        alone = [n for n in lengths if all(other == key or other[-n:] != key[-n:] for other in keys)]
        labels[key] = ".".join(key[-(alone or [len(key)])[0] :])
    return labels


def _text(value: Any) -> str:
    """Return a value as a person would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and (path := split_import_path(value)) and path.is_file:
        return f"{Path(path.source).name}:{path.attribute}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
