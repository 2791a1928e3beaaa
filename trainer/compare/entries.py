"""Runs as flat settings: the config, and the recorded code, packages and data.

Settings are compared by their canonical values, strings that are equal if and only if the settings are equal.
Shortened strings (a file name, a number of four digits) are for display only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trainer.config.identity import texts_in
from trainer.config.paths import split_import_path
from trainer.errors import RunError
from trainer.metrics import BUILT_IN, LOSS, Metric, find, metric_name
from trainer.runs.rundir import Run, recorded_metrics


class _Absent(Enum):
    ABSENT = "absent"

    def __str__(self) -> str:
        return "absent"


ABSENT = _Absent.ABSENT
"""Marks a setting that a run does not have; not equal to any config value."""

# Keys that are not config settings but are part of a run's identity. They contain a space; option names do
# not.
DATA_CONTENT = "data content"
IMPORTED_CODE = "imported code"
PACKAGE = "package "
# Keys that say where a run was executed. Runs that differ in them are pooled with a note, unless they have
# the same seed.
RAN_ENGINE = "engine that ran"
MACHINE = "machine used"
VERSION = "version of "

# A file that several sections use is assigned to the first of these: editing an optimizer that shares its
# file with the model makes a new group, not a new problem.
_SECTIONS = ("optimizer", "scheduler", "init", "loss", "model", "data")
CODE = tuple(f"{section} code" for section in _SECTIONS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A run with its config as flat settings.

    Args:
        run: the run as read from disk.
        settings: values by dotted key; `optimizer.lr` for a single optimizer, `optimizer.<label>.lr` for
            several. Code, packages, data and machine follow, each under a key with a space.
        canonical_values: canonical values of the settings by key; see `canonical`.
        seed: the seeds of its random streams as one string; runs are paired by it.
        environment: environment.json; empty if it could not be read.
    """

    run: Run
    settings: Mapping[str, Any]
    canonical_values: Mapping[str, str]
    seed: str
    environment: Mapping[str, Any]

    def canonical_of(self, key: str) -> str:
        """Return the canonical value of a setting, even if the run does not have it."""
        return self.canonical_values.get(key, _CANONICAL_ABSENT)


def metrics_of(entries: Iterable[Entry]) -> tuple[Metric, ...]:
    """Return the metrics that runs measured: the loss, other built-in ones, then the users' own.

    Raises:
        RunError: the runs disagree on whether higher values of a metric are better.
    """
    names = {LOSS.name}
    own: dict[str, Metric] = {}
    seen = set()
    for entry in entries:
        final = entry.run.result.final if entry.run.result else None
        columns = tuple(final.values) if final else ()
        kind = columns, repr(entry.environment.get("metrics"))
        if kind in seen:  # thousands of runs have the same metrics
            continue
        seen.add(kind)
        names |= set(map(metric_name, columns))
        for metric in recorded_metrics(entry.environment):
            if own.setdefault(metric.name, metric).mode != metric.mode:
                raise RunError(
                    f"{entry.run.path}: {metric.name} has mode {metric.mode}, unlike in other runs",
                    fix="compare the runs separately",
                )
    known = [*BUILT_IN.values(), *(find(name, own.values()) for name in sorted(names - set(BUILT_IN)))]
    return tuple(metric for metric in known if metric.name in names)


def entries_of(runs: Iterable[Run]) -> list[Entry]:
    """Return an entry per run."""
    flatten = _Flattening()
    return [_entry(run, flatten) for run in runs]


def _entry(run: Run, flatten: _Flattening) -> Entry:
    seed = run.config.get("seed", 0)
    seeds = list(map(str, seed.values() if isinstance(seed, Mapping) else [seed]))
    word = seeds[0] if len(set(seeds)) == 1 else "-".join(seeds)
    environment = run.environment
    settings: dict[str, Any] = {}
    canonical_values: dict[str, str] = {}
    parts = [flatten.section(str(name), value) for name, value in run.config.items() if name != "seed"]
    for flat in (*parts, flatten.with_canonical_values(_identity(run, environment))):
        if settings.keys().isdisjoint(flat.settings):
            settings.update(flat.settings)
            canonical_values.update(flat.canonical_values)
            continue
        for key, value in flat.settings.items():
            free = _free(key, settings)
            settings[free], canonical_values[free] = value, flat.canonical_values[key]
    return Entry(run, settings, canonical_values, word, environment)


def _free(key: str, settings: Mapping[str, Any]) -> str:
    """Return an unused key, so that a label or option with a dot in its name does not replace a setting."""
    while key in settings:
        key += "'"
    return key


@dataclass(frozen=True, slots=True)
class _Flat:
    """Settings and their canonical values, both by key."""

    settings: dict[str, Any]
    canonical_values: dict[str, str]


class _Flattening:
    """Flattens configs into settings, once for all runs that share a section."""

    def __init__(self) -> None:
        self._sections: dict[tuple[str, str], _Flat] = {}

    def section(self, name: str, value: Any) -> _Flat:
        """Return the settings of a section, cached: thousands of runs have few different sections."""
        written = repr(value)  # distinguishes types, and costs a tenth of the time that the cache saves
        known = self._sections.get((name, written))
        if known is None:
            known = self._sections[name, written] = self.with_canonical_values(_flat(name, value))
        return known

    def with_canonical_values(self, settings: Iterable[tuple[str, Any]]) -> _Flat:
        """Return settings with their canonical values."""
        values: dict[str, Any] = {}
        for key, value in settings:
            values[_free(key, values)] = value
        return _Flat(values, {key: canonical(value) for key, value in values.items()})


def is_recorded(key: str) -> bool:
    """Return whether a key was recorded in addition to the config: code, packages, data, machine."""
    return key in (DATA_CONTENT, IMPORTED_CODE, RAN_ENGINE, MACHINE, *CODE) or key.startswith(
        (PACKAGE, VERSION)
    )


def _flat(section: str, value: Any) -> Iterator[tuple[str, Any]]:
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
    yield f"{section}.name", JOINT.join(str(part["name"]) for part in parts)
    labels: set[str] = set()
    for index, part in enumerate(parts):
        label = part.get("label") or (part["name"] if section == "optimizer" else str(index))
        label = stem(str(label))
        while label in labels:
            label += "'"
        labels.add(label)
        yield from _leaves(f"{section}.{label}", part)


JOINT = " + "
"""Separator between the names of several optimizers or schedules."""


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}", item)
    elif prefix == "data.augment" or (prefix.startswith("optimizer.") and prefix.endswith(".groups")):
        yield prefix, value or None
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(f"{prefix}.{index}", item)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


# Identity recorded in addition to the config


def _identity(run: Run, environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the recorded data, code and packages, then where the run was executed."""
    yield DATA_CONTENT, _section(environment, "data").get("sha256")
    yield from _code(run.config, environment.get("components"))
    for name, version in _section(environment, "packages").items():
        yield f"{PACKAGE}{name}", version
    yield RAN_ENGINE, getattr(run.result, "engine", None)
    processor = _section(environment, "machine").get("processor")
    yield MACHINE, [processor, environment.get("device"), environment.get("threads")]
    for name, version in _section(environment, "versions").items():
        yield f"{VERSION}{name}", version


def _section(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = environment.get(name)
    return section if isinstance(section, Mapping) else {}


def _code(config: Mapping[str, Any], components: Any) -> Iterator[tuple[str, Any]]:
    """Yield the SHA-256 of user files by the section that names them, and of imported files under one key."""
    files = {
        str(one.get("source")): one.get("sha256")
        for one in (components if isinstance(components, list) else [])
        if isinstance(one, Mapping)
    }
    if not files:
        return
    for section, key in zip(_SECTIONS, CODE, strict=True):
        named = [path.source for path in map(split_import_path, texts_in(config.get(section))) if path]
        own_files = {source: files.pop(source) for source in sorted(set(named)) if source in files}
        if own_files:
            yield key, own_files
    if files:
        yield IMPORTED_CODE, dict(sorted(files.items()))


def stem(name: str) -> str:
    """Return the short name of a user's own component: `/home/me/lion.py:Lion` -> `Lion`."""
    return name.rpartition(":")[2]


# Comparing settings


def canonical(value: Any) -> str:
    """Return the canonical value of a setting: a string, equal if and only if the settings are equal."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        # 1 and 1.0 are the same setting; large seeds keep all their digits.
        return repr(int(value) if isinstance(value, float) and value.is_integer() else value)
    if isinstance(value, Mapping):
        items = sorted((canonical(key), canonical(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(canonical, value)) + "]"
    return f"{type(value).__name__}({value!r})"


_CANONICAL_ABSENT = canonical(ABSENT)


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the keys whose values differ between runs, in config order."""
    keys = dict.fromkeys(key for one in entries for key in one.settings)
    return [key for key in keys if differs(key, entries)]


def differs(key: str, entries: Iterable[Entry]) -> bool:
    """Return whether runs have different values of a key."""
    return len({one.canonical_values.get(key, _CANONICAL_ABSENT) for one in entries}) > 1


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)
