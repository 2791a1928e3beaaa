"""What tuning costs and hides: sensitivity to one setting, expected best of k trials. It chooses nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainer.statistics.intervals import (
    Floats,
    Mode,
    Statistic,
    check_mode,
    check_share,
    finite,
    mean_interval,
)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How the result depends on one setting, as the learning rate. Tuples run along `settings`.

    Args:
        settings: in increasing order.
        centre: mean or median over seeds; None where a run diverged, as the others are the better ones.
        low, high: ends of the mean's Student t interval, of each setting alone; None also with one seed, and
            of a median.
        n: runs.
        diverged: runs whose value was NaN or infinite.
        best: the candidate with the best centre, the smallest of equals; None when all of them diverged.
        best_at_edge: the best is the first or last setting, so a better one may lie outside; a lowest setting
            of 0 is no edge, since rates, decays and the like go no lower.
        good_from, good_to: ends of the unbroken range of settings around the best whose centres are within
            `within` of the best one's; None when there is no best.
        good_at_edge: that range touches the first or last setting, so it may be wider.
        width_decades: log10(good_to / good_from), between settings that were tried; None where a setting
            is <= 0 or there is no best.
        within: tolerated loss as a share of the best centre's size.
        over_seeds: `mean` or `median`.
    """

    settings: tuple[float, ...]
    centre: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    n: tuple[int, ...]
    diverged: tuple[int, ...]
    best: float | None
    best_at_edge: bool
    good_from: float | None
    good_to: float | None
    good_at_edge: bool
    width_decades: float | None
    within: float
    over_seeds: Statistic = "mean"


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedBest:
    """Expected best result of k random trials.

    Args:
        budgets: k, as given [m].
        mean: expected best of k [m].
        low, high: bootstrap interval of that expectation over the trials [m].
        sd: standard deviation of the best of k itself, the paper's shaded band [m].
        n: trials it was estimated from.
        confidence: nominal coverage of low and high.
    """

    budgets: tuple[int, ...]
    mean: Floats
    low: Floats
    high: Floats
    sd: Floats
    n: int
    confidence: float


def sensitivity(
    values_by_setting: Mapping[float, Sequence[float]],
    *,
    mode: Mode,
    within: float = 0.05,
    confidence: float = 0.95,
    over_seeds: Statistic = "mean",
    candidates: Collection[float] | None = None,
) -> Sensitivity:
    """Return how the result depends on a setting, how wide the good range is, and whether it was found.

    Good means: no worse than the best centre by more than `within` times its absolute value.

    Args:
        values_by_setting: per setting the results of its seeds; NaN or infinite = diverged.
        mode: `min` where small is good, `max` where large is.
        within: tolerated share, >= 0.
        confidence: nominal coverage of the intervals, in (0, 1).
        over_seeds: what is taken of a setting's results, `mean` or `median`.
        candidates: settings of which one can be the best; None = all.

    Raises:
        ValueError: no settings, a setting without values, or one that is not finite.
    """
    check_mode(mode)
    check_share(confidence, "confidence")
    settings = tuple(sorted(float(setting) for setting in values_by_setting))
    if not settings or not all(map(math.isfinite, settings)):
        raise ValueError(f"expected one or more finite settings, got {list(values_by_setting)}")
    if not (math.isfinite(within) and within >= 0):
        raise ValueError(f"within must be >= 0, got {within!r}")
    groups = {float(setting): np.asarray(found, float) for setting, found in values_by_setting.items()}
    rows = [groups[setting] for setting in settings]
    diverged = tuple(int(np.count_nonzero(~np.isfinite(row))) for row in rows)
    intervals = [
        None if lost else mean_interval(row, confidence=confidence)
        for row, lost in zip(rows, diverged, strict=True)
    ]
    centres = [math.nan if found is None else found.estimate for found in intervals]
    if over_seeds == "median":
        centres = [
            math.nan if lost else float(np.median(row)) for row, lost in zip(rows, diverged, strict=True)
        ]
    eligible = [
        centre if candidates is None or setting in candidates else math.nan
        for setting, centre in zip(settings, centres, strict=True)
    ]
    best = first = last = None
    if not all(map(math.isnan, eligible)):
        best = int(np.nanargmin(eligible) if mode == "min" else np.nanargmax(eligible))
        slack = within * abs(centres[best])
        good = [abs(centre - centres[best]) <= slack for centre in centres]
        first = last = best
        while first > 0 and good[first - 1]:
            first -= 1
        while last + 1 < len(good) and good[last + 1]:
            last += 1
    edges = (-1 if settings[0] == 0 else 0, len(settings) - 1)
    width = None
    if first is not None and last is not None and settings[0] > 0:
        width = math.log10(settings[last] / settings[first])
    ends = intervals if over_seeds == "mean" else [None] * len(rows)
    return Sensitivity(
        settings,
        tuple(None if math.isnan(centre) else centre for centre in centres),
        tuple(None if found is None else found.low for found in ends),
        tuple(None if found is None else found.high for found in ends),
        tuple(len(row) for row in rows),
        diverged,
        None if best is None else settings[best],
        best in edges,
        None if first is None else settings[first],
        None if last is None else settings[last],
        first == edges[0] or last == edges[1],
        width,
        within,
        over_seeds,
    )


def expected_best(
    values: ArrayLike,
    budgets: Sequence[int],
    *,
    mode: Mode,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ExpectedBest:
    """Return the expected best of k random trials for each budget k (Dodge et al. 2019, arXiv 1909.03004).

    With the results sorted from worst to best, v_1 ... v_n: sum_i v_i * ((i/n)^k - ((i-1)/n)^k), the mean of
    the best of k draws from the empirical distribution. It means something for random search only, where
    trials are exchangeable. It leans to the pessimistic side, more so as k nears n (Tang et al. 2020, ACL,
    arXiv 2004.13705). The interval, too: of those that say 95 %, with n = 50 uniform results 95, 93, 85 and
    61 % held the truth at k = 1, 4, 16 and 50 (measured).

    Args:
        values: one validation result per trial [n], finite: give a diverged trial the value of guessing.
        budgets: numbers of trials k, 1 <= k <= n.
        mode: `min` where small is good, `max` where large is.
        confidence: nominal coverage of the percentile bootstrap over trials, in (0, 1).
        resamples: bootstrap samples, >= 1.
        seed: of the resampling.

    Raises:
        ValueError: values that are not finite, or a budget outside 1 ... n.
    """
    check_mode(mode)
    check_share(confidence, "confidence")
    found = finite(values)
    n = found.size
    if not budgets or any(not 1 <= k <= n for k in budgets):
        raise ValueError(f"budgets must lie between 1 and the number of trials, {n}; got {list(budgets)}")
    sign = 1.0 if mode == "max" else -1.0
    ordered = sign * np.sort(sign * found)
    share = np.arange(n + 1)[:, None] / n
    weights = np.diff(share ** np.asarray(budgets, dtype=np.float64), axis=0)  # [n, budgets]
    mean = ordered @ weights
    variance = (ordered[:, None] - mean) ** 2 * weights
    resampled = np.random.default_rng(seed).choice(ordered, size=(resamples, n))
    curves = (sign * np.sort(sign * resampled, axis=1)) @ weights
    tail = (1 - confidence) / 2
    low, high = np.quantile(curves, (tail, 1 - tail), axis=0)
    return ExpectedBest(tuple(budgets), mean, low, high, np.sqrt(variance.sum(axis=0)), n, confidence)
