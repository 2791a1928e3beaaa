"""Figures of times to a target: empirical distributions, and performance profiles over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from trainer.compare.curves import common_title
from trainer.compare.figure_style import (
    STYLES,
    FigureStyle,
    legend,
    line_for,
    new_figure,
    scale_x,
    scale_y,
    settings,
)
from trainer.compare.groups import Grouping
from trainer.compare.measures import AnyTarget
from trainer.plots.style import Array
from trainer.statistics import Profile, ecdf_of_times, performance_profile, summary_of_times

UNIT_LABELS = {"steps": "steps", "epochs": "epochs", "seconds": "seconds of training"}


def draw_times(
    grouping: Grouping,
    frame: pd.DataFrame,
    target: AnyTarget,
    numbers: Mapping[str, int],
    *,
    unit: str = "steps",
    problem: str = "",
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure | None:
    """Draw the share of each group's runs that reached a target, against time. Return None if no run did.

    The line of a group with runs that never reached the target stays below 1; times are not averaged over
    successful runs only.

    Args:
        grouping: the groups.
        frame: the result of `measures.run_frame`, with this target.
        target: the target.
        numbers: the number of each group's line.
        unit: steps, epochs or seconds.
        problem: the problem, if there are several.
        figure_style: size, fonts and line widths.
    """
    groups = [group for group in grouping.groups if group.problem == problem]
    times = times_by_group(frame, target, unit, problem)
    finite = np.concatenate([values[np.isfinite(values)] for values in times.values()])
    if not finite.size:
        return None
    positive = finite[finite > 0]
    log = bool(positive.size) and float(positive.max() / positive.min()) > 20
    with settings(figure_style):
        head = f"runs that reached {target.on(problem)}, of all runs"
        figure, (axes,) = new_figure(f"{common_title(groups)}\n{head}", figure_style)
        last = float(finite.max()) or 1.0
        if log:
            scale_x(axes, float(positive.min()) / 1.3, last * 1.3, log=True)
        else:
            scale_x(axes, 0, 1.08 * last, log=False)
        scale_y(axes, -0.03, 1.05, log=False)
        handles, labels = [], []
        edge = axes.get_xlim()
        for name, values in times.items():
            steps = ecdf_of_times(values)
            line = line_for(numbers[name], figure_style)
            x = np.concatenate([[edge[0]], np.maximum(steps.x, edge[0]), [edge[1]]])
            y = np.concatenate([[0.0], steps.fraction, steps.fraction[-1:] if steps.x.size else [0.0]])
            (handle,) = axes.plot(
                x, y, drawstyle="steps-post", color=line.colour, linestyle=line.dashes, marker=line.marker,
                markevery=slice(1, -1),
            )  # fmt: skip
            handles.append(handle)
            summary = summary_of_times(values)
            labels.append(f"{figure_style.label(name)} ({summary.reached} of {summary.n})")
        axes.set_xlabel(f"{UNIT_LABELS[unit]} to {target.on(problem)}")
        axes.set_ylabel("share of runs")
        legend(figure, handles, labels, figure_style)
    return figure


def times_by_group(frame: pd.DataFrame, target: AnyTarget, unit: str, problem: str) -> dict[str, Array]:
    """Return the times of all runs of each group [runs]; infinity = unreached."""
    rows = frame[frame["problem"] == problem]
    groups = rows.groupby("group", sort=False)[f"{unit} to {target}"]
    return {str(name): times.to_numpy(dtype=np.float64) for name, times in groups}


def median_times(frame: pd.DataFrame, target: AnyTarget, unit: str) -> pd.DataFrame:
    """Return the median time over seeds [problems, groups]; infinity = unreached, NaN = no runs."""
    column = f"{unit} to {target}"
    table = frame.groupby(["problem", "group"])[column].apply(lambda t: summary_of_times(t.to_numpy()).median)
    return table.unstack("group")


def profile_over_problems(
    frame: pd.DataFrame, target: AnyTarget, unit: str
) -> tuple[Profile | None, list[str], str]:
    """Return the performance profile, its groups, and a note: who is left out, or why there is none.

    A problem is a data set with a model; its time is the median over seeds. Groups that did not run on every
    problem are left out, because a profile counts a missing time as a failure.

    Args:
        frame: the result of `measures.run_frame`, with this target.
        target: the target, the same on every problem or one per problem.
        unit: steps, epochs or seconds.
    """
    times = median_times(frame, target, unit)
    everywhere = times.notna().all()
    left_out = list(map(str, times.columns[~everywhere]))
    times = times.loc[:, everywhere]
    note = f"without {', '.join(left_out)}: no runs on some problem" if left_out else ""
    reason = ""
    if len(times) < 2 or times.shape[1] < 2:
        reason = "a performance profile needs two groups that ran on two problems or more"
    elif (times == 0).any(axis=None):
        reason = f"{target} is met before training, so its times compare nothing; choose a harder target"
    elif not np.isfinite(times.to_numpy()).any():
        reason = f"no group reaches {target} on any problem in half of its runs"
    if reason:
        return None, [], reason
    return performance_profile(times.to_numpy()), list(map(str, times.columns)), note


def draw_profile(
    profile: Profile,
    names: Sequence[str],
    target: AnyTarget,
    numbers: Mapping[str, int],
    *,
    unit: str = "steps",
    problems: int,
    figure_style: FigureStyle = STYLES["screen"],
) -> Figure:
    """Draw the performance profile rho(tau) over problems.

    Args:
        profile: the result of `profile_over_problems`.
        names: the names of its groups.
        target: the target, the same on every problem or one per problem.
        numbers: the number of each group's line.
        unit: steps, epochs or seconds.
        problems: number of problems.
        figure_style: size, fonts and line widths.
    """
    with settings(figure_style):
        figure, (axes,) = new_figure(
            f"performance profile over {problems} problems · {unit} to {target}\n"
            "read the best group only: the order of the others depends on which groups are included",
            figure_style,
        )
        last = max(float(profile.tau[-1]) * 1.1, 1.5)
        scale_x(axes, 1.0, last, log=last > 3)
        scale_y(axes, -0.03, 1.05, log=False)
        handles = []
        for name, rho in zip(names, profile.rho, strict=True):
            line = line_for(numbers[name], figure_style)
            (handle,) = axes.plot(
                np.append(profile.tau, last), np.append(rho, rho[-1]), drawstyle="steps-post",
                color=line.colour, linestyle=line.dashes, marker=line.marker, markevery=slice(0, -1),
                clip_on=False,
            )  # fmt: skip
            handles.append(handle)
        axes.set_xlabel("tau: times the best group's time")
        axes.set_ylabel("share of problems solved")
        legend(figure, handles, list(map(figure_style.label, names)), figure_style)
    return figure
