"""Names of groups: what differs from the other groups and nothing else (floor 6)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.compare.entries import ABSENT, Entry, code, is_number
from trainer.plots.titles import format_value


def group_names(members: Sequence[Sequence[Entry]], keys: Sequence[str]) -> list[str]:
    """Return a name per group from the keys that differ; equal ones get what else differs, then a number."""
    firsts = [found[0] for found in members]
    if not keys:
        return [_whole_name(one) for one in firsts]
    labels = shortest_keys(keys)
    # The optimizer's name stands before: `SGD lr=0.1` beside `Muon + AdamW Muon.lr=0.02`.
    labels |= {key: key.partition(".")[2] for key in keys if re.fullmatch(r"optimizer\.[^.]+", key)}
    terse = [_name(one, firsts, keys, labels, defaults=False) for one in firsts]
    wordy = [_name(one, firsts, keys, labels, defaults=True) for one in firsts]
    problems = [[code(one.settings.get(key, ABSENT)) for key in keys] for one in firsts]
    result = []
    for place, name in enumerate(terse):
        same = [i for i, other in enumerate(terse) if other == name and problems[i] != problems[place]]
        result.append(wordy[place] if same or not name else name)
    return result


def _name(
    one: Entry, others: Sequence[Entry], keys: Sequence[str], labels: Mapping[str, str], *, defaults: bool
) -> str:
    words = []
    for key in by_name_first(keys):
        value = one.settings.get(key, ABSENT)
        if value == ABSENT:
            continue
        if key.endswith(".name") and key.count(".") == 2 and key.startswith(("optimizer.", "scheduler.")):
            continue  # the joined name of several tells it
        if key in ("optimizer.name", "model.name", "data.name", "loss.name", "name"):
            words.append(str(value).rpartition(":")[2])
        elif key == "scheduler.name":
            words.append("constant lr" if value is None else str(value).rpartition(":")[2])
        elif key == "init.weight.name":
            words.append(f"init={value or 'default'}")
        elif key == "data.augment":
            words.append("augment=" + ("+".join(str(part["name"]) for part in value) if value else "none"))
        elif key.endswith(".groups") and key.startswith("optimizer."):
            words.append(_groups(value))
        elif ".match." in key:
            continue  # which parameters an optimizer owns: too long for a name
        elif defaults or _telling(key, one, others):
            words.append(f"{labels[key]}={say(value, digits=6 if defaults else 4)}")
    return " ".join(words)


def _groups(value: Any) -> str:
    """Return parameter groups in words: `groups=(*.bias lr=0.5)`."""
    said = []
    for group in value or []:
        match = group.get("match") or {}
        who = match if isinstance(match, str) else match.get("name") or say(match)
        options = [f"{k}={say(v, digits=4)}" for k, v in group.items() if k not in ("match", "label")]
        said.append(" ".join([who, *options]))
    return f"groups=({'; '.join(said)})" if said else "one group"


def _telling(key: str, one: Entry, others: Sequence[Entry]) -> bool:
    """Return whether an option's value belongs into a name: it differs among its like, or is no default."""
    section, _, option = key.rpartition(".")
    component = section if f"{section}.name" in one.settings else ""
    if not component:
        # What only some have, and is off there, tells nothing.
        return bool(one.settings[key]) or all(key in other.settings for other in others)
    name = one.settings[f"{component}.name"]
    alike = [other for other in others if other.settings.get(f"{component}.name") == name]
    if len({code(other.settings.get(key, ABSENT)) for other in alike}) > 1:
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
    return code(value) != code(list(default) if isinstance(default, tuple) else default)


def _whole_name(one: Entry) -> str:
    name = str(one.settings.get("optimizer.name", "?")).rpartition(":")[2]
    lr = one.settings.get("optimizer.lr")
    return name if lr is None else f"{name} lr={say(lr)}"


def by_name_first(keys: Sequence[str]) -> list[str]:
    """Return the keys as a reader expects them: the optimizer's name, its lr, its other options, the rest."""

    def rank(key: str) -> tuple[int, int]:
        section = next(
            (i for i, prefix in enumerate(("optimizer.", "scheduler.", "model.")) if key.startswith(prefix)),
            3,
        )
        return section, {"name": 0, "lr": 1}.get(key.rpartition(".")[2], 2)

    return sorted(keys, key=rank)


def problem_names(members: Sequence[Sequence[Entry]], keys: Sequence[str]) -> list[str]:
    """Return a name per group from the keys that make problems; all empty where none does."""
    firsts = [found[0] for found in members]
    shown = [key for key in keys if key != "data content" or "data.name" not in keys]
    labels = shortest_keys(shown)
    return (
        [_name(one, firsts, shown, labels, defaults=False) for one in firsts] if keys else [""] * len(firsts)
    )


def say(value: Any, *, digits: int = 6) -> str:
    """Return a setting as one would say it, its number to so many digits."""
    if value == ABSENT:
        return ABSENT
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(say(item, digits=digits) for item in value) + "]"
    if isinstance(value, float):
        value = float(f"{value:.{digits}g}")
    return format_value(value)


def natural(value: Any) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, then words."""
    if isinstance(value, str):
        try:
            return (0, float(value), "")
        except ValueError:
            return (1, 0.0, value.lower())
    if is_number(value):
        return (0, float(value), "")
    return (2, 0.0, code(value)) if value is not None else (-1, 0.0, "")


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
