"""The interactive figures beside the curves, as plain values: searches, times to targets, profiles, cost.

They have the data and the lines of the figures of `optlab compare`. A chart has axes and traces; the page
draws all charts alike, except heat maps, whose values are colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.compare import Comparison, tuning
from trainer.compare.figure_style import STYLES, line_for
from trainer.compare.measures import UNITS
from trainer.compare.times import UNIT_LABELS, profile_over_problems, times_by_group
from trainer.metrics import Metric
from trainer.report.numbers import number, numbers
from trainer.statistics import ecdf_of_times, summary_of_times

Chart = dict[str, Any]


def appearance(line: int) -> dict[str, str]:
    """Return the colour and the dashes of a line, as in the figures of `optlab compare`."""
    drawn = line_for(line, STYLES["screen"])
    pattern = _DASHES[drawn.dashes] if isinstance(drawn.dashes, str) else drawn.dashes[1]
    return {"colour": drawn.colour, "dash": ",".join(f"{2 * length:g}px" for length in pattern) or "solid"}


# matplotlib's named patterns, in line widths
_DASHES: dict[str, tuple[float, ...]] = {"-": (), "--": (3.7, 1.6), "-.": (6.4, 1.6, 1, 1.6), ":": (1, 1.65)}


def charts_of(comparison: Comparison) -> list[Chart]:
    """Return all charts for which the runs have data."""
    every = [_sensitivities, _heat_maps, _budgets, _times, _profiles, _costs]
    return [chart for charts in every for chart in charts(comparison)]


def _sensitivities(comparison: Comparison) -> Iterator[Chart]:
    for (problem, key), by_family in comparison.search.sensitivities.items():
        selection = comparison.selections[problem]
        metric = selection.metric
        traces = [
            _family(comparison, problem, name)
            | {
                "x": list(one.settings),
                "y": _scaled(one.centre, metric),
                "low": _scaled(one.low, metric),
                "high": _scaled(one.high, metric),
                "hover": tuning.sensitivity_lines({"": one}, key)[0].split("; "),
                "good": [one.good_from, one.good_to],
                "edge": one.best if one.best_at_edge else None,
            }
            for name, one in by_family.items()
        ]
        yield _chart(
            "sensitivity", key, problem, traces,
            x=axis(key, [value for one in by_family.values() for value in one.settings]),
            y={"label": metric.with_unit(selection.label), "log": metric.log},
            better=selection.rule.mode,
        )  # fmt: skip


def _heat_maps(comparison: Comparison) -> Iterator[Chart]:
    search = comparison.search
    if len(search.swept) < 2:
        return
    keys = search.swept[0], search.swept[1]
    for problem in search.grouping.problems:
        selection = search.selections[problem]
        for family in tuning.families(search.grouping, search.swept, problem):
            cells = tuning.heat_map_cells(family, keys, search.swept, selection)
            if not cells:
                continue
            columns = len({x for x, _ in cells}), len({y for _, y in cells})
            label = selection.metric.with_unit(selection.label)
            yield _chart(
                "heat map", family.name or "all settings", problem, [],
                x=axis(keys[0], [x for x, _ in cells]),
                y=axis(keys[1], [y for _, y in cells]),
                better=selection.rule.mode,
            ) | {
                "label": label,
                "log": selection.metric.log,
                "grid": 2 * len(cells) >= math.prod(columns),
                "cells": [
                    [x, y, number(selection.metric.scale * cell.score), cell.diverged, cell.runs]
                    for (x, y), cell in sorted(cells.items())
                ],
            }  # fmt: skip


def _budgets(comparison: Comparison) -> Iterator[Chart]:
    for problem, selection in comparison.selections.items():
        scale = selection.metric.scale
        curves = {name: one for (where, name), one in comparison.budgets.items() if where == problem}
        traces = [
            _family(comparison, problem, name)
            | {
                "x": list(one.budgets),
                "y": numbers(scale * one.mean),
                "low": numbers(scale * one.low),
                "high": numbers(scale * one.high),
                "band": True,
                "hover": [f"of {one.n} trials"],
            }
            for name, one in curves.items()
        ]
        label = selection.metric.with_unit(f"expected best {selection.rule.metric.replace('_', ' ')}")
        if traces:
            yield _chart(
                "budget",
                "all",
                problem,
                traces,
                x={"label": "trials k", "log": True},
                y={"label": label, "log": False},
            )


def _times(comparison: Comparison) -> Iterator[Chart]:
    for target in comparison.targets:
        for unit in UNITS:
            for problem in comparison.grouping.problems:
                times = times_by_group(comparison.runs, target, unit, problem)
                finite = np.concatenate([values[np.isfinite(values)] for values in times.values()])
                if not finite.size:
                    continue
                traces = [
                    _times_trace(comparison, name, values, finite.max()) for name, values in times.items()
                ]
                positive = finite[finite > 0]
                log = bool(positive.size) and bool(positive.max() / positive.min() > 20)
                yield _chart(
                    "times", f"{target.on(problem)}, in {unit}", problem, traces,
                    x={"label": f"{UNIT_LABELS[unit]} to {target.on(problem)}", "log": log},
                    y={"label": "share of runs", "log": False},
                )  # fmt: skip


def _times_trace(comparison: Comparison, name: str, values: Any, last: float) -> dict[str, Any]:
    steps, summary = ecdf_of_times(values), summary_of_times(values)
    end = steps.fraction[-1:] if steps.x.size else [0.0]
    reached = f"reached by {summary.reached} of {summary.n} runs"
    median = "never in half of them" if math.isinf(summary.median) else f"median {summary.median:.4g}"
    return _group(comparison, name) | {
        "x": numbers(np.concatenate([[0.0], steps.x, [1.05 * last]])),
        "y": numbers(np.concatenate([[0.0], steps.fraction, end])),
        "stepwise": True,
        "hover": [reached, median],
    }


def _profiles(comparison: Comparison) -> Iterator[Chart]:
    if len(comparison.grouping.problems) < 2:
        return
    for target in comparison.targets:
        for unit in UNITS:
            profile, names, _ = profile_over_problems(comparison.runs, target, unit)
            if profile is None:
                continue
            last = max(float(profile.tau[-1]) * 1.1, 1.5)
            traces = [
                _group(comparison, name)
                | {
                    "x": numbers(np.append(profile.tau, last)),
                    "y": numbers(np.append(rho, rho[-1])),
                    "stepwise": True,
                    "hover": [f"fastest on {rho[0]:.0%} of the problems, reaches {rho[-1]:.0%}"],
                }
                for name, rho in zip(names, profile.rho, strict=True)
            ]
            yield _chart(
                "profile", f"{target}, in {unit}", None, traces,
                x={"label": "tau: times the best group's time", "log": last > 3},
                y={"label": "share of problems solved", "log": False},
            )  # fmt: skip


def _costs(comparison: Comparison) -> Iterator[Chart]:
    rows = comparison.groups.to_dict("records")
    for problem in comparison.grouping.problems:
        timed = [row for row in rows if row["problem"] == problem and not math.isnan(row["ms_per_step"])]
        traces = [
            _group(comparison, row["group"])
            | {
                "x": [row["group"]],
                "y": numbers([row["ms_per_step"]]),
                "low": numbers([row["ms_per_step_low"]]),
                "high": numbers([row["ms_per_step_high"]]),
                "hover": [f"optimizer state: {row['state_bytes']:,} bytes"]
                + (
                    [] if math.isnan(row["overhead_ms"]) else [f"{row['overhead_ms']:+.3g} ms over plain SGD"]
                ),
            }
            for row in timed
        ]
        if traces:
            yield _chart(
                "cost",
                "all",
                problem,
                traces,
                x={"label": "", "log": False},
                y={"label": "milliseconds per step", "log": False},
            ) | {"categories": True}


def _chart(
    kind: str,
    choice: str,
    problem: str | None,
    traces: Sequence[Mapping[str, Any]],
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    better: str = "max",
) -> Chart:
    """Return a chart; the problem is None if it is about all of them."""
    return {
        "kind": kind, "choice": choice, "problem": problem, "traces": traces, "better": better,
        "x": x, "y": y,
    }  # fmt: skip


def _group(comparison: Comparison, name: str) -> dict[str, Any]:
    return appearance(comparison.lines.groups[name]) | {"name": name, "groups": [name]}


def _family(comparison: Comparison, problem: str, name: str) -> dict[str, Any]:
    line = comparison.lines.families[problem, name]
    members = comparison.lines.members[problem, name]
    return appearance(line) | {"name": name or "all", "groups": list(members)}


def _scaled(values: Iterable[float | None], metric: Metric) -> list[Any]:
    """Return values in the unit of a metric; the ends of intervals can leave the range of a percentage."""
    limit = 100.0 if metric.unit == "%" else math.inf
    low = 0.0 if metric.unit == "%" else -math.inf
    return [None if value is None else number(min(max(metric.scale * value, low), limit)) for value in values]


def axis(label: str, values: Iterable[float]) -> dict[str, Any]:
    """Return an axis of settings: logarithmic from a decade on; `zero` is where it shows 0."""
    known = set(values)
    above = sorted(value for value in known if value > 0)
    log = bool(above) and min(known) >= 0 and above[-1] / above[0] >= 10
    return {"label": label, "log": log, "zero": above[0] / 10 if log and 0 in known else None}
