"""What tuning costs and hides: sensitivity to a swept key, heat maps, expected best of k trials (floor 6)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml

from trainer.compare.entries import Entry, code, is_number
from trainer.compare.groups import Group, Grouping
from trainer.compare.load import SWEEP, sweep_of
from trainer.compare.measures import mode_of
from trainer.compare.names import distinct, shortest_keys
from trainer.plots.titles import format_value
from trainer.statistics import ExpectedBest, Sensitivity, expected_best, sensitivity


@dataclass(frozen=True, slots=True)
class Family:
    """Groups that differ in swept numbers alone: one optimizer at several learning rates.

    Args:
        name: what its groups have in common, as `SGD momentum=0.9`; empty when it is the only one.
        groups: its members.
    """

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What runs at several settings tell of tuning.

    Args:
        grouping: the groups, one per setting.
        frame: as `measures.run_frame` returns it.
        metric: the result by which settings are judged.
        swept: keys with three numbers or more.
        sensed: by problem and key, the sensitivity of each family.
    """

    grouping: Grouping
    frame: pd.DataFrame
    metric: str
    swept: tuple[str, ...]
    sensed: Mapping[tuple[str, str], Mapping[str, Sensitivity]]

    def table(self) -> pd.DataFrame:
        """Return a row per problem, key and family; empty when nothing was swept."""
        frames = [
            sensitivity_frame(found, key, self.metric).assign(problem=problem)
            for (problem, key), found in self.sensed.items()
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def unequal(self) -> list[str]:
        """Say where families were tried at different numbers of settings."""
        notes = []
        for problem in self.grouping.problems if self.swept else ():
            counts = {
                family.name: len(family.groups) for family in families(self.grouping, self.swept, problem)
            }
            if len(set(counts.values())) > 1:
                said = ", ".join(f"{name} at {count}" for name, count in counts.items())
                head = f"{problem}: " if problem else ""
                notes.append(
                    f"{head}unequal tuning: {said} settings; what was tried more often has the better chance"
                )
        return notes

    def lines(self) -> list[str]:
        """Return the same in words."""
        return [
            f"{problem + ': ' if problem else ''}{line}"
            for (problem, key), found in self.sensed.items()
            for line in sensitivity_lines(found, key)
        ]


def swept_keys(grouping: Grouping) -> list[str]:
    """Return the keys that take three numbers or more, the learning rate first."""
    found = []
    for key in grouping.keys:
        values = [group.settings.get(key) for group in grouping.groups]
        numbers = {value for value in values if is_number(value)}
        if len(numbers) >= 3:
            found.append(key)
    return sorted(found, key=lambda key: (not key.endswith("lr"), found.index(key)))


def families(grouping: Grouping, swept: Sequence[str], problem: str) -> list[Family]:
    """Return the groups of a problem by everything that is not swept."""
    rest = [key for key in grouping.keys if key not in swept]
    members: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in grouping.groups:
        if group.problem == problem:
            members[tuple(code(group.settings[key]) for key in rest)].append(group)
    names = distinct([_without(found, swept) for found in members.values()])
    if len(names) == 1:
        names = [""]
    return [Family(name, tuple(found)) for name, found in zip(names, members.values(), strict=True)]


def _without(groups: Sequence[Group], swept: Sequence[str]) -> str:
    tails = {label for key, label in shortest_keys(list(swept)).items()} | {
        key.rpartition(".")[2] for key in swept
    }
    words = [word for word in groups[0].name.split(" ") if word.partition("=")[0] not in tails]
    return " ".join(words) or groups[0].name


def sensitivities(
    grouping: Grouping,
    frame: pd.DataFrame,
    metric: str,
    key: str,
    swept: Sequence[str],
    *,
    within: float = 0.05,
    confidence: float = 0.95,
    problem: str = "",
) -> dict[str, Sensitivity]:
    """Return by family how the result depends on a swept key.

    Where other keys are swept too, each value of `key` stands for the best of its settings in them, which
    is how a tuned optimizer would be run. Families with fewer than three values are left out.

    Args:
        grouping: the groups.
        frame: as `measures.run_frame` returns it.
        metric: a result column, as `final_val_loss`.
        key: the swept key, as `optimizer.lr`.
        swept: all swept keys.
        within: tolerated loss as a share of the best mean's size.
        confidence: of the intervals.
        problem: the problem, where there are several.
    """
    found = {}
    for family in families(grouping, swept, problem):
        values: dict[float, list[float]] = {}
        for group in family.groups:
            if not is_number(group.settings.get(key)):
                continue
            setting = float(group.settings[key])
            results = results_of_group(frame, group, metric)
            if results and (setting not in values or better(results, values[setting], metric)):
                values[setting] = results
        if len(values) >= 3:
            found[family.name] = sensitivity(
                values, mode=mode_of(metric), within=within, confidence=confidence
            )
    return found


def results_of_group(frame: pd.DataFrame, group: Group, metric: str) -> list[float]:
    """Return a group's results; NaN for runs that diverged."""
    runs = frame[(frame["problem"] == group.problem) & (frame["group"] == group.name)]
    runs = runs[(runs["status"] == "diverged") | runs[metric].notna()]
    return [float(value) for value in runs[metric]]


def better(first: Sequence[float], second: Sequence[float], metric: str) -> bool:
    """Return whether the first results have the better mean; one with a diverged run is the worst."""
    a, b = float(np.mean(first)), float(np.mean(second))
    if not math.isfinite(a) or not math.isfinite(b):
        return math.isfinite(a)
    return a > b if mode_of(metric) == "max" else a < b


def search_of(
    grouping: Grouping, frame: pd.DataFrame, metric: str, *, within: float, confidence: float
) -> Search:
    """Return what runs tell of tuning; see `sensitivities` for the arguments."""
    swept = swept_keys(grouping)
    found = {
        (problem, key): sensitivities(
            grouping, frame, metric, key, swept, within=within, confidence=confidence, problem=problem
        )
        for problem in grouping.problems
        for key in swept
    }
    return Search(grouping, frame, metric, tuple(swept), {place: one for place, one in found.items() if one})


def sensitivity_frame(found: Mapping[str, Sensitivity], key: str, metric: str) -> pd.DataFrame:
    """Return a row per family: the best value of the key, the range within x % of it, and edge flags."""
    return pd.DataFrame(
        [
            {
                "family": name, "key": key, "metric": metric, "best": one.best,
                "best_at_edge": one.best_at_edge, "good_from": one.good_from, "good_to": one.good_to,
                "width_decades": one.width_decades, "good_at_edge": one.good_at_edge, "within": one.within,
                "values": len(one.settings), "diverged_runs": sum(one.diverged),
            }
            for name, one in found.items()
        ]
    )  # fmt: skip


def sensitivity_lines(found: Mapping[str, Sensitivity], key: str) -> list[str]:
    """Return a line per family: how wide the good range is, and whether the grid held the best."""
    label = key.rpartition(".")[2]
    lines = []
    for name, one in found.items():
        head = f"{name}: " if name else ""
        if one.best is None or one.good_from is None or one.good_to is None:
            lines.append(f"{head}every {label} had runs that diverged")
            continue
        width = (
            ""
            if one.width_decades is None
            else f" ({one.width_decades:.2g} decade{'s' * (one.width_decades != 1)} wide)"
        )
        said = (
            f"{head}best {label}={format_value(one.best)}; within {100 * one.within:.3g} % of it from "
            f"{format_value(one.good_from)} to {format_value(one.good_to)}{width}; "
            f"{len(one.settings)} values tried"
        )
        if one.best_at_edge:
            said += "; THE BEST IS ON THE EDGE of what was tried: a better one may lie outside"
        elif one.good_at_edge:
            said += "; the good range touches the edge of what was tried and may be wider"
        lines.append(said)
    return lines


# Random search


def random_families(grouping: Grouping, *, asserted: bool = False) -> list[Family]:
    """Return the families whose runs were drawn at random, so that a budget curve means something.

    The runs' sweep says so: `strategy: random`, without pruning, in the sweep.yaml above them.

    Args:
        grouping: the groups.
        asserted: take the user's word for all.
    """
    numeric = [key for key in grouping.keys if any(is_number(g.settings.get(key)) for g in grouping.groups)]
    found = []
    for problem in grouping.problems:
        drawn = [
            family
            for family in families(grouping, numeric, problem)
            if len(family.groups) >= 2
            and (
                asserted or all(_drawn_at_random(entry) for group in family.groups for entry in group.entries)
            )
        ]
        names = distinct([family.name or family.groups[0].name.partition(" ")[0] for family in drawn])
        found += [Family(name, family.groups) for name, family in zip(names, drawn, strict=True)]
    return found


def _drawn_at_random(entry: Entry) -> bool:
    folder = sweep_of(entry.run)
    if folder is None:
        return False
    try:
        plan = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    # Pruned trials have no result: the best of the others is not that of k random ones.
    return isinstance(plan, Mapping) and plan.get("strategy") == "random" and not plan.get("prune")


def budget_curve(family: Family, frame: pd.DataFrame, metric: str) -> ExpectedBest | None:
    """Return the expected best of k trials; None with fewer than two.

    A trial is a group: the mean over its seeds. One with a diverged run counts as guessing: accuracy
    1 / classes, loss ln(classes), or the worst of the others where the number of classes is not known.

    Args:
        family: groups of a random search.
        frame: as `measures.run_frame` returns it.
        metric: a validation result, as `best_val_accuracy`: the test is not for choosing.
    """
    found = [
        float(np.mean(results))
        for group in family.groups
        if (results := results_of_group(frame, group, metric))
    ]
    finite = [value for value in found if math.isfinite(value)]
    if len(found) < 2 or not finite:
        return None
    around = family.groups[0].entries[0].environment.get("data") or {}
    classes = around.get("num_classes")
    large = mode_of(metric) == "max"
    guess = min(finite) if large else max(finite)
    if isinstance(classes, int) and classes > 1:
        guess = min(guess, 1 / classes) if large else max(guess, math.log(classes))
    values = [value if math.isfinite(value) else guess for value in found]
    return expected_best(values, list(range(1, len(values) + 1)), mode=mode_of(metric))
