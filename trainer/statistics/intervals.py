"""Intervals for the centre of one group of values, one value per seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Mode = Literal["min", "max"]
Statistic = Literal["mean", "median"]
BootstrapMethod = Literal["percentile", "bca"]

ONE_SEED = "one seed"

# Share of 95 % percentile-bootstrap intervals that contain the centre of normal data: 10,000 samples of each
# size (median: 3,000 or more), 2,000 resamples each; nightly tests in tests/statistics measure some of them
# again. The median's coverage is not monotonic in n, because its interval can end only at the values.
_COVERAGE_AT_95: dict[Statistic, dict[int, float]] = {
    "mean": {
        **{2: 0.50, 3: 0.75, 4: 0.79, 5: 0.84, 6: 0.86, 7: 0.88, 8: 0.88, 10: 0.90},
        **{15: 0.91, 20: 0.93, 30: 0.935, 50: 0.94},
    },
    "median": {
        **{2: 0.50, 3: 0.76, 4: 0.87, 5: 0.94, 6: 0.94, 7: 0.87, 8: 0.93, 9: 0.95, 10: 0.94, 11: 0.94},
        **{12: 0.95, 13: 0.91, 14: 0.93, 15: 0.925, 16: 0.94, 17: 0.96, 18: 0.95, 19: 0.94, 20: 0.94},
        **{25: 0.95, 30: 0.945, 40: 0.94, 50: 0.95},
    },
}
# Coverage of the mean's interval at confidence 1 - alpha: 4,000 samples or more, 3,000 resamples or more. No
# interval can end outside the values, and all n values are on one side of the centre in 2^(1 - n) of the
# samples: at n = 5 the coverage is at most 93.75 % at any confidence.
_ALPHAS = (0.05, 0.05 / 3, 0.005, 0.001)
_COVERAGE_ABOVE_95: dict[int, tuple[float, float, float]] = {
    2: (0.50, 0.50, 0.50),
    3: (0.75, 0.75, 0.75),
    4: (0.835, 0.87, 0.875),
    5: (0.885, 0.915, 0.93),
    6: (0.90, 0.93, 0.945),
    7: (0.92, 0.945, 0.96),
    8: (0.93, 0.955, 0.97),
    10: (0.95, 0.97, 0.985),
    15: (0.955, 0.98, 0.985),
    20: (0.965, 0.98, 0.99),
    30: (0.97, 0.985, 0.99),
    50: (0.98, 0.99, 0.995),
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A centre with its uncertainty.

    Args:
        estimate: the centre.
        low, high: ends of the interval; None with one seed.
        n: number of values.
        confidence: nominal coverage, in (0, 1).
        method: name of the method, for example `Student t`.
        note: caveat for the reader; empty if there is none.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    confidence: float
    method: str
    note: str = ""


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean with its Student t interval: mean +- t_{n-1} * sd / sqrt(n).

    It is exact for normal values and a good approximation for most others (Student 1908, Biometrika 6:1).

    Args:
        values: finite numbers [n], one per seed, n >= 1.
        confidence: nominal coverage, in (0, 1).

    Raises:
        ValueError: no values, or NaN or infinite ones: count diverged runs, do not average them.
    """
    sample = finite(values)
    check_share(confidence, "confidence")
    estimate, n = float(sample.mean()), sample.size
    if n == 1:
        return Interval(estimate, None, None, 1, confidence, "Student t", ONE_SEED)
    half = t_upper_quantile((1 - confidence) / 2, n - 1) * float(sample.std(ddof=1)) / math.sqrt(n)
    note = f"all {n} values are equal" if np.ptp(sample) == 0 else ""
    return Interval(estimate, estimate - half, estimate + half, n, confidence, "Student t", note)


@lru_cache(maxsize=1024)
def t_upper_quantile(share: float, df: float) -> float:
    """Return the upper quantile of Student's t: the value exceeded with probability `share`.

    Cached, because a call of scipy takes 0.1 ms, and a comparison of 2,000 groups needs 26,000 quantiles.
    """
    return float(stats.t.isf(share, df))


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Statistic = "mean",
    method: BootstrapMethod = "percentile",
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return the mean or median with its bootstrap interval (Efron & Tibshirani 1993, chapters 13 and 14).

    With few values it covers less than its nominal confidence (see `stated_coverage`); the note states by how
    much. BCa corrects for skewness, not for small n.

    Args:
        values: finite numbers [n], one per seed, n >= 1.
        statistic: the centre; `bca` requires the mean, because its jackknife is inconsistent for a median
            (Efron & Tibshirani 1993, 11.6).
        method: `percentile` or `bca` (bias-corrected and accelerated).
        confidence: nominal coverage, in (0, 1).
        resamples: bootstrap samples, >= 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no values, values that are not finite, or a median with `bca`.
    """
    sample = finite(values)
    check_share(confidence, "confidence")
    if method == "bca" and statistic == "median":
        raise ValueError("bca is not available for a median; use method='percentile'")
    centre = np.mean if statistic == "mean" else np.median
    estimate, n = float(centre(sample)), sample.size
    name = f"{'BCa' if method == 'bca' else 'percentile'} bootstrap of the {statistic}"
    if n == 1:
        return Interval(estimate, None, None, 1, confidence, name, ONE_SEED)
    if np.ptp(sample) == 0:
        return Interval(estimate, estimate, estimate, n, confidence, name, f"all {n} values are equal")
    ends = stats.bootstrap(
        (sample,),
        centre,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa" if method == "bca" else "percentile",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(
        estimate,
        float(ends.low),
        float(ends.high),
        n,
        confidence,
        name,
        _coverage_note(n, statistic, confidence),
    )


def stated_coverage(n: int, *, statistic: Statistic = "mean", confidence: float = 0.95) -> float:
    """Return the share of percentile-bootstrap intervals that contain the true centre of n normal values.

    The shares were measured by simulation. Between measured sizes, the share of the next smaller size is
    returned. For comparison, the Student t interval has its nominal coverage at every n.

    Args:
        n: number of values, >= 2.
        statistic: the centre; the coverage of a median is known at confidence 0.95 only.
        confidence: nominal coverage, 0.95 or more.

    Raises:
        ValueError: n or the confidence was not measured.
    """
    measured = _COVERAGE_AT_95[statistic]
    if n < min(measured):
        raise ValueError(f"a bootstrap needs at least {min(measured)} values, got {n}")
    size = max(size for size in measured if size <= n)
    if math.isclose(confidence, 0.95):
        return measured[size]
    if statistic == "median" or not 0.95 < confidence < 1:
        raise ValueError(f"the coverage of the {statistic} at confidence {confidence:g} was not measured")
    logs = [-math.log(alpha) for alpha in _ALPHAS]
    return float(np.interp(-math.log(1 - confidence), logs, [measured[size], *_COVERAGE_ABOVE_95[size]]))


def _coverage_note(n: int, statistic: Statistic, confidence: float) -> str:
    nominal = f"{100 * confidence:.3g}%"
    if math.isclose(confidence, 0.95) or (statistic == "mean" and confidence > 0.95):
        share = stated_coverage(n, statistic=statistic, confidence=confidence)
        return f"on normal data this interval covers about {share:.0%} at n={n}, not {nominal}"
    return f"covers less than {nominal} at small n"


def finite(values: ArrayLike) -> Floats:
    """Return `values` as float64 [n]. Raise ValueError if empty, not one-dimensional or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected one or more numbers [n], got an array of shape {array.shape}")
    num_nonfinite = int(np.count_nonzero(~np.isfinite(array)))
    if num_nonfinite:
        raise ValueError(
            f"{num_nonfinite} of {array.size} values are NaN or infinite: "
            "count diverged runs, do not average them"
        )
    return array


def check_share(value: float, name: str) -> None:
    """Raise ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, both excluded; got {value!r}")


def check_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is `min` or `max`."""
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' (losses) or 'max' (accuracies), got {mode!r}")


def as_times(times: Sequence[float] | ArrayLike) -> Floats:
    """Return times as float64, any shape; inf = unreached. Raise ValueError if empty, NaN or negative."""
    array = np.asarray(times, dtype=np.float64)
    if array.size == 0 or bool(np.isnan(array).any()) or bool((array < 0).any()):
        raise ValueError("expected one or more times >= 0, infinity where the target was not reached")
    return array
