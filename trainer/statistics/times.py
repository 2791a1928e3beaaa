"""Times to a target, in any unit, with unreached = infinity. No averages over the successes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainer.statistics.intervals import Floats, Mode, as_times, check_mode, check_share


@dataclass(frozen=True, slots=True)
class TimesSummary:
    """What n times to a target come to.

    Args:
        n: runs.
        reached: runs that reached the target.
        median: of all n; infinity when half of the runs or more never arrived.
        low, high: lower and upper quantile of all n, infinity allowed.
    """

    n: int
    reached: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class TimesEcdf:
    """Share of all runs that had reached the target, as a step function, right-continuous.

    Args:
        x: increasing finite times [k], without repeats.
        fraction: share of all n runs that had arrived by each [k]; ends at reached / n.
        n: runs, those that never arrived included.
    """

    x: Floats
    fraction: Floats
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A performance profile: rho_s(tau), the share of problems that s solves within tau times the best.

    Args:
        tau: increasing ratios [k], starting at 1; rho changes nowhere else.
        rho: share of all problems, [solvers, k]; step functions, right-continuous.
        unsolved: problems that no solver solved; they count in every share.
    """

    tau: Floats
    rho: Floats
    unsolved: int


def time_to_target(
    steps: ArrayLike, values: Sequence[float | None] | ArrayLike, target: float, mode: Mode
) -> float:
    """Return the first recorded step at which the target was met; infinity when it never was.

    No interpolation: a run is known to have arrived only where it was measured.

    Args:
        steps: steps, epochs or seconds of the records [n], not decreasing.
        values: what was measured [n]; None and NaN meet no target.
        target: to be reached or passed.
        mode: `min` where small is good (value <= target), `max` where large is (value >= target).

    Raises:
        ValueError: lengths differ, steps decrease, a NaN target, or an unknown mode.
    """
    check_mode(mode)
    when, found = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if when.shape != found.shape or when.ndim != 1:
        raise ValueError(f"steps {when.shape} and values {found.shape} must be rows of equal length")
    if math.isnan(target) or not bool((np.diff(when) >= 0).all()):
        raise ValueError("steps must not decrease or be NaN, and the target must be a number")
    met = found <= target if mode == "min" else found >= target
    return float(when[met.argmax()]) if bool(met.any()) else math.inf


def summary_of_times(times: ArrayLike, *, quantiles: tuple[float, float] = (0.25, 0.75)) -> TimesSummary:
    """Return median, two quantiles and how many arrived, over all runs (infinity = unreached).

    There is no mean: over all runs it is infinite as soon as one fails, and over the successes it
    rewards failing. A quantile that falls between two times is their average, as medians have it
    (Hyndman & Fan 1996, The American Statistician 50:361, definition 2).

    Args:
        times: times >= 0 [n], infinity = unreached, n >= 1.
        quantiles: the two quantiles, each in (0, 1).

    Raises:
        ValueError: no times, NaN or negative ones, or quantiles out of range.
    """
    ordered = np.sort(as_times(times).ravel())
    for quantile in quantiles:
        check_share(quantile, "quantiles")
    low, high = (_quantile(ordered, quantile) for quantile in quantiles)
    reached = int(np.isfinite(ordered).sum())
    return TimesSummary(ordered.size, reached, _quantile(ordered, 0.5), low, high)


def ecdf_of_times(times: ArrayLike) -> TimesEcdf:
    """Return the empirical distribution of times to a target; unreached runs keep it below 1.

    Args:
        times: times >= 0 [n], infinity = unreached, n >= 1.

    Raises:
        ValueError: no times, NaN or negative ones.
    """
    found = as_times(times).ravel()
    x, counts = np.unique(found[np.isfinite(found)], return_counts=True)
    return TimesEcdf(x, np.cumsum(counts) / found.size, found.size)


def performance_profile(times: ArrayLike) -> Profile:
    """Return the performance profile of several solvers over several problems.

    rho_s(tau) = share of problems p with t[p, s] <= tau * min_s t[p, s] (Dolan & More 2002, Mathematical
    Programming 91:201). The value at tau = 1 is the share of wins (ties count for each), the last one the
    share solved at all. With three solvers or more, read the best one only: the order of the others depends
    on which solvers are included (Gould & Scott 2016, ACM Transactions on Mathematical Software 43:15).

    Args:
        times: times > 0 [problems, solvers], infinity = not solved.

    Raises:
        ValueError: not two axes, or times that are NaN, zero (a target met before training compares
            nothing) or negative.
    """
    found = as_times(times)
    if found.ndim != 2:
        raise ValueError(f"expected times [problems, solvers], got an array of shape {found.shape}")
    if bool((found == 0).any()):
        raise ValueError("a time is 0: the target was met before training; choose a harder one")
    solved = found[np.isfinite(found).any(axis=1)]
    ratios = solved / solved.min(axis=1, keepdims=True)
    tau = np.unique(np.append(ratios[np.isfinite(ratios)], 1.0))
    within = [np.searchsorted(np.sort(column), tau, side="right") for column in ratios.T]
    return Profile(tau, np.array(within) / len(found), len(found) - len(solved))


def _quantile(ordered: Floats, share: float) -> float:
    # Written out, for numpy's interpolation makes NaN of infinities.
    place = round(share * ordered.size, 9)
    first = max(math.ceil(place), 1) - 1
    if place == first + 1 and first + 1 < ordered.size:
        return float((ordered[first] + ordered[first + 1]) / 2)
    return float(ordered[first])
