"""Unique names of groups, made of their differences from the other groups."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from trainer.compare.entries import (
    ABSENT,
    CODE,
    DATA_CONTENT,
    IMPORTED_CODE,
    JOINT,
    MACHINE,
    PACKAGE,
    RAN_ENGINE,
    VERSION,
    Entry,
    canonical,
    is_number,
    is_recorded,
)
from trainer.config.identity import texts_in
from trainer.config.paths import split_import_path
from trainer.plots.titles import format_value, printable

_COMPONENTS = ("optimizer.name", "model.name", "data.name", "loss.name", "name")
_CODES = (*CODE, IMPORTED_CODE)
_DIGEST_DIGITS = 8


@dataclass(frozen=True, slots=True)
class NameInput:
    """The input of a group's name.

    Args:
        settings: value by key; ABSENT if the key is missing or does not distinguish these runs from others.
        example: one of the runs.
    """

    settings: Mapping[str, Any]
    example: Entry


def group_names(groups: Sequence[NameInput], keys: Sequence[str]) -> list[str]:
    """Return a unique name per group from the keys that differ.

    Names leave out defaults, round numbers to four digits, and shorten the path of a user's file as far as it
    stays unique. Groups that would share such a name get one with every option, then one with exact values,
    finally a number.
    """
    if not keys:
        return distinct([_full_name(one.example) for one in groups])
    labels = shortest_keys(keys)
    # The optimizer's name precedes its options: `SGD lr=0.1`, `Muon + AdamW Muon.lr=0.02`.
    labels |= {key: key.partition(".")[2] for key in keys if re.fullmatch(r"optimizer\.[^.]+", key)}
    names = _Names(groups, keys, labels)
    return names.distinguish([names.short(one) for one in groups])


def problem_names(groups: Sequence[NameInput], keys: Sequence[str]) -> list[str]:
    """Return a unique name per group from the keys that define problems; empty names without such keys."""
    if not keys:
        return [""] * len(groups)
    named_keys = [key for key in keys if key != DATA_CONTENT or "data.name" not in keys]
    names = _Names(groups, keys, shortest_keys(keys))
    return names.distinguish([names.short(one, named_keys) for one in groups])


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with a number appended to repeated ones: `a`, `a (2)`."""
    original_names, distinct_names = set(names), []
    seen: set[str] = set()
    for name in names:
        number, one = 1, name
        while one in seen or (number > 1 and one in original_names):
            number += 1
            one = f"{name} ({number})"
        seen.add(one)
        distinct_names.append(one)
    assert len(seen) == len(names), "names must be unique"
    return distinct_names


class _Names:
    """Makes the parts of names for groups that differ in the same keys."""

    def __init__(self, groups: Sequence[NameInput], keys: Sequence[str], labels: Mapping[str, str]) -> None:
        self._groups, self._keys, self._labels = groups, by_name_first(keys), labels
        named = [f"{key.rpartition(' ')[0]}.name" for key in keys if key in CODE]
        self._texts = short_texts(
            [
                *(one.settings[key] for one in groups for key in keys),
                *(one.example.settings.get(key) for one in groups for key in named),
            ]
        )
        self._one_code = sum(key in _CODES for key in keys) == 1
        self._filters = {key: _KeyFilter(key, groups) for key in keys}

    def short(self, one: NameInput, keys: Sequence[str] | None = None) -> str:
        """Return a name without defaults, with numbers to four digits."""
        return self._name(one, keys, digits=4, defaults=False) or self.full(one)

    def full(self, one: NameInput) -> str:
        """Return a name with every option, with numbers to six digits."""
        return self._name(one, digits=6, defaults=True) or _full_name(one.example)

    def exact(self, one: NameInput) -> str:
        """Return a name with every present key and its exact value."""
        parts = [
            f"{self._labels[key]}={value if isinstance(value, str) else canonical(value)}"
            for key in self._keys
            if (value := one.settings[key]) is not ABSENT
        ]
        return printable(" ".join(parts)) or self.full(one)

    def distinguish(self, names: Sequence[str]) -> list[str]:
        """Return the names, with shared names replaced by longer ones."""
        distinguished = list(names)
        for longer in (self.full, self.exact):
            counts = Counter(distinguished)
            if len(counts) == len(distinguished):
                break
            distinguished = [
                name if counts[name] == 1 else longer(one)
                for name, one in zip(distinguished, self._groups, strict=True)
            ]
        return distinct(distinguished)

    def _name(self, one: NameInput, keys: Sequence[str] | None = None, *, digits: int, defaults: bool) -> str:
        parts = [
            word
            for key in self._keys
            if (keys is None or key in keys) and (value := one.settings[key]) is not ABSENT
            if (word := self._part(key, value, one, digits=digits, defaults=defaults))
        ]
        return printable(" ".join(parts))

    def _part(self, key: str, value: Any, one: NameInput, *, digits: int, defaults: bool) -> str:
        """Return the part of a name for a key; empty if it is a default or another part contains it."""
        if is_recorded(key):
            return self._recorded_part(key, value, one)
        if key.endswith(".name") and key.count(".") == 2 and key.startswith(("optimizer.", "scheduler.")):
            return ""  # contained in the joined name of several components
        if key in _COMPONENTS:
            return self._text(value)
        if key == "scheduler.name":
            return "constant lr" if value is None else self._text(value)
        if key == "init.weight.name":
            return f"init={self._text(value) if value else 'default'}"
        if key == "data.augment" and not defaults:
            return "augment=" + ("+".join(map(self._part_name, _parts(value))) if value else "none")
        if key.endswith(".groups") and key.startswith("optimizer."):
            return self._format_groups(value, digits)
        if ".match." in key and not defaults:
            return ""  # which parameters an optimizer owns: too long for a name
        if defaults or self._filters[key].includes(one):
            return f"{self._labels[key]}={format_setting(self._shortened(value), digits=digits)}"
        return ""

    def _recorded_part(self, key: str, value: Any, one: NameInput) -> str:
        if key in _CODES:
            section, _, _ = key.rpartition(" ")
            name = f"{section}.name"
            # Only the code differs: the name of the component precedes it.
            part = "" if name in self._keys else self._text(one.example.settings.get(name, ""))
            return f"{part} {'code' if self._one_code else key} {code_digest(value)}".lstrip()
        if key == DATA_CONTENT:
            return f"{self._labels[key]}={'unknown' if value is None else str(value)[:_DIGEST_DIGITS]}"
        if key == RAN_ENGINE:
            return f"ran {value}"
        if key == MACHINE:
            return f"on {describe_machine(value)}"
        name = key.removeprefix(PACKAGE).removeprefix(VERSION)
        return f"{name} {value}"

    def _text(self, value: Any) -> str:
        """Return the name of one or several components, with as much of the path as is needed."""
        return JOINT.join(self._texts.get(part, part) for part in str(value).split(JOINT))

    def _part_name(self, part: Any) -> str:
        return self._text(part.get("name") if isinstance(part, Mapping) else part)

    def _shortened(self, value: Any) -> Any:
        """Return a setting with its import paths shortened."""
        if isinstance(value, str):
            return self._texts.get(value, value)
        if isinstance(value, Mapping):
            return {key: self._shortened(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._shortened(item) for item in value]
        return value

    def _format_groups(self, value: Any, digits: int) -> str:
        """Return parameter groups in words: `groups=(*.bias lr=0.5)`."""
        parts = []
        for group in _parts(value):
            if not isinstance(group, Mapping):
                parts.append(format_setting(group))
                continue
            match = group.get("match") or {}
            target = (
                match.get("name")
                if isinstance(match, Mapping) and len(_active_conditions(match)) == 1
                else None
            )
            options = [
                f"{key}={format_setting(self._shortened(item), digits=digits)}"
                for key, item in group.items()
                if key not in ("match", "label")
            ]
            parts.append(" ".join([str(target or format_setting(_active_conditions(match))), *options]))
        return f"groups=({'; '.join(parts)})" if parts else "one group"


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _active_conditions(match: Any) -> Any:
    """Return the conditions of a match that are set."""
    if not isinstance(match, Mapping):
        return match
    return {key: item for key, item in match.items() if item is not None}


class _KeyFilter:
    """Decides whether the value of one key is part of a group's short name.

    The value is part of the name if it differs between groups of the same component or is not the default.
    """

    def __init__(self, key: str, groups: Sequence[NameInput]) -> None:
        self._key = key
        section, _, self._option = key.rpartition(".")
        self._section = section
        self._in_all_groups = all(one.settings[key] is not ABSENT for one in groups)
        self._canonical_values: dict[str, set[str]] = {}
        for one in groups:
            self._canonical_values.setdefault(self._component(one), set()).add(canonical(one.settings[key]))

    def _component(self, one: NameInput) -> str:
        """Return the canonical name of the component that has the option; empty if there is none."""
        name = f"{self._section}.name"
        return one.example.canonical_of(name) if name in one.example.settings else ""

    def includes(self, one: NameInput) -> bool:
        """Return whether the value of the key is part of a group's name."""
        value, component = one.settings[self._key], self._component(one)
        if not component:
            # Leave out an option that only some groups have and that is off in these.
            return bool(value) or self._in_all_groups
        if len(self._canonical_values[component]) > 1:
            return True
        if len(self._canonical_values) == 1:
            return False
        if self._section == "data":
            return self._in_all_groups
        if not self._section.startswith("optimizer") or self._option in ("label", "match", "step"):
            return False
        if self._option == "lr":
            return True
        known = one.example.environment.get("optimizer_defaults")
        own = (
            known.get(str(one.example.settings[f"{self._section}.name"]))
            if isinstance(known, Mapping)
            else None
        )
        default = own.get(self._option, ABSENT) if isinstance(own, Mapping) else ABSENT
        return bool(value) if default is ABSENT else canonical(value) != canonical(default)


def _full_name(one: Entry) -> str:
    name = JOINT.join(
        short_texts([part])[part] for part in str(one.settings.get("optimizer.name", "?")).split(JOINT)
    )
    lr = one.settings.get("optimizer.lr")
    return printable(name if lr is None else f"{name} lr={format_setting(lr)}")


def by_name_first(keys: Sequence[str]) -> list[str]:
    """Return the keys in reading order: the optimizer's name, its lr, its other options, the rest.

    The code of a component follows its name.
    """

    def rank(key: str) -> tuple[int, int]:
        section = next(
            (
                i
                for i, name in enumerate(("optimizer", "scheduler", "model"))
                if key.startswith((f"{name}.", f"{name} "))
            ),
            3,
        )
        last = -1 if key in _CODES else {"name": -2, "lr": 1}.get(key.rpartition(".")[2], 2)
        return section, last

    return sorted(keys, key=rank)


# Formatting values


def short_texts(values: Iterable[Any]) -> dict[str, str]:
    """Return the shortest unique form of every string in some settings.

    `/home/me/one/a.py:Foo` becomes `Foo`; `a.py:Foo` if another file has a Foo; `one/a.py:Foo` if another
    folder has an a.py with a Foo. A registered name is never shortened.
    """
    parts = dict.fromkeys(part for value in values for text in texts_in(value) for part in text.split(JOINT))
    forms = {text: _forms(text) for text in parts}
    owners = Counter(form for text in parts for form in dict.fromkeys(forms[text]))
    return {text: next((form for form in forms[text] if owners[form] == 1), text) for text in parts}


def _forms(text: str) -> list[str]:
    """Return the possible forms of a string, from the shortest to the string itself."""
    path = split_import_path(text)
    if path and not path.is_file:
        parts = path.source.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        return [path.attribute, *(f"{tail}:{path.attribute}" for tail in tails)]
    if path is None and not text.startswith("/"):
        return [text]
    folders = PurePath(path.source if path else text).parts
    tails = ["/".join(folders[-n:]) for n in range(1, len(folders))]
    end = f":{path.attribute}" if path else ""
    return [*([path.attribute] if path else []), *(f"{tail}{end}" for tail in tails), text]


def code_digest(files: Any) -> str:
    """Return eight digits that identify recorded code: of the file's SHA-256 if it is one file."""
    if files is ABSENT or not isinstance(files, Mapping):
        return "unknown"
    digests = [str(digest) for digest in files.values()]
    if len(digests) == 1:
        return digests[0][:_DIGEST_DIGITS]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:_DIGEST_DIGITS]


def describe_machine(value: Any) -> str:
    """Return processor, device and threads as text."""
    if not isinstance(value, list):
        return "an unknown machine"
    processor, device, threads = value
    parts = [str(part) for part in (processor, device) if part is not None]
    if threads is not None:
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    return ", ".join(parts) or "an unknown machine"


def format_setting(value: Any, *, digits: int = 6) -> str:
    """Return a setting as text, with numbers to so many digits."""
    if value is ABSENT:
        return str(ABSENT)
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{key}: {format_setting(item, digits=digits)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_setting(item, digits=digits) for item in value) + "]"
    if isinstance(value, float):
        value = float(f"{value:.{digits}g}")
    if isinstance(value, int) and not is_number(value) and not isinstance(value, bool):
        return hex(value)  # Python may refuse to format integers of hundreds of digits
    return format_value(value)


def natural(value: Any) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, then strings."""
    if value is ABSENT:
        value = str(ABSENT)
    if isinstance(value, str):
        try:
            return (0, float(value), "")
        except ValueError:
            return (1, 0.0, value.lower())
    if is_number(value):
        return (0, float(value), "")
    return (2, 0.0, canonical(value)) if value is not None else (-1, 0.0, "")


def shortest_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique tail of every dotted key."""
    tails = {key: [".".join(key.split(".")[n:]) for n in range(key.count("."), -1, -1)] for key in keys}
    owners = Counter(tail for forms in tails.values() for tail in forms)
    return {key: next((tail for tail in tails[key] if owners[tail] == 1), key) for key in keys}
