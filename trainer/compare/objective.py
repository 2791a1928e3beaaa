"""The rule by which settings are compared: the objective of the sweep, or a stated default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.compare.entries import Entry, metrics_of
from trainer.compare.groups import Group
from trainer.compare.load import is_final, plan_of, sweep_of
from trainer.compare.measures import DEFAULTS
from trainer.metrics import Metric, find
from trainer.sweep.models import Objective
from trainer.training.selection import SelectionRule, run_value, setting_value


@dataclass(frozen=True, slots=True)
class Selection:
    """How settings are compared, and where this rule comes from.

    Args:
        rule: how a run and a setting are scored.
        source: description of where the rule comes from.
        metric: the metric of the rule.
        seeds: by run path, the seeds on which its sweep compares settings.
        random: paths of the runs whose settings were drawn at random by their sweep.
    """

    rule: SelectionRule
    source: str
    metric: Metric
    seeds: Mapping[Path, frozenset[str]] = field(default_factory=dict)
    random: frozenset[Path] = frozenset()

    def __str__(self) -> str:
        return f"the best setting has the {self.rule} ({self.source})"

    @property
    def label(self) -> str:
        """Description of the metric, for example `val accuracy at the best checkpoint`."""
        return f"{self.rule.metric.replace('_', ' ')} at {self.rule.checkpoint_name}"

    def value(self, entry: Entry) -> float | None:
        """Return the score of a run: the worst possible if it diverged, None without a value."""
        return run_value(str(entry.run.status["status"]), entry.run.result, self.rule)

    def values(self, group: Group) -> list[float]:
        """Return the scores of all runs of a group that have one."""
        return [value for one in group.entries if (value := self.value(one)) is not None]

    def score(self, group: Group) -> float | None:
        """Return the score of a group; None if a seed is missing on which its sweep compares settings."""
        required = frozenset[str]().union(*(self.seeds.get(one.run.path, ()) for one in group.entries))
        known = {one.seed for one in group.entries if self.value(one) is not None}
        return setting_value(self.values(group), self.rule) if required <= known else None


def selection_of(entries: Sequence[Entry], metric: str | None = None) -> Selection:
    """Return how the settings of runs are compared.

    The rule is the objective in the sweep.yaml of their sweep. Runs of no sweep, or of sweeps with different
    objectives, are compared by the default of a sweep: the mean over seeds of val_accuracy (else
    val_loss, else train_loss) at each run's best checkpoint.

    Args:
        entries: the runs.
        metric: a result requested by the user that replaces the objective, such as `final_val_loss` (last
            evaluation) or `best_val_loss`; a test result does not replace it, because selection must not
            use test data.
    """
    metrics = metrics_of(entries)
    sweeps = {one.run.path: sweep_of(one.run) for one in entries}
    plans = {folder: plan_of(folder) for folder in dict.fromkeys(sweeps.values()) if folder is not None}
    random = frozenset(
        path for path, folder in sweeps.items() if folder is not None and _is_random(plans[folder])
    )
    place, _, name = (metric or "").partition("_")
    if place in ("final", "best"):
        requested = find(name, metrics)
        rule = SelectionRule(name, requested.mode, evaluation="last" if place == "final" else "best")
        return Selection(rule, f"requested as {metric}", requested, {}, random)
    rules = {folder: _rule(plan) for folder, plan in plans.items()}
    stated = {None if folder is None else rules[folder] for folder in sweeps.values()}
    objective = next(iter(stated)) if len(stated) == 1 else None
    if objective is None:
        reason = "the runs belong to no sweep with an objective"
        if len(stated) > 1:
            reason = "their sweeps have different objectives"
            if None in stated:
                reason = "not all runs belong to a sweep with an objective"
        rule = _default(entries)
        return Selection(rule, f"the default, as {reason}", find(rule.metric), {}, random)
    names = ", ".join(sorted({folder.name for folder in plans}))
    seeds = {
        one.run.path: _seeds(plans[folder])
        for one in entries
        if (folder := sweeps[one.run.path]) is not None and not is_final(one.run)
    }
    source = f"the objective of the sweep{'s' * (len(plans) > 1)} {names}"
    return Selection(objective, source, find(objective.metric, metrics), seeds, random)


def _rule(plan: Mapping[str, Any]) -> SelectionRule | None:
    try:
        return Objective.model_validate(plan.get("objective")).rule
    except ValidationError:
        return None


def _seeds(plan: Mapping[str, Any]) -> frozenset[str]:
    seeds = plan.get("seeds")
    return frozenset(map(str, seeds)) if isinstance(seeds, list) else frozenset()


def _is_random(plan: Mapping[str, Any]) -> bool:
    # Pruned trials have no result, so the best of the others is not the best of k random trials.
    return plan.get("strategy") == "random" and not plan.get("prune")


def _default(entries: Sequence[Entry]) -> SelectionRule:
    """Return the default rule: the first metric that any run measured."""
    rules = [SelectionRule(name, find(name).mode) for name in DEFAULTS]
    for rule in rules:
        for one in entries:
            value = run_value(str(one.run.status["status"]), one.run.result, rule)
            if value is not None and math.isfinite(value):
                return rule
    return rules[-1]
