"""All figures of a comparison, by name: curves, times, profiles, sensitivity, heat maps, budgets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from trainer.compare import tuning
from trainer.compare.curves import Axis, Scale, draw_curves, has_metric
from trainer.compare.entries import metrics_of
from trainer.compare.figure_style import FigureStyle
from trainer.compare.groups import Group, Grouping
from trainer.compare.lines import Lines
from trainer.compare.measures import AnyTarget
from trainer.compare.times import draw_profile, draw_times, profile_over_problems
from trainer.compare.tuning import Search
from trainer.compare.tuning_figures import draw_budget, draw_heat_map, draw_sensitivity
from trainer.metrics import LOSS
from trainer.statistics import ExpectedBest
from trainer.statistics.curves import BandKind

_LONGEST_NAME = 100
_TIME_UNITS = {"step": "steps", "epoch": "epochs", "samples": "steps", "seconds": "seconds"}


@dataclass(frozen=True, slots=True)
class CurveOptions:
    """How curves are drawn; see `curves.draw_curves`."""

    x: Axis = "step"
    scale: Scale | None = None
    centre: Literal["mean", "median"] = "mean"
    band: BandKind | None = "min_max"
    smooth: bool = True
    multiples: bool | None = None


def draw_all(
    grouping: Grouping,
    frame: pd.DataFrame,
    targets: Sequence[AnyTarget],
    search: Search,
    budgets: Mapping[tuple[str, str], ExpectedBest],
    lines: Lines,
    options: CurveOptions,
    figure_style: FigureStyle,
) -> tuple[dict[str, Figure], list[str]]:
    """Return every figure for which the runs have data, by name, and the reasons why others are missing.

    Args:
        grouping: the groups.
        frame: the result of `measures.run_frame` for these targets.
        targets: targets whose times are drawn.
        search: tuning results of runs at several settings.
        budgets: expected best of k trials, by problem and family.
        lines: the lines of groups and families.
        options: options of the curves.
        figure_style: size, fonts and line widths.
    """
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    unit = _TIME_UNITS[options.x]
    suffixes = _suffixes(grouping.problems)
    for problem in grouping.problems:
        members = [group for group in grouping.groups if group.problem == problem]
        suffix, head = suffixes[problem], f"{problem}: " if problem else ""
        for name in curve_metrics(members):
            figure = draw_curves(
                members, name, x=options.x, scale=options.scale, centre=options.centre, band=options.band,
                smoothed=options.smooth, multiples=options.multiples, figure_style=figure_style,
                numbers=lines.groups,
            )  # fmt: skip
            if figure is not None:
                _add(figures, name + suffix, figure)
        for target in targets:
            figure = draw_times(
                grouping, frame, target, lines.groups, unit=unit, problem=problem, figure_style=figure_style
            )
            if figure is None:
                notes.append(f"{head}no run reached {target.on(problem)}: no figure of times")
            else:
                _add(figures, f"times.{file_name(str(target))}{suffix}", figure)
    figures |= _sensitivities(search, lines, figure_style)
    for target in targets if len(grouping.problems) > 1 else ():
        profile, names, note = profile_over_problems(frame, target, unit)
        if note:
            notes.append(f"{'no ' if profile is None else ''}performance profile for {target}: {note}")
        if profile is None:
            continue
        figure = draw_profile(
            profile, names, target, lines.groups, unit=unit, problems=len(grouping.problems),
            figure_style=figure_style,
        )  # fmt: skip
        _add(figures, f"profile.{file_name(str(target))}", figure)
    return figures | _budgets(search, budgets, lines, figure_style), notes


def curve_metrics(groups: Sequence[Group]) -> list[str]:
    """Return the columns that are drawn: losses, then every metric, on the validation split if recorded."""
    entries = [entry for group in groups for entry in group.entries]

    def recorded(name: str) -> bool:
        return any(has_metric(entry, name) for entry in entries)

    metrics = [name for name in ("loss", "train_eval_loss", "val_loss") if recorded(name)]
    for metric in metrics_of(entries):
        columns = [f"{split}_{metric.name}" for split in ("val", "train")]
        if metric != LOSS:
            metrics += [name for name in columns if recorded(name)][:1]
    return metrics


def _sensitivities(search: Search, lines: Lines, figure_style: FigureStyle) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    suffixes = _suffixes(search.grouping.problems)
    for problem in search.grouping.problems:
        members = [group for group in search.grouping.groups if group.problem == problem]
        suffix = suffixes[problem]
        selection, numbers = search.selections[problem], lines.families_of(problem)
        for (where, key), sensitivities in search.sensitivities.items():
            if where == problem:
                figure = draw_sensitivity(
                    sensitivities, key, selection, members, numbers, figure_style=figure_style
                )
                _add(figures, f"sensitivity.{file_name(key)}{suffix}", figure)
        if len(search.swept) < 2:
            continue
        families = tuning.families(search.grouping, search.swept, problem)
        named = _suffixes([family.name for family in families])
        for family in families:
            keys = search.swept[0], search.swept[1]
            cells = tuning.heat_map_cells(family, keys, search.swept, selection)
            if cells:
                drawn = draw_heat_map(cells, family, selection, keys, figure_style=figure_style)
                _add(figures, f"heat_map{named[family.name]}{suffix}", drawn)
    return figures


def _budgets(
    search: Search,
    budgets: Mapping[tuple[str, str], ExpectedBest],
    lines: Lines,
    figure_style: FigureStyle,
) -> dict[str, Figure]:
    figures = {}
    suffixes = _suffixes(search.grouping.problems)
    for problem, selection in search.selections.items():
        curves = {name: curve for (where, name), curve in budgets.items() if where == problem}
        if curves:
            members = [group for group in search.grouping.groups if group.problem == problem]
            figures[f"budget{suffixes[problem]}"] = draw_budget(
                curves, selection, members, lines.families_of(problem), figure_style=figure_style
            )
    return figures


def _suffixes(names: Sequence[str]) -> dict[str, str]:
    """Return a unique file name suffix per name; the empty name has an empty suffix."""
    suffixes: dict[str, str] = {}
    for name in names:
        end = f".{file_name(name)}" if name else ""
        while end in suffixes.values():
            end += "_"
        suffixes[name] = end
    return suffixes


def _add(figures: dict[str, Figure], name: str, figure: Figure) -> None:
    """Add a figure under an unused name."""
    while name in figures:
        name += "_"
    figures[name] = figure


def file_name(text: str) -> str:
    """Return text as part of a file name; long text is cut and ends in a hash of all of it."""
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "_", re.sub(r"[\[\](){}]", "", text))
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
