"""Times to a target, in any unit. The time to an unreached target is infinite and counts in every result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainer.statistics.intervals import Floats, Mode, as_times, check_mode, check_share


@dataclass(frozen=True, slots=True)
class TimesSummary:
    """Summary of n times to a target.

    Args:
        n: number of runs.
        reached: number of runs that reached the target.
        median: median over all n runs; infinity if half of the runs or more did not reach it.
        low, high: lower and upper quantile over all n runs, possibly infinite.
    """

    n: int
    reached: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class TimesEcdf:
    """Share of all runs that had reached the target, as a right-continuous step function.

    Args:
        x: strictly increasing finite times [k].
        fraction: share of all n runs that had reached the target by each time [k]; ends at reached / n.
        n: number of runs, including those that did not reach it.
    """

    x: Floats
    fraction: Floats
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Performance profile rho_s(tau): the share of problems that solver s solves within tau times the best.

    Args:
        tau: increasing ratios [k], starting at 1, at which rho changes.
        rho: share of all problems [solvers, k], as right-continuous step functions.
        unsolved: number of problems that no solver solved; they count in the denominators.
    """

    tau: Floats
    rho: Floats
    unsolved: int


def time_to_target(
    steps: ArrayLike, values: Sequence[float | None] | ArrayLike, target: float, mode: Mode
) -> float:
    """Return the first recorded step at which the target was met, or infinity if it never was.

    Times are not interpolated between records.

    Args:
        steps: steps, epochs or seconds of the records [n], not decreasing.
        values: measured values [n]; None and NaN do not meet the target.
        target: value to reach.
        mode: `min` if lower is better (value <= target), `max` if higher is better (value >= target).

    Raises:
        ValueError: lengths differ, steps decrease, a NaN target, or an unknown mode.
    """
    check_mode(mode)
    when, numbers = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if when.shape != numbers.shape or when.ndim != 1:
        raise ValueError(
            f"steps {when.shape} and values {numbers.shape} must be one-dimensional and of equal length"
        )
    if math.isnan(target) or not bool((np.diff(when) >= 0).all()):
        raise ValueError("steps must not decrease or be NaN, and the target must be a number")
    met = numbers <= target if mode == "min" else numbers >= target
    return float(when[met.argmax()]) if bool(met.any()) else math.inf


def summary_of_times(times: ArrayLike, *, quantiles: tuple[float, float] = (0.25, 0.75)) -> TimesSummary:
    """Return the median, two quantiles and the number of successes over all runs (infinity = unreached).

    There is no mean: over all runs it is infinite as soon as one fails, and over successes only it rewards
    failing. A quantile between two times is their average, as for medians (Hyndman & Fan 1996, The American
    Statistician 50:361, definition 2).

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
    """Return the empirical distribution of times to a target; it stays below 1 if some runs fail.

    Args:
        times: times >= 0 [n], infinity = unreached, n >= 1.

    Raises:
        ValueError: no times, NaN or negative ones.
    """
    array = as_times(times).ravel()
    x, counts = np.unique(array[np.isfinite(array)], return_counts=True)
    return TimesEcdf(x, np.cumsum(counts) / array.size, array.size)


def performance_profile(times: ArrayLike) -> Profile:
    """Return the performance profile of several solvers over several problems.

    rho_s(tau) = share of problems p with t[p, s] <= tau * min_s t[p, s] (Dolan & More 2002, Mathematical
    Programming 91:201). The value at tau = 1 is the share of wins (ties count for each), the last value the
    share of solved problems. With three or more solvers, read the best one only: the order of the others
    depends on which solvers are included (Gould & Scott 2016, ACM Transactions on Mathematical Software
    43:15).

    Args:
        times: times > 0 [problems, solvers], infinity = not solved.

    Raises:
        ValueError: not two-dimensional, or times that are NaN, negative or zero (the target was met before
            training, so times are not comparable).
    """
    array = as_times(times)
    if array.ndim != 2:
        raise ValueError(f"expected times [problems, solvers], got an array of shape {array.shape}")
    if bool((array == 0).any()):
        raise ValueError("a time is 0: the target was met before training; choose a harder target")
    solved = array[np.isfinite(array).any(axis=1)]
    ratios = solved / solved.min(axis=1, keepdims=True)
    tau = np.unique(np.append(ratios[np.isfinite(ratios)], 1.0))
    within = [np.searchsorted(np.sort(column), tau, side="right") for column in ratios.T]
    return Profile(tau, np.array(within) / len(array), len(array) - len(solved))


def _quantile(ordered: Floats, share: float) -> float:
    # Hand-written, because numpy's interpolation turns infinities into NaN.
    position = round(share * ordered.size, 9)
    first = max(math.ceil(position), 1) - 1
    if position == first + 1 and first + 1 < ordered.size:
        return float((ordered[first] + ordered[first + 1]) / 2)
    return float(ordered[first])
