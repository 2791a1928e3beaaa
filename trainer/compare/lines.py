"""Assigns each group and each family of settings its line, the same in all figures and in the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from trainer.compare import tuning
from trainer.compare.groups import Group, Grouping
from trainer.compare.tuning import Family, Search


@dataclass(frozen=True, slots=True)
class Lines:
    """Numbers of lines; `figure_style.line_for` returns the colour, dashes and marker of a number.

    A group has one line on all problems. A family has the line of its best setting, and the best settings
    have the first lines, so that up to seven tuned optimizers have different colours.

    Args:
        groups: the number of each group, by name.
        families: the number of each family of settings, by problem and name.
        members: the names of the compared groups of each family.
    """

    groups: Mapping[str, int]
    families: Mapping[tuple[str, str], int]
    members: Mapping[tuple[str, str], Sequence[str]]

    def families_of(self, problem: str) -> dict[str, int]:
        """Return the numbers of the families of a problem, by name."""
        return {name: number for (where, name), number in self.families.items() if where == problem}


def assign_lines(grouping: Grouping, search: Search, searched_at_random: Sequence[Family]) -> Lines:
    """Return the lines of a comparison.

    Args:
        grouping: the groups that are compared; if a sweep has final runs, those of the best settings.
        search: the runs at several settings, which can be other runs.
        searched_at_random: the families that have a budget curve.
    """
    families = [
        family
        for problem in search.grouping.problems
        for family in tuning.families(search.grouping, search.swept, problem)
    ]
    compared = _compared_groups(families, search.swept, grouping, search)
    compared += _compared_groups(searched_at_random, tuning.numeric_keys(search.grouping), grouping, search)
    groups = _group_numbers(grouping, {(alike[0].problem, alike[0].name) for alike in compared if alike})
    numbers: dict[tuple[str, str], int] = {}
    members: dict[tuple[str, str], list[str]] = {}
    for family, alike in zip((*families, *searched_at_random), compared, strict=True):
        problem = family.groups[0].problem
        if (problem, family.name) in numbers:
            continue
        members[problem, family.name] = [group.name for group in alike]
        if alike:
            numbers[problem, family.name] = groups[alike[0].name]
            continue
        taken = {groups[one.name] for one in grouping.groups if one.problem == problem}
        taken |= {number for (where, _), number in numbers.items() if where == problem}
        numbers[problem, family.name] = next(_unused(taken))
    return Lines(groups, numbers, members)


def _compared_groups(
    families: Sequence[Family], swept: Sequence[str], grouping: Grouping, search: Search
) -> list[list[Group]]:
    """Return the compared groups of each family; first the one with its best setting."""

    def values(group: Group, keys: Sequence[str]) -> tuple[str, ...]:
        return (group.problem, *(group.entries[0].canonical_of(key) for key in keys))

    common = [key for key in search.grouping.keys if key not in swept]
    alike: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in grouping.groups:
        alike[values(group, common)].append(group)
    found = []
    for family in families:
        first = family.groups[0]
        best = tuning.best_group(family.groups, swept, search.selections[first.problem]) or first
        members = alike[values(first, common)]
        found.append(sorted(members, key=lambda group: values(group, swept) != values(best, swept)))
    return found


def _group_numbers(grouping: Grouping, best: set[tuple[str, str]]) -> dict[str, int]:
    ordered = sorted(grouping.groups, key=lambda group: (group.problem, group.name) not in best)
    problems = Counter(group.name for group in ordered)
    on_several = dict.fromkeys(group.name for group in ordered if problems[group.name] > 1)
    numbers = {name: number for number, name in enumerate(on_several)}
    for problem in grouping.problems:
        names = [group.name for group in ordered if group.problem == problem]
        unused = _unused({numbers[name] for name in names if name in numbers})
        numbers |= {name: next(unused) for name in names if name not in numbers}
    return numbers


def _unused(taken: set[int]) -> Iterator[int]:
    return (number for number in count() if number not in taken)
