"""One target per problem for performance profiles: stated in the sweep file, or derived from the results.

The derived target follows AlgoPerf (Dahl et al. 2023, https://arxiv.org/abs/2306.07179): the median over
fresh seeds of the best validation result of the tuned reference, by default the best variant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainer.compare.groups import Group, Grouping
from trainer.compare.load import plan_of, sweep_of
from trainer.compare.measures import ProblemTargets, Target, parse_target
from trainer.compare.objective import Selection
from trainer.metrics import Mode


def problem_targets(
    grouping: Grouping, selections: Mapping[str, Selection]
) -> tuple[ProblemTargets | None, list[str]]:
    """Return the targets of the problems of sweeps, and a sentence about each; None without such problems.

    Args:
        grouping: groups that are matched over several problems by the names of their variants.
        selections: how settings are compared on each problem.
    """
    if not grouping.matched:
        return None, []
    targets: dict[str, Target] = {}
    notes = []
    for problem in grouping.problems:
        selection = selections[problem]
        groups = [group for group in grouping.groups if group.problem == problem]
        sweeps = dict.fromkeys(sweep_of(group.entries[0].run) for group in groups)
        plans = [plan_of(sweep) for sweep in sweeps if sweep is not None]
        stated = next((text for plan in plans if (text := plan.get("target"))), None)
        named = next((name for plan in plans if (name := plan.get("reference"))), None)
        if stated is not None:
            entries = [entry for group in groups for entry in group.entries]
            targets[problem] = parse_target(str(stated), entries)
            notes.append(f"target of {problem}: {targets[problem]}, as stated in its sweep")
            continue
        rule = selection.rule
        sign = -1 if rule.mode == "max" else 1
        values = {group.name: typical_best(group, rule.metric, rule.mode) for group in groups}
        chosen = named if named in values else min(values, key=lambda name: sign * values[name])
        targets[problem] = Target(rule.metric, values[chosen], rule.mode)
        num_runs = next(len(group.entries) for group in groups if group.name == chosen)
        notes.append(
            f"target of {problem}: {targets[problem]}, the median best evaluation of the {num_runs} runs of "
            f"{chosen}"
        )
    return ProblemTargets(targets), notes


def typical_best(group: Group, metric: str, mode: Mode) -> float:
    """Return the median over the runs of a group of their best evaluation during training.

    For an even number of runs it is the worse of the two middle values, so that more than half of the runs
    reach it. A diverged run has the worst possible value.
    """
    worst = -math.inf if mode == "max" else math.inf
    values = []
    for entry in group.entries:
        table = entry.run.epochs
        pairs = zip(table["step"], table.get(metric, []), strict=False)
        known = [value for step, value in pairs if step and value is not None and math.isfinite(value)]
        ended = entry.run.status["status"] != "diverged" and known
        values.append((max if mode == "max" else min)(known) if ended else worst)
    return sorted(values, reverse=mode == "max")[len(values) // 2]
