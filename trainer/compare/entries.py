"""A run with its config as flat settings: dotted keys, one value each (floor 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer import rundir
from trainer.rundir import Run

ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Entry:
    """A run with its config as flat settings.

    Args:
        run: as read.
        settings: value by dotted key; one optimizer alone has `optimizer.lr`, several `optimizer.<label>.lr`.
        seed: the seeds of its random streams, in one word; runs are paired by it.
        environment: environment.json; empty when it could not be read.
    """

    run: Run
    settings: Mapping[str, Any]
    seed: str
    environment: Mapping[str, Any]


def entry(run: Run) -> Entry:
    """Return a run with its settings."""
    seed = run.config.get("seed", 0)
    streams = list(seed.values()) if isinstance(seed, Mapping) else [seed]
    word = str(streams[0]) if len(set(streams)) == 1 else "-".join(map(str, streams))
    return Entry(run, dict(_flat(run.config)), word, rundir.read_environment(run.path))


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, value in config.items():
        if section == "seed":
            continue
        if section == "optimizer":
            yield from _listed("optimizer", value)
        elif section == "scheduler":
            yield from _listed("scheduler", value) if value else [("scheduler.name", None)]
        elif section == "init" and value is None:
            yield "init.weight.name", None
        else:
            yield from _leaves(section, value)


def _listed(section: str, value: Any) -> Iterator[tuple[str, Any]]:
    parts = value if isinstance(value, list) else [value]
    if len(parts) == 1:
        yield from _leaves(section, parts[0])
        return
    yield f"{section}.name", " + ".join(str(part["name"]).rpartition(":")[2] for part in parts)
    for place, part in enumerate(parts):
        label = part.get("label") or (part["name"] if section == "optimizer" else str(place))
        yield from _leaves(f"{section}.{label}", part)


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}", item)
    elif prefix == "data.augment" or (prefix.startswith("optimizer.") and prefix.endswith(".groups")):
        yield prefix, value or None
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(f"{prefix}.{place}", item)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def code(value: Any) -> str:
    """Return a word for a setting that is equal where, and only where, the settings are."""
    if is_number(value):
        value = float(value)
    return json.dumps(value, sort_keys=True, default=str)


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the keys whose values differ, and `data content` where the data sets' checksums do."""
    keys = dict.fromkeys(key for one in entries for key in one.settings)
    found = [key for key in keys if len({code(one.settings.get(key, ABSENT)) for one in entries}) > 1]
    digests = {(one.environment.get("data") or {}).get("sha256") for one in entries} - {None}
    if len(digests) > 1:
        for one in entries:
            digest = str((one.environment.get("data") or {}).get("sha256"))[:8]
            assert isinstance(one.settings, dict)
            one.settings["data content"] = digest
        found.append("data content")
    return found


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
