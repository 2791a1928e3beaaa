"""Groups runs by what differs except the seed, and names the groups by that and nothing else (floor 6)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.compare.entries import ABSENT, Entry, code, differing, entry
from trainer.compare.names import by_name_first, group_names, natural, problem_names, say
from trainer.config.identity import may_differ
from trainer.errors import ConfigError, nearest
from trainer.plots.titles import EXECUTION
from trainer.rundir import Run

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
    differ = differing(entries)
    notes: list[str] = []
    chosen = _resolve(by, entries)
    if chosen:
        keys = list(dict.fromkeys(key for key in chosen if key in differ)) or chosen[:1]
        problem_keys = [key for key in differ if key in ("data.name", "data content") and key not in chosen]
    else:
        keys = [key for key in differ if not _beside(key)]
        keys += _tie_breakers(entries, keys, differ)
        compared = any(key.startswith(("optimizer.", "scheduler.")) for key in keys)
        problem_keys = [key for key in keys if _makes_problem(key, compared)]
        notes += _flags(entries, keys, problem_keys)
    problem_keys += [key for key in ("data content",) if key in differ and key not in problem_keys]
    keys = [key for key in keys if key not in problem_keys]
    members: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for one in entries:
        members[tuple(code(one.settings.get(key, ABSENT)) for key in (*problem_keys, *keys))].append(one)
    named = group_names(list(members.values()), keys)
    problems = problem_names(list(members.values()), problem_keys)
    groups = []
    for found, name, problem in zip(members.values(), named, problems, strict=True):
        kept = found
        if not chosen:
            kept, doubles = _without_doubles(found)
            notes += doubles
        else:
            notes += _pooled(found, name, keys, problem_keys)
        values = {key: found[0].settings.get(key, ABSENT) for key in keys}
        kept = sorted(kept, key=lambda one: (natural(one.seed), str(one.run.path)))
        groups.append(Group(name, tuple(kept), values, problem))
    groups.sort(
        key=lambda group: (group.problem, [natural(group.settings[key]) for key in by_name_first(keys)])
    )
    if len({group.problem for group in groups}) > 1:
        notes.append(_apart(problem_keys, groups))
    return Grouping(tuple(groups), tuple(keys), tuple(notes))


def _implementation(key: str) -> bool:
    return may_differ(key, "name") or (key.startswith("optimizer.") and key.rpartition(".")[2] in EXECUTION)


def _beside(key: str) -> bool:
    return key in _BESIDE or _implementation(key) or key.startswith("train.eval_every")


def _tie_breakers(entries: Sequence[Entry], keys: Sequence[str], differing: Sequence[str]) -> list[str]:
    """Return keys of execution, or the name, where only they tell apart runs of the same seed."""
    for candidates in ([key for key in differing if _implementation(key) and "root" not in key], ["name"]):
        together: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for one in entries:
            together_by = tuple(code(one.settings.get(key, ABSENT)) for key in keys)
            together[(*together_by, one.seed)].append(one)
        doubles = [found for found in together.values() if len(found) > 1]
        telling = [
            key
            for key in candidates
            if key in differing
            and any(len({code(one.settings.get(key)) for one in found}) > 1 for found in doubles)
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
    rhythm = [key for key in differing(entries) if key.startswith("train.eval_every")]
    if rhythm:
        notes.append(
            "the runs were evaluated at different rhythms, which moves times to a target and the best"
        )
    return notes


def _values(entries: Sequence[Entry], key: str) -> str:
    values = {code(value): value for value in (one.settings.get(key, ABSENT) for one in entries)}
    ordered = sorted(values.values(), key=natural)
    said = ", ".join(say(value) for value in ordered[:6])
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
    others = [key for key in differing(entries) if not _beside(key) and key not in (*keys, *problem_keys)]
    if not others:
        return []
    said = "; ".join(f"{key} = {_values(entries, key)}" for key in others[:4])
    return [f"group {name} pools runs that differ in {said}"]
