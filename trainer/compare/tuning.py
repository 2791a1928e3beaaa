"""Tuning results of groups: sensitivity to a swept key, and expected best of k trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from trainer.compare.entries import canonical, is_number
from trainer.compare.groups import Group, Grouping
from trainer.compare.names import distinct, shortest_keys
from trainer.compare.objective import Selection
from trainer.plots.titles import format_value
from trainer.statistics import ExpectedBest, Sensitivity, expected_best, sensitivity
from trainer.training.selection import best_setting, setting_value


@dataclass(frozen=True, slots=True)
class Family:
    """Groups that differ in swept numbers only, for example one optimizer at several learning rates.

    Args:
        name: what its groups have in common, for example `SGD momentum=0.9`; empty if there is one family.
        groups: the groups.
    """

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class HeatMapCell:
    """The result of one setting.

    Args:
        score: summary over the seeds; NaN if a run diverged, because the mean of the others is biased.
        diverged: number of runs that diverged.
        runs: number of runs.
    """

    score: float
    diverged: int
    runs: int


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Tuning results of runs at several settings.

    Args:
        grouping: the groups, one per setting.
        selections: how settings are compared on each problem.
        swept: keys with three or more numbers.
        sensitivities: sensitivity of each family, by problem and key.
    """

    grouping: Grouping
    selections: Mapping[str, Selection]
    swept: tuple[str, ...]
    sensitivities: Mapping[tuple[str, str], Mapping[str, Sensitivity]]

    def table(self) -> pd.DataFrame:
        """Return a row per problem, key and family; empty if nothing was swept."""
        frames = [
            sensitivity_frame(sensitivities, key, self.selections[problem]).assign(problem=problem)
            for (problem, key), sensitivities in self.sensitivities.items()
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def unequal(self) -> list[str]:
        """Return a note for each problem whose families were tried at different numbers of settings."""
        notes = []
        for problem in self.grouping.problems if self.swept else ():
            counts = {
                family.name: len(family.groups) for family in families(self.grouping, self.swept, problem)
            }
            if len(set(counts.values())) > 1:
                text = ", ".join(f"{count} of {name}" for name, count in counts.items())
                head = f"{problem}: " if problem else ""
                notes.append(f"{head}unequal tuning favours the group with more settings: {text}")
        return notes

    def lines(self) -> list[str]:
        """Return the sensitivities as text."""
        return [
            f"{problem + ': ' if problem else ''}{line}"
            for (problem, key), sensitivities in self.sensitivities.items()
            for line in sensitivity_lines(sensitivities, key)
        ]


def swept_keys(grouping: Grouping) -> list[str]:
    """Return the keys with three or more different numbers, the learning rate first."""
    keys = []
    for key in grouping.keys:
        values = [group.settings.get(key) for group in grouping.groups]
        numbers = {value for value in values if is_number(value)}
        if len(numbers) >= 3:
            keys.append(key)
    return sorted(keys, key=lambda key: (not key.endswith("lr"), keys.index(key)))


def families(grouping: Grouping, swept: Sequence[str], problem: str) -> list[Family]:
    """Return the groups of a problem, collected into families by everything that is not swept."""
    rest = [key for key in grouping.keys if key not in swept]
    members: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in grouping.groups:
        if group.problem == problem:
            members[tuple(canonical(group.settings[key]) for key in rest)].append(group)
    names = distinct([_without(group_list, swept) for group_list in members.values()])
    if len(names) == 1:
        names = [""]
    return [Family(name, tuple(group_list)) for name, group_list in zip(names, members.values(), strict=True)]


def _without(groups: Sequence[Group], swept: Sequence[str]) -> str:
    tails = {label for key, label in shortest_keys(list(swept)).items()} | {
        key.rpartition(".")[2] for key in swept
    }
    text = [word for word in groups[0].name.split(" ") if word.partition("=")[0] not in tails]
    return " ".join(text) or groups[0].name


def best_group(groups: Sequence[Group], swept: Sequence[str], selection: Selection) -> Group | None:
    """Return the best group by the rule with which a sweep selects its best setting; None without one."""
    settings = [{key: group.settings.get(key) for key in swept} for group in groups]
    scores = map(selection.score, groups)
    index = best_setting(zip(settings, scores, strict=True), selection.rule.mode)
    return None if index is None else groups[index]


def sensitivities(
    grouping: Grouping,
    selection: Selection,
    key: str,
    swept: Sequence[str],
    *,
    within: float = 0.05,
    confidence: float = 0.95,
    problem: str = "",
) -> dict[str, Sensitivity]:
    """Return for each family how the result depends on a swept key.

    If other keys are swept too, each value of `key` is represented by the best of its settings in these keys,
    as a tuned optimizer would use. Families with fewer than three values are left out.

    Args:
        grouping: the groups.
        selection: how settings are compared.
        key: the swept key, for example `optimizer.lr`.
        swept: all swept keys.
        within: tolerated loss as a share of the absolute value of the best mean.
        confidence: confidence level of the intervals.
        problem: the problem, if there are several.
    """
    by_family = {}
    for family in families(grouping, swept, problem):
        values = {
            setting[0]: selection.values(group)
            for setting, group in tuned(family, (key,), swept, selection).items()
        }
        if len(values) >= 3:
            best = best_group(family.groups, swept, selection)
            by_family[family.name] = sensitivity(
                values,
                mode=selection.rule.mode,
                within=within,
                confidence=confidence,
                over_seeds=selection.rule.over_seeds,
                candidates=() if best is None else (float(best.settings[key]),),
            )
    return by_family


def tuned(
    family: Family, keys: Sequence[str], swept: Sequence[str], selection: Selection
) -> dict[tuple[float, ...], Group]:
    """Return the best group of a family for each combination of values of some swept keys.

    If no group of a combination has a score, return one whose runs diverged or lack a seed.
    """
    members: dict[tuple[float, ...], list[Group]] = defaultdict(list)
    for group in family.groups:
        setting = [group.settings.get(key) for key in keys]
        if all(map(is_number, setting)) and selection.values(group):
            members[tuple(float(str(value)) for value in setting)].append(group)
    return {setting: best_group(groups, swept, selection) or groups[0] for setting, groups in members.items()}


def search_of(
    grouping: Grouping, selections: Mapping[str, Selection], *, within: float, confidence: float
) -> Search:
    """Return the tuning results with a selection per problem; see `sensitivities` for the arguments."""
    swept = swept_keys(grouping)
    all_sensitivities = {
        (problem, key): sensitivities(
            grouping, selection, key, swept, within=within, confidence=confidence, problem=problem
        )
        for problem, selection in selections.items()
        for key in swept
    }
    kept = {pair: one for pair, one in all_sensitivities.items() if one}
    return Search(grouping, selections, tuple(swept), kept)


def sensitivity_frame(
    sensitivities: Mapping[str, Sensitivity], key: str, selection: Selection
) -> pd.DataFrame:
    """Return a row per family: the best value of the key, the range of good values, and edge flags."""
    rule = selection.rule
    return pd.DataFrame(
        [
            {
                "family": name, "key": key, "metric": rule.metric, "mode": rule.mode,
                "over_seeds": rule.over_seeds, "evaluation": rule.evaluation, "best": one.best,
                "best_value": None if one.best is None else one.centre[one.settings.index(one.best)],
                "best_at_edge": one.best_at_edge, "good_from": one.good_from, "good_to": one.good_to,
                "width_decades": one.width_decades, "good_at_edge": one.good_at_edge, "within": one.within,
                "values": len(one.settings), "diverged_runs": sum(one.diverged),
            }
            for name, one in sensitivities.items()
        ]
    )  # fmt: skip


def sensitivity_lines(sensitivities: Mapping[str, Sensitivity], key: str) -> list[str]:
    """Return a line per family: the range of good values, and whether the best is at the edge of the grid."""
    label = key.rpartition(".")[2]
    lines = []
    for name, one in sensitivities.items():
        head = f"{name}: " if name else ""
        if one.best is None or one.good_from is None or one.good_to is None:
            lines.append(f"{head}no best {label}: at every value, a run diverged or is missing")
            continue
        width = (
            ""
            if one.width_decades is None
            else f" ({one.width_decades:.2g} decade{'s' * (one.width_decades != 1)})"
        )
        share, ends = f"within {100 * one.within:.3g} % of the best", (one.good_from, one.good_to)
        good = f"the {one.over_seeds} is {share} from {' to '.join(map(format_value, ends))}{width}"
        if one.good_from == one.good_to:
            good = f"no neighbouring value has a {one.over_seeds} {share}"
        text = f"{head}best {label}={format_value(one.best)} of {len(one.settings)} values; {good}"
        if one.best_at_edge:
            size = "largest" if one.best == one.settings[-1] else "smallest"
            text += f"; WARNING: the best is the {size} value tried, so a better one may be outside"
        elif one.good_at_edge:
            text += ", or further: this range reaches the end of what was tried"
        lines.append(text)
    return lines


def heat_map_cells(
    family: Family, keys: tuple[str, str], swept: Sequence[str], selection: Selection
) -> dict[tuple[float, float], HeatMapCell]:
    """Return a cell per combination of values of two swept keys; none if a key has fewer than two values.

    Args:
        family: groups that differ in these keys.
        keys: the two keys.
        swept: all swept keys; a cell is the best of its settings in the other keys.
        selection: how settings are compared.
    """
    cells = {}
    for (x, y), group in tuned(family, keys, swept, selection).items():
        values = selection.values(group)
        score = setting_value(values, selection.rule)
        diverged = sum(not math.isfinite(value) for value in values)
        score = math.nan if score is None or math.isinf(score) else score
        cells[x, y] = HeatMapCell(score, diverged, len(values))
    return cells if all(len({setting[i] for setting in cells}) >= 2 for i in (0, 1)) else {}


# Random search


def numeric_keys(grouping: Grouping) -> list[str]:
    """Return the keys with a number in any group."""
    return [key for key in grouping.keys if any(is_number(g.settings.get(key)) for g in grouping.groups)]


def random_families(
    grouping: Grouping, selections: Mapping[str, Selection], *, assume_random: bool = False
) -> list[Family]:
    """Return the families whose settings were drawn at random, which a budget curve requires.

    These are runs of a sweep whose sweep.yaml has `strategy: random` without pruning.

    Args:
        grouping: the groups.
        selections: contain the paths of these runs, by problem.
        assume_random: treat all runs as a random search, whatever their sweep.yaml says.
    """
    drawn_families = []
    for problem, selection in selections.items():
        drawn = []
        for family in families(grouping, numeric_keys(grouping), problem):
            paths = {entry.run.path for group in family.groups for entry in group.entries}
            if len(family.groups) >= 2 and (assume_random or paths <= selection.random):
                drawn.append(family)
        names = distinct([family.name or family.groups[0].name.partition(" ")[0] for family in drawn])
        drawn_families += [Family(name, family.groups) for name, family in zip(names, drawn, strict=True)]
    return drawn_families


def budget_curves(search: Search, drawn_families: Sequence[Family]) -> dict[tuple[str, str], ExpectedBest]:
    """Return the curves of the families of a random search that have one, by problem and family name."""
    curves = {
        (problem, family.name): budget_curve(family, search.selections[problem])
        for family in drawn_families
        for problem in [family.groups[0].problem]
    }
    return {key: curve for key, curve in curves.items() if curve is not None}


def budget_curve(family: Family, selection: Selection) -> ExpectedBest | None:
    """Return the expected best of k trials, or None for fewer than two trials.

    A trial is a group. A group with a diverged run gets the score of random guessing: accuracy
    1 / classes, loss ln(classes), or the worst result of the others if the number of classes is unknown.

    Args:
        family: groups of a random search.
        selection: how settings are compared.
    """
    scores = [value for group in family.groups if (value := selection.score(group)) is not None]
    finite = [value for value in scores if math.isfinite(value)]
    if len(scores) < 2 or not finite:
        return None
    data = family.groups[0].entries[0].environment.get("data") or {}
    classes = data.get("num_classes")
    large = selection.rule.mode == "max"
    guess = min(finite) if large else max(finite)
    if isinstance(classes, int) and classes > 1:
        guess = min(guess, 1 / classes) if large else max(guess, math.log(classes))
    values = [value if math.isfinite(value) else guess for value in scores]
    return expected_best(values, list(range(1, len(values) + 1)), mode=selection.rule.mode)
