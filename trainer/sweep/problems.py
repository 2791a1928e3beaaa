"""The problems of a sweep file: each is a sweep of its own, with its base, axes and budget."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from trainer.config.component_paths import spell_out
from trainer.config.yaml_reader import KeyPath, Position, Tree
from trainer.errors import ConfigError, Problem, unknown_name
from trainer.sweep.models import NAME, RESERVED_NAMES, SweepConfig

OWN = frozenset({"axes", "without", *SweepConfig.model_fields} - {"format", "name"})
"""Keys of a problem that change the sweep; its other keys change the base."""


def by_problem(tree: Tree) -> Iterator[tuple[Tree, Tree]]:
    """Yield for each problem its sweep, named `<sweep>/<problem>`, and what the problem changes in the base.

    Args:
        tree: a sweep file with `problems`.

    Raises:
        ConfigError: the problems are invalid; the error names the line.
    """
    problems = tree.data["problems"]
    locations = {".".join(map(str, key)): str(position) for key, position in tree.positions.items()}
    if not isinstance(problems, dict) or not problems:
        raise ConfigError(
            f"got {problems!r}",
            key="problems",
            where=locations.get("problems", ""),
            expected="a mapping of names to bases, such as `digits: {base: digits.yaml}`",
        )
    check_names(list(problems), "problem", locations)
    for name, section in problems.items():
        section = {} if section is None else section
        if not isinstance(section, dict):
            raise ConfigError(
                f"got {section!r}",
                key=f"problems.{name}",
                where=locations.get(f"problems.{name}", ""),
                expected="a mapping, such as `{base: digits.yaml, trials: 10}`",
            )
        yield _split(tree, name, section, locations)


def _split(
    tree: Tree, name: Hashable, section: Mapping[Hashable, Any], locations: Mapping[str, str]
) -> tuple[Tree, Tree]:
    """Return the sweep of a problem, and what it changes in the base."""

    def refuse(key: Hashable, what: str, fix: str) -> ConfigError:
        full = f"problems.{name}.{key}"
        return ConfigError(what, key=full, where=locations.get(full, ""), fix=fix)

    for key in section:
        if key in ("name", "format", "seed", "variants", "problems"):
            raise refuse(key, "a problem cannot have this key", "set it at the top of the file")
        if "." in str(key):
            raise refuse(key, "a problem has no dotted keys", "write a mapping, such as train: {epochs: 5}")
    own = {key: value for key, value in section.items() if key in OWN and key != "without"}
    data = copy.deepcopy({key: value for key, value in tree.data.items() if key != "problems"}) | own
    data["name"] = f"{tree.data.get('name', '')}/{name}"
    if isinstance(axes := tree.data.get("axes"), dict) and isinstance(own.get("axes"), dict):
        data["axes"] = axes | own["axes"]
    for variant in section.get("without") or ():
        if variant not in data.get("variants", ()):
            raise unknown_name(
                "variant",
                str(variant),
                list(map(str, data.get("variants", ()))),
                key=f"problems.{name}.without",
                where=locations.get(f"problems.{name}.without", ""),
            )
        del data["variants"][variant]
    below = {
        path[2:]: position for path, position in tree.positions.items() if path[:2] == ("problems", name)
    }
    positions: dict[KeyPath, Position] = {
        path: position for path, position in tree.positions.items() if path[:1] != ("problems",)
    }
    positions |= {path: position for path, position in below.items() if path and path[0] in OWN}
    rest = copy.deepcopy({key: value for key, value in section.items() if key not in OWN})
    layer = Tree(rest, {path: position for path, position in below.items() if path and path[0] in rest})
    spell_out(layer)
    return Tree(data, positions), layer


def check_names(names: Sequence[Hashable], kind: str, locations: Mapping[str, str]) -> None:
    """Refuse names that cannot be folder names in the sweep directory, on any file system.

    Args:
        names: the names.
        kind: `variant` or `problem`; its plural is the key in the sweep file.
        locations: position of each key in the file, for messages.
    """
    key = f"{kind}s"
    seen: dict[str, Hashable] = {}
    problems = []
    for name in names:
        text = str(name)
        where = locations.get(f"{key}.{text}", locations.get(key, ""))
        if not NAME.match(text):
            what = f"{text!r} is not a valid {kind} name"
            problems.append(Problem(what, key, where, "letters, digits and . _ + - only"))
        elif text.lower() in RESERVED_NAMES:
            what = f"{text!r} is not a valid {kind} name: the sweep writes a file or folder of that name"
            problems.append(Problem(what, key, where, fix="choose another name"))
        elif text.lower() in seen:
            what = f"the {key} {seen[text.lower()]!r} and {name!r} would share a folder"
            problems.append(Problem(what, key, where, fix="rename one of them"))
        seen[text.lower()] = name
    if problems:
        raise ConfigError.of(problems)
