"""Groups runs by what differs except the seed, and names the groups by that and nothing else (floor 6)."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer import rundir
from trainer.config.run_id import is_execution_key
from trainer.errors import ConfigError, nearest
from trainer.plots.titles import EXECUTION, format_value
from trainer.rundir import Run

ABSENT = "absent"

# What neither says what a run is nor changes its numbers; `name` is the last that may tell runs apart.
_BESIDE = frozenset(
    {
        *("format", "name", "data.path", "data.eval_batch_size"),
        *("train.test", "train.eval_train", "train.checkpoint_every.epochs", "train.checkpoint_every.steps"),
    }
)
# Part of how a set is trained on, not of which problem it is.
_DATA_HANDLING = frozenset(
    f"data.{key}"
    for key in (
        "batch_size",
        "shuffle",
        "drop_last",
        "augment",
        "repeat",
        "limit",
        "normalize",
        "pad",
        "resize",
    )
)
_BUDGET = ("train.epochs", "train.steps", "train.seconds")


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


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that are alike but for the seed.

    Args:
        name: what differs from the other groups, as `SGD lr=0.01 momentum=0.9`.
        entries: its runs, in the order of their seeds.
        settings: the values of the keys by which runs were grouped.
        problem: name of the data and model, where there are several; else empty.
    """

    name: str
    entries: tuple[Entry, ...]
    settings: Mapping[str, Any]
    problem: str = ""

    @property
    def label(self) -> str:
        """Its name, with the problem in front where there are several."""
        return f"{self.problem}: {self.name}" if self.problem else self.name

    @property
    def diverged(self) -> int:
        """How many of its runs diverged."""
        return sum(entry.run.status["status"] == "diverged" for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups, the keys by which they differ, and what a reader must know about that."""

    groups: tuple[Group, ...]
    keys: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems' names, in order; one empty name when there is one."""
        return tuple(dict.fromkeys(group.problem for group in self.groups))


def entry(run: Run) -> Entry:
    """Return a run with its settings."""
    seed = run.config.get("seed", 0)
    streams = list(seed.values()) if isinstance(seed, Mapping) else [seed]
    word = str(streams[0]) if len(set(streams)) == 1 else "-".join(map(str, streams))
    return Entry(run, dict(_flat(run.config)), word, rundir.read_environment(run.path))


def group_runs(runs: Iterable[Run], by: Sequence[str] = ()) -> Grouping:
    """Group runs by every setting that differs except seeds, or by the given keys.

    Where optimizers or schedules differ, runs on other data or models are other problems: their groups are
    kept apart and never tested against one another. A key in `by` is what is compared, so it makes none.

    Args:
        runs: one or more.
        by: dotted keys, as `optimizer.name`; a tail (`lr`) or a section (`optimizer`) will do.

    Raises:
        ConfigError: a key that no run has.
    """
    entries = [entry(run) for run in runs]
    assert entries, "needs runs"
    differing = _differing(entries)
    notes: list[str] = []
    chosen = _resolve(by, entries)
    if chosen:
        keys = list(dict.fromkeys(key for key in chosen if key in differing)) or chosen[:1]
        problem_keys = [
            key for key in differing if key in ("data.name", "data content") and key not in chosen
        ]
    else:
        keys = [key for key in differing if not _beside(key)]
        keys += _tie_breakers(entries, keys, differing)
        compared = any(key.startswith(("optimizer.", "scheduler.")) for key in keys)
        problem_keys = [key for key in keys if _makes_problem(key, compared)]
        notes += _flags(entries, keys, problem_keys)
    problem_keys += [key for key in ("data content",) if key in differing and key not in problem_keys]
    keys = [key for key in keys if key not in problem_keys]
    members: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for one in entries:
        members[tuple(_code(one.settings.get(key, ABSENT)) for key in (*problem_keys, *keys))].append(one)
    named = _names(list(members.values()), keys)
    problems = _problem_names(list(members.values()), problem_keys)
    groups = []
    for found, name, problem in zip(members.values(), named, problems, strict=True):
        kept = found
        if not chosen:
            kept, doubles = _without_doubles(found)
            notes += doubles
        else:
            notes += _pooled(found, name, keys, problem_keys)
        values = {key: found[0].settings.get(key, ABSENT) for key in keys}
        kept = sorted(kept, key=lambda one: (_natural(one.seed), str(one.run.path)))
        groups.append(Group(name, tuple(kept), values, problem))
    groups.sort(
        key=lambda group: (group.problem, [_natural(group.settings[key]) for key in _by_name_first(keys)])
    )
    if len({group.problem for group in groups}) > 1:
        notes.append(_apart(problem_keys, groups))
    return Grouping(tuple(groups), tuple(keys), tuple(notes))


def shortest_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return for every dotted key its shortest tail that tells it from the others."""
    labels = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [other for other in keys if other != key]
        labels[key] = next(
            (tail for tail in tails if not any(f".{other}".endswith(f".{tail}") for other in others)), key
        )
    return labels


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Settings


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
    elif prefix == "data.augment":
        yield prefix, value or None
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(f"{prefix}.{place}", item)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def _code(value: Any) -> str:
    if is_number(value):
        value = float(value)
    return json.dumps(value, sort_keys=True, default=str)


def _differing(entries: Sequence[Entry]) -> list[str]:
    keys = dict.fromkeys(key for one in entries for key in one.settings)
    found = [key for key in keys if len({_code(one.settings.get(key, ABSENT)) for one in entries}) > 1]
    digests = {(one.environment.get("data") or {}).get("sha256") for one in entries} - {None}
    if len(digests) > 1:
        for one in entries:
            digest = str((one.environment.get("data") or {}).get("sha256"))[:8]
            assert isinstance(one.settings, dict)
            one.settings["data content"] = digest
        found.append("data content")
    return found


def _implementation(key: str) -> bool:
    return is_execution_key(key) or (key.startswith("optimizer.") and key.rpartition(".")[2] in EXECUTION)


def _beside(key: str) -> bool:
    return key in _BESIDE or _implementation(key) or key.startswith("train.eval_every")


def _tie_breakers(entries: Sequence[Entry], keys: Sequence[str], differing: Sequence[str]) -> list[str]:
    """Return keys of execution, or the name, where only they tell apart runs of the same seed."""
    for candidates in ([key for key in differing if _implementation(key) and "root" not in key], ["name"]):
        together: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for one in entries:
            code = tuple(_code(one.settings.get(key, ABSENT)) for key in keys)
            together[(*code, one.seed)].append(one)
        doubles = [found for found in together.values() if len(found) > 1]
        telling = [
            key
            for key in candidates
            if key in differing
            and any(len({_code(one.settings.get(key)) for one in found}) > 1 for found in doubles)
        ]
        if telling:
            return telling
    return []


def _resolve(by: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    known = list(dict.fromkeys(key for one in entries for key in one.settings))
    found: list[str] = []
    for key in by:
        matches = [key] if key in known else [one for one in known if one.startswith(f"{key}.")]
        if key == "optimizer" or key == "scheduler":
            matches = [one for one in matches if not _implementation(one)]
        tails = matches or [one for one in known if one.endswith(f".{key}")]
        if not tails:
            guess = nearest(key, known)
            raise ConfigError(
                f"no run has a setting {key!r}",
                key="--by",
                expected="a dotted key of config.yaml, as optimizer.name or optimizer.lr",
                fix=f"did you mean {guess!r}?" if guess else "",
            )
        found += tails
    return found


# What may and may not differ


def _makes_problem(key: str, compared: bool) -> bool:
    if key in ("data.name", "data content"):
        return True
    if not compared or key in _DATA_HANDLING or key.startswith("data.normalize."):
        return False
    return key.startswith(("data.", "model.", "loss."))


def _flags(entries: Sequence[Entry], keys: Sequence[str], problem_keys: Sequence[str]) -> list[str]:
    notes = []
    budget = [key for key in keys if key in _BUDGET]
    if budget:
        said = "; ".join(f"{key} = {_values(entries, key)}" for key in budget)
        notes.append(f"the groups differ in their budget, so who trained longer may win by that: {said}")
    compared = any(key.startswith(("optimizer.", "scheduler.")) for key in keys)
    rest = [
        key
        for key in keys
        if key not in budget
        and key not in problem_keys
        and not key.startswith(("optimizer.", "scheduler."))
        and not _beside(key)
    ]
    if compared and rest:
        said = "; ".join(f"{key} = {_values(entries, key)}" for key in rest)
        notes.append(f"the groups differ in more than optimizer and schedule: {said}")
    if not compared and any(key.startswith("loss.") for key in keys):
        notes.append("the groups have different losses, whose values do not compare; look at accuracies")
    rhythm = [key for key in _differing(entries) if key.startswith("train.eval_every")]
    if rhythm:
        notes.append(
            "the runs were evaluated at different rhythms, which moves times to a target and the best"
        )
    return notes


def _values(entries: Sequence[Entry], key: str) -> str:
    values = {_code(value): value for value in (one.settings.get(key, ABSENT) for one in entries)}
    ordered = sorted(values.values(), key=_natural)
    said = ", ".join(_say(value) for value in ordered[:6])
    return said + (f" ... ({len(ordered)} values)" if len(ordered) > 6 else "")


def _apart(keys: Sequence[str], groups: Sequence[Group]) -> str:
    problems: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        problems[group.problem].add(group.name)
    said = f"runs differ in {', '.join(keys)}: {len(problems)} problems, each compared by itself"
    shared = [
        name for name in set().union(*problems.values()) if sum(name in p for p in problems.values()) > 1
    ]
    if not shared:
        said += "; no group appears on two of them, so groups of different problems cannot be compared"
    return said


def _without_doubles(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    kept: dict[str, Entry] = {}
    notes = []
    for one in entries:
        if one.seed in kept:
            notes.append(
                f"left out {one.run.path}: the same config and seed as {kept[one.seed].run.path}, "
                "and a run must not count twice"
            )
        else:
            kept[one.seed] = one
    return list(kept.values()), notes


def _pooled(
    entries: Sequence[Entry], name: str, keys: Sequence[str], problem_keys: Sequence[str]
) -> list[str]:
    differing = [key for key in _differing(entries) if not _beside(key) and key not in (*keys, *problem_keys)]
    if not differing:
        return []
    said = "; ".join(f"{key} = {_values(entries, key)}" for key in differing[:4])
    return [f"group {name} pools runs that differ in {said}"]


# Names


def _names(members: Sequence[Sequence[Entry]], keys: Sequence[str]) -> list[str]:
    """Return a name per group from the keys that differ; equal ones get what else differs, then a number."""
    firsts = [found[0] for found in members]
    if not keys:
        return [_whole_name(one) for one in firsts]
    labels = shortest_keys(keys)
    terse = [_name(one, firsts, keys, labels, defaults=False) for one in firsts]
    wordy = [_name(one, firsts, keys, labels, defaults=True) for one in firsts]
    problems = [[_code(one.settings.get(key, ABSENT)) for key in keys] for one in firsts]
    result = []
    for place, name in enumerate(terse):
        same = [i for i, other in enumerate(terse) if other == name and problems[i] != problems[place]]
        result.append(wordy[place] if same or not name else name)
    return result


def _name(
    one: Entry, others: Sequence[Entry], keys: Sequence[str], labels: Mapping[str, str], *, defaults: bool
) -> str:
    words = []
    for key in _by_name_first(keys):
        value = one.settings.get(key, ABSENT)
        if value == ABSENT:
            continue
        if key in ("optimizer.name", "model.name", "data.name", "loss.name", "name"):
            words.append(str(value).rpartition(":")[2])
        elif key == "scheduler.name":
            words.append("constant lr" if value is None else str(value).rpartition(":")[2])
        elif key == "init.weight.name":
            words.append(f"init={value or 'default'}")
        elif key == "data.augment":
            words.append("augment=" + ("+".join(str(part["name"]) for part in value) if value else "none"))
        elif defaults or _telling(key, one, others):
            words.append(f"{labels[key]}={_say(value)}")
    return " ".join(words)


def _telling(key: str, one: Entry, others: Sequence[Entry]) -> bool:
    """Return whether an option's value belongs into a name: it differs among its like, or is no default."""
    section, _, option = key.rpartition(".")
    component = section if f"{section}.name" in one.settings else ""
    if not component:
        return True
    name = one.settings[f"{component}.name"]
    alike = [other for other in others if other.settings.get(f"{component}.name") == name]
    if len({_code(other.settings.get(key, ABSENT)) for other in alike}) > 1:
        return True
    if len(alike) == len(others):
        return False
    value = one.settings[key]
    if section == "data":
        return all(key in other.settings for other in others)
    if not section.startswith("optimizer"):
        return False
    if option in ("label", "match"):
        return False
    if option == "lr":
        return True
    default = ((one.environment.get("optimizer_defaults") or {}).get(str(name)) or {}).get(option, ABSENT)
    if default == ABSENT:
        return bool(value)
    return _code(value) != _code(list(default) if isinstance(default, tuple) else default)


def _whole_name(one: Entry) -> str:
    name = str(one.settings.get("optimizer.name", "?")).rpartition(":")[2]
    lr = one.settings.get("optimizer.lr")
    return name if lr is None else f"{name} lr={_say(lr)}"


def _by_name_first(keys: Sequence[str]) -> list[str]:
    """Return the keys as a reader expects them: the optimizer's name, its lr, its other options, the rest."""

    def rank(key: str) -> tuple[int, int]:
        section = next(
            (i for i, prefix in enumerate(("optimizer.", "scheduler.", "model.")) if key.startswith(prefix)),
            3,
        )
        return section, {"name": 0, "lr": 1}.get(key.rpartition(".")[2], 2)

    return sorted(keys, key=rank)


def _problem_names(members: Sequence[Sequence[Entry]], keys: Sequence[str]) -> list[str]:
    firsts = [found[0] for found in members]
    shown = [key for key in keys if key != "data content" or "data.name" not in keys]
    labels = shortest_keys(shown)
    return (
        [_name(one, firsts, shown, labels, defaults=False) for one in firsts] if keys else [""] * len(firsts)
    )


def _say(value: Any) -> str:
    if value == ABSENT:
        return ABSENT
    if isinstance(value, Mapping):
        return json.dumps(value)
    return format_value(value)


def _natural(value: Any) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, then words."""
    if isinstance(value, str):
        try:
            return (0, float(value), "")
        except ValueError:
            return (1, 0.0, value.lower())
    if is_number(value):
        return (0, float(value), "")
    return (2, 0.0, _code(value)) if value is not None else (-1, 0.0, "")
