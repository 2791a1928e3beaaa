"""Groups runs by everything that differs except the seed, and names the groups by these differences.

Runs form one group if everything that belongs to their identity is equal: every setting except those declared
to differ (`config.models.MayDiffer`), the code of user components, the versions of packages that components
come from, and the content of the data. Names are derived afterwards and do not affect the grouping.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.compare.entries import (
    ABSENT,
    CODE,
    DATA_CONTENT,
    IMPORTED_CODE,
    MACHINE,
    PACKAGE,
    RAN_ENGINE,
    Entry,
    canonical,
    differing,
    differs,
    entries_of,
    is_recorded,
    metrics_of,
)
from trainer.compare.load import plan_of, sweep_of
from trainer.compare.names import (
    NameInput,
    by_name_first,
    code_digest,
    describe_machine,
    format_setting,
    group_names,
    natural,
    problem_names,
)
from trainer.config.identity import may_differ
from trainer.errors import ConfigError, nearest
from trainer.metrics import Metric
from trainer.plots.titles import is_implementation
from trainer.reading import collector_paused
from trainer.runs.rundir import Run

# Options of how a data set is used for training; they do not define the problem.
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
class Group:
    """Runs that are equal except for the seed.

    Args:
        name: what differs from the other groups, for example `SGD lr=0.01 momentum=0.9`.
        entries: its runs, ordered by seed.
        settings: values of the keys by which runs were grouped.
        problem: name of the data and model; empty if there is only one problem.
    """

    name: str
    entries: tuple[Entry, ...]
    settings: Mapping[str, Any]
    problem: str = ""

    @property
    def label(self) -> str:
        """Name of the group, prefixed by the problem if there are several."""
        return f"{self.problem}: {self.name}" if self.problem else self.name

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return sum(entry.run.status["status"] == "diverged" for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups and how they differ.

    Args:
        groups: the groups, ordered by problem.
        keys: the keys in which groups of a problem differ.
        notes: notes about these differences.
        metrics: the metrics of all runs.
        matched: whether the groups of several problems are matched by the names of their sweeps' variants.
    """

    groups: tuple[Group, ...]
    keys: tuple[str, ...]
    notes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    matched: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of the problems, in order; one empty name if there is only one problem."""
        return tuple(dict.fromkeys(group.problem for group in self.groups))


@collector_paused()
def group_runs(runs: Iterable[Run], by: Sequence[str] = ()) -> Grouping:
    """Group runs by every setting that differs except seeds, or by the given keys.

    If optimizers or schedules differ, runs on different data or models are different problems: groups of
    different problems are never tested against each other. A key in `by` is compared and never separates
    problems; nor does a key of a model or loss that a sweep searched. A key other than those of optimizer and
    schedule that is the same for all groups of each problem is not compared. If all runs on several problems
    belong to sweeps and every variant has one setting per problem, as final runs have, the groups have the
    names of the variants.

    Args:
        runs: one or more runs.
        by: dotted keys such as `optimizer.name`; the last part (`lr`) or a section (`optimizer`) suffices.

    Raises:
        ConfigError: no run has a key of `by`.
    """
    entries = entries_of(runs)
    assert entries, "needs runs"
    differ = differing(entries)
    entries, notes = _without_duplicates(entries, differ)
    chosen = _resolve(by, entries)
    if chosen:
        keys = list(dict.fromkeys(key for key in chosen if key in differ)) or chosen[:1]
        problem_keys = [key for key in differ if key in ("data.name", DATA_CONTENT) and key not in chosen]
    else:
        keys = [key for key in differ if not is_recorded(key) and not _may_differ_in_group(key, entries)]
        compared = any(key.startswith(_COMPARED) for key in keys)
        # Different data always make a different problem; code is named only where nothing else differs.
        keys += [key for key in differ if key == DATA_CONTENT]
        keys += _splitting(keys, [key for key in differ if _is_content(key)], entries)
        problem_keys = [key for key in keys if _makes_problem(key, compared)]
        if any(not key.startswith("data") for key in problem_keys):
            searched = _searched(entries)
            problem_keys = [key for key in problem_keys if key.startswith("data") or key not in searched]
        if problem_keys:
            on_problems = [one.entries for one in _members(entries, problem_keys)]
            keys = [
                key
                for key in keys
                if key in problem_keys
                or key.startswith(_COMPARED)
                or any(differs(key, each) for each in on_problems)
            ]
        notes += _flags(entries, keys, problem_keys)
    keys = [key for key in keys if key not in problem_keys]
    members = _members(entries, [*problem_keys, *keys])
    if not chosen:
        members, more = _tie_breaks(members, [key for key in differ if key not in (*problem_keys, *keys)])
        keys += more
    named = _named(members, keys, problem_keys)
    groups = _with_stated_problems(named)
    stated = {group.problem for group in groups} != {group.problem for group in named}
    matched = not chosen and _matched_by_variant(groups)
    if matched:
        groups = _named_by_variant(groups)
    if chosen:
        notes += [note for group in groups for note in _pooled(group, keys, problem_keys)]
    notes += _executions(groups, differ)
    if len({group.problem for group in groups}) > 1:
        notes.append(_note_on_problems([] if stated else problem_keys, groups))
    return Grouping(tuple(groups), tuple(keys), tuple(notes), metrics_of(entries), matched)


_COMPARED = ("optimizer.", "scheduler.", "optimizer code", "scheduler code")


@dataclass(frozen=True, slots=True)
class _Members:
    """Runs with common values of some keys; ABSENT marks a key that does not distinguish them from others."""

    settings: Mapping[str, Any]
    entries: Sequence[Entry]


def _members(entries: Sequence[Entry], keys: Sequence[str]) -> list[_Members]:
    """Return the runs grouped by the values of some keys."""
    entries_by_values: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for one in entries:
        entries_by_values[tuple(one.canonical_of(key) for key in keys)].append(one)
    return [
        _Members({key: alike[0].settings.get(key, ABSENT) for key in keys}, alike)
        for alike in entries_by_values.values()
    ]


def _splitting(keys: Sequence[str], candidates: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """Return the candidates that distinguish runs with equal values of the keys."""
    groups = [group.entries for group in _members(entries, keys) if len(group.entries) > 1]
    return [key for key in candidates if key not in keys and any(differs(key, group) for group in groups)]


def _tie_breaks(members: Sequence[_Members], differ: Sequence[str]) -> tuple[list[_Members], list[str]]:
    """Split groups that contain a seed twice by what distinguishes those runs; return the keys used, too.

    Split first by how a run was executed, then by the run's name, then by anything else that was recorded.
    Groups without a repeated seed are not split by these keys.
    """
    groups = list(members)
    used: list[str] = []
    for candidates in (
        [key for key in differ if _is_execution(key)],
        ["name"],
        [key for key in differ if not is_recorded(key)],
        [key for key in differ if is_recorded(key)],
    ):
        split: list[_Members] = []
        differing: set[str] = set()
        for group in groups:
            seeds = _members_by_seed(group.entries)
            own = [
                key
                for key in candidates
                if key not in group.settings and any(differs(key, alike) for alike in seeds if len(alike) > 1)
            ]
            differing.update(own)
            split += [
                _Members({**group.settings, **one.settings}, one.entries)
                for one in _members(group.entries, own)
            ]
        used += [key for key in candidates if key in differing and key not in used]
        groups = split
    filled = [_Members({**dict.fromkeys(used, ABSENT), **one.settings}, one.entries) for one in groups]
    return filled, used


def _members_by_seed(entries: Sequence[Entry]) -> list[list[Entry]]:
    by_seed: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        by_seed[one.seed].append(one)
    return list(by_seed.values())


def _named(members: Sequence[_Members], keys: Sequence[str], problem_keys: Sequence[str]) -> list[Group]:
    """Return the named groups, ordered by the keys in which they differ."""
    inputs = [NameInput(one.settings, one.entries[0]) for one in members]
    # Groups of different problems with equal values of the keys share a name: profiles match groups by name.
    names = _names_by_values(inputs, keys, group_names)
    problems = _names_by_values(inputs, problem_keys, problem_names)
    groups = [
        Group(
            name,
            tuple(sorted(one.entries, key=lambda entry: (natural(entry.seed), str(entry.run.path)))),
            {key: one.settings[key] for key in keys},
            problem,
        )
        for one, name, problem in zip(members, names, problems, strict=True)
    ]
    assert len({(group.problem, group.name) for group in groups}) == len(groups), "group names must be unique"
    order = by_name_first(keys)
    return sorted(groups, key=lambda group: (group.problem, [natural(group.settings[key]) for key in order]))


def _matched_by_variant(groups: Sequence[Group]) -> bool:
    """Return whether groups of several problems are the variants of sweeps, one setting each."""
    if len({group.problem for group in groups}) < 2:
        return False
    if any(sweep_of(entry.run) is None for group in groups for entry in group.entries):
        return False
    variants = [{str(entry.run.config["name"]) for entry in group.entries} for group in groups]
    names = {(group.problem, *names) for group, names in zip(groups, variants, strict=True)}
    return all(len(each) == 1 for each in variants) and len(names) == len(groups)


def _named_by_variant(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with the names of their variants."""
    named = [replace(group, name=str(group.entries[0].run.config["name"])) for group in groups]
    return sorted(named, key=lambda group: (group.problem, group.name))


def _with_stated_problems(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with the problem names of their sweep file, if each has one."""
    if len({group.problem for group in groups}) < 2:
        return list(groups)
    sweeps: dict[str, set[Path | None]] = defaultdict(set)
    for group in groups:
        sweeps[group.problem] |= {sweep_of(entry.run) for entry in group.entries}
    stated = {
        problem: {"" if one is None else str(plan_of(one).get("name", "")).partition("/")[2] for one in each}
        for problem, each in sweeps.items()
    }
    names = {problem: "".join(each) for problem, each in stated.items() if len(each) == 1}
    if "" in names.values() or len(set(names.values())) < len(stated):
        return list(groups)
    named = [replace(group, problem=names[group.problem]) for group in groups]
    return sorted(named, key=lambda group: group.problem)


def _names_by_values(
    inputs: Sequence[NameInput],
    keys: Sequence[str],
    name: Callable[[Sequence[NameInput], Sequence[str]], list[str]],
) -> list[str]:
    """Return a name per group; groups with equal values of the keys share one."""
    values = [tuple(canonical(one.settings[key]) for key in keys) for one in inputs]
    first = dict(zip(reversed(values), reversed(inputs), strict=True))
    distinct = list(dict.fromkeys(values))
    names = dict(zip(distinct, name([first[one] for one in distinct], keys), strict=True))
    return [names[one] for one in values]


def _is_content(key: str) -> bool:
    """Return whether a recorded key is part of a run's identity rather than of where it was executed."""
    return key in (DATA_CONTENT, IMPORTED_CODE, *CODE) or key.startswith(PACKAGE)


def _may_differ_in_group(key: str, entries: Sequence[Entry]) -> bool:
    """Return whether runs that differ in a setting may form one group."""
    if key in ("data.path", "data.root"):
        # The location of the data does not matter if their content hash is known.
        return all(one.settings.get(DATA_CONTENT) is not None for one in entries)
    return may_differ(key, "group")


def _is_execution(key: str) -> bool:
    """Return whether a setting says how a run is executed, which changes rounding only."""
    return key in ("train.device", "train.threads", "train.engine") or is_implementation(key)


def _resolve(by: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    known = list(dict.fromkeys(key for one in entries for key in one.settings))
    names: list[str] = []
    for key in by:
        matches = [key] if key in known else [one for one in known if one.startswith(f"{key}.")]
        if key == "optimizer" or key == "scheduler":
            matches = [one for one in matches if not is_implementation(one)]
        tails = matches or [one for one in known if one.endswith(f".{key}")]
        if not tails:
            guess = nearest(key, known)
            raise ConfigError(
                f"no run has a setting {key!r}",
                key="--by",
                expected="a dotted key of config.yaml, such as optimizer.name or optimizer.lr",
                fix=f"did you mean {guess!r}?" if guess else "",
            )
        names += tails
    return names


# Notes on differences


def _makes_problem(key: str, compared: bool) -> bool:
    if key in ("data.name", DATA_CONTENT):
        return True
    if not compared or key in _DATA_HANDLING or key.startswith("data.normalize."):
        return False
    return key.startswith(("data.", "model.", "loss.", "data code", "model code", "loss code"))


def _searched(entries: Sequence[Entry]) -> set[str]:
    """Return the keys that the sweeps of some runs searched: they belong to a setting, not to a problem."""
    sweeps = dict.fromkeys(sweep_of(entry.run) for entry in entries)
    keys: set[str] = set()
    for sweep in filter(None, sweeps):
        variants = plan_of(sweep).get("variants")
        for variant in variants.values() if isinstance(variants, Mapping) else ():
            axes = variant.get("axes") if isinstance(variant, Mapping) else None
            keys |= set(axes) if isinstance(axes, Mapping) else set()
    return keys


def _flags(entries: Sequence[Entry], keys: Sequence[str], problem_keys: Sequence[str]) -> list[str]:
    notes = []
    budget = [key for key in keys if key in _BUDGET]
    if budget:
        text = "; ".join(f"{key} = {_values(entries, key)}" for key in budget)
        notes.append(f"the groups differ in budget, and a group that trained longer has an advantage: {text}")
    compared = any(key.startswith(_COMPARED) for key in keys)
    rest = [
        key
        for key in keys
        if key not in budget
        and key not in problem_keys
        and not key.startswith(_COMPARED)
        and not is_recorded(key)
    ]
    if compared and rest:
        text = "; ".join(f"{key} = {_values(entries, key)}" for key in rest)
        notes.append(f"the groups differ in more than optimizer and schedule: {text}")
    if not compared and any(key.startswith("loss.") for key in keys):
        notes.append("the groups have different losses, whose values cannot be compared; compare accuracies")
    recorded = [key for key in keys if _is_content(key) and key != DATA_CONTENT]
    if recorded:
        text = "; ".join(_versions(entries, key) for key in recorded)
        notes.append(f"runs of one config were trained with different code and form separate groups: {text}")
    if any(key.startswith("train.eval_every") for key in keys):
        notes.append(
            "the runs were evaluated at different intervals, which affects times to a target and best results"
        )
    return notes


def _values(entries: Sequence[Entry], key: str) -> str:
    values = {one.canonical_of(key): one.settings.get(key, ABSENT) for one in entries}
    ordered = sorted(values.values(), key=natural)
    text = ", ".join(_format_value(key, value) for value in ordered[:6])
    return text + (f" ... ({len(ordered)} values)" if len(ordered) > 6 else "")


def _format_value(key: str, value: Any) -> str:
    if value is None and is_recorded(key):
        return "unknown"
    if key in (*CODE, IMPORTED_CODE):
        return code_digest(value)
    if key == DATA_CONTENT:
        return str(value)[:8]
    return describe_machine(value) if key == MACHINE else format_setting(value)


def _versions(entries: Sequence[Entry], key: str) -> str:
    """Return the files or package that differ, with versions: `/home/me/lion.py = 1a2b3c4d, 5e6f7a8b`."""
    if key.startswith(PACKAGE):
        return f"{key.removeprefix(PACKAGE)} = {_values(entries, key)}"
    recorded = [files for one in entries if isinstance(files := one.settings.get(key), Mapping)]
    parts = []
    for source in dict.fromkeys(source for files in recorded for source in files):
        digests = dict.fromkeys(str(files[source])[:8] for files in recorded if source in files)
        if len(digests) > 1 or len({source in files for files in recorded}) > 1:
            parts.append(f"{source} = {', '.join(digests)}")
    return "; ".join(parts[:4]) or f"{key} = {_values(entries, key)}"


def _executions(groups: Sequence[Group], differ: Sequence[str]) -> list[str]:
    """Return a note if runs of one problem, or of one group, were executed in different ways."""
    parts: list[str] = []
    mixed: dict[str, None] = {}
    for key in differ:
        if key != RAN_ENGINE and (key == "train.engine" or not _is_execution(key)):
            continue  # the engine that ran counts, not the requested one
        ways: dict[str, Counter[str]] = defaultdict(Counter)
        for group in groups:
            for one in group.entries:
                if key in one.settings:  # other optimizers may not have this option
                    ways[group.problem][_format_value(key, one.settings[key])] += 1
        together = sum((counts for counts in ways.values() if len(counts) > 1), Counter[str]())
        if together:
            values = ", ".join(f"{value} ({count} runs)" for value, count in sorted(together.items()))
            parts.append(f"{'engine' if key == RAN_ENGINE else key} = {values}")
            mixed |= {group.label: None for group in groups if differs(key, group.entries)}
    if not parts:
        return []
    within = f", also within {'; '.join(list(mixed)[:3])}{' ...' * (len(mixed) > 3)}" if mixed else ""
    return [
        f"the runs were executed differently{within}: {'; '.join(parts)}; "
        "rounding differs, and training can amplify these differences"
    ]


def _note_on_problems(keys: Sequence[str], groups: Sequence[Group]) -> str:
    problems: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        problems[group.problem].add(group.name)
    text = f"{len(problems)} problems, each compared separately"
    if keys:
        text = f"runs differ in {', '.join(keys)}: {text}"
    counts = Counter(name for names in problems.values() for name in names)
    if max(counts.values()) < 2:
        text += "; no group appears on two of them, so groups of different problems cannot be compared"
    return text


def _without_duplicates(entries: Sequence[Entry], differ: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Drop runs that equal an earlier run in everything that was recorded."""
    kept: dict[tuple[str, ...], Entry] = {}
    notes = []
    for one in entries:
        first = kept.setdefault((one.seed, *map(one.canonical_of, differ)), one)
        if first is not one:
            notes.append(
                f"left out {one.run.path}: it has the same config, code and seed as {first.run.path}, "
                "and a run must not be counted twice"
            )
    return list(kept.values()), notes


def _pooled(group: Group, keys: Sequence[str], problem_keys: Sequence[str]) -> list[str]:
    others = [
        key
        for key in differing(group.entries)
        if key not in (*keys, *problem_keys)
        and (_is_content(key) or not (is_recorded(key) or _may_differ_in_group(key, group.entries)))
    ]
    if not others:
        return []
    text = "; ".join(f"{key} = {_values(group.entries, key)}" for key in others[:4])
    return [f"group {group.name} pools runs that differ in {text}"]
