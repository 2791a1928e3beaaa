"""Two groups of seeds against each other: differences, tests, effect sizes, power. No one-group intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from trainer.statistics.intervals import (
    ONE_SEED,
    Floats,
    bootstrap_interval,
    check_share,
    finite,
    mean_interval,
)

# Differences nearer than this many float64 steps of the largest value are equal: 0.97 - 0.96 and
# 0.95 - 0.94 differ by rounding alone, and a test that believes in it finds p = 1e-30.
_ROUNDING_STEPS = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """How much a differs from b, a minus b, with its uncertainty.

    Args:
        estimate: difference of the means.
        low, high: ends of the interval; None with one seed.
        p: two-sided p value of no difference; None when nothing can be tested (see `note`) or by bootstrap.
        n_a, n_b: seeds per group; equal when paired.
        effect_size: Cohen's d_z (paired) or Hedges' g (Welch), in standard deviations; None when undefined.
        smallest_detectable: difference that this many seeds with this spread show with power 0.8 at
            alpha = 1 - confidence; None where no spread tells it. It describes the design and is no test.
        confidence: nominal coverage, in (0, 1).
        method: how it was made, as `paired t`.
        note: what a reader must know beside it; empty when nothing.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    n_a: int
    n_b: int
    effect_size: float | None
    smallest_detectable: float | None
    confidence: float
    method: str
    note: str = ""

    @property
    def n(self) -> int:
        """Number of pairs, or of seeds in the smaller group."""
        return min(self.n_a, self.n_b)


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Outcome of the Wilcoxon signed-rank test.

    Args:
        p: two-sided p value.
        n: pairs that differ; the others carry no sign and are left out.
        pairs: all pairs.
        smallest_possible_p: the p value if all n differences had one sign: 2 / 2^n.
        method: `exact` or `normal approximation`.
    """

    p: float
    n: int
    pairs: int
    smallest_possible_p: float
    method: str

    def can_reach(self, alpha: float = 0.05) -> bool:
        """Whether any outcome with these n pairs would have p <= alpha."""
        return self.smallest_possible_p <= alpha

    def verdict(self, alpha: float = 0.05) -> bool | None:
        """Whether p <= alpha; None when no outcome could have been."""
        return self.p <= alpha if self.can_reach(alpha) else None

    def sentence(self, alpha: float = 0.05) -> str:
        """Return the verdict in words."""
        if not self.can_reach(alpha):
            needed = math.ceil(1 - math.log2(alpha))
            return (
                f"no verdict: {self.n} differing pairs give p = {self.smallest_possible_p:.3g} at best, "
                f"alpha = {alpha:g} needs {needed} or more"
            )
        return f"p = {self.p:.3g} {'<=' if self.p <= alpha else '>'} {alpha:g} ({self.n} differing pairs)"


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
    resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Return mean(a - b) over pairs of equal seed, with Student's interval and test or bootstrap interval.

    The effect size is Cohen's d_z = mean / sd of the differences (Lakens 2013, Frontiers in Psychology
    4:863). The bootstrap gives no p value; its under-coverage at small n stands in the note.

    Args:
        a, b: finite numbers [n], a[i] and b[i] of the same seed.
        confidence: nominal coverage, in (0, 1).
        method: `t`, exact for normal differences, or `bootstrap` (percentile).
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, no values, or values that are not finite.
    """
    first, second = _pairs(a, b)
    differences = first - second
    n = differences.size
    name = "paired t" if method == "t" else "paired percentile bootstrap"
    interval = (
        mean_interval(differences, confidence=confidence)
        if method == "t"
        else bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    )
    estimate = interval.estimate
    if n == 1:
        return Difference(estimate, None, None, None, 1, 1, None, None, confidence, name, ONE_SEED)
    sd = float(differences.std(ddof=1))
    if float(np.ptp(differences)) <= _rounding(first, second) or sd == 0:
        note = f"all {n} differences are equal: no spread to test against"
        return Difference(estimate, estimate, estimate, None, n, n, None, None, confidence, name, note)
    return Difference(
        estimate,
        interval.low,
        interval.high,
        float(stats.ttest_1samp(differences, 0.0).pvalue) if method == "t" else None,
        n,
        n,
        estimate / sd,
        smallest_detectable(sd, n, alpha=1 - confidence),
        confidence,
        name,
        interval.note,
    )


def welch_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Difference:
    """Return mean(a) - mean(b) of unpaired groups whose variances may differ (Welch 1947, Biometrika 34:28).

    The effect size is Hedges' g: the difference over the pooled standard deviation, times the exact
    small-sample correction (Hedges 1981, Journal of Educational Statistics 6:107).

    Args:
        a, b: finite numbers [n_a], [n_b], one per seed.
        confidence: nominal coverage, in (0, 1).

    Raises:
        ValueError: no values, or values that are not finite.
    """
    first, second = finite(a), finite(b)
    check_share(confidence, "confidence")
    n_a, n_b = first.size, second.size
    estimate = float(first.mean() - second.mean())
    if min(n_a, n_b) == 1:
        return Difference(estimate, None, None, None, n_a, n_b, None, None, confidence, "Welch t", ONE_SEED)
    if max(float(np.ptp(first)), float(np.ptp(second))) <= _rounding(first, second):
        note = "the values of each group are equal: no spread to test against"
        return Difference(
            estimate, estimate, estimate, None, n_a, n_b, None, None, confidence, "Welch t", note
        )
    result = stats.ttest_ind(first, second, equal_var=False)
    ends = result.confidence_interval(confidence)
    variance_a, variance_b = float(first.var(ddof=1)), float(second.var(ddof=1))
    pooled_df = n_a + n_b - 2
    pooled = math.sqrt(((n_a - 1) * variance_a + (n_b - 1) * variance_b) / pooled_df)
    correction = math.exp(special.gammaln(pooled_df / 2) - special.gammaln((pooled_df - 1) / 2)) / math.sqrt(
        pooled_df / 2
    )
    error = math.sqrt(variance_a / n_a + variance_b / n_b)
    return Difference(
        estimate,
        float(ends.low),
        float(ends.high),
        float(result.pvalue),
        n_a,
        n_b,
        correction * estimate / pooled,
        error * _detectable_errors(float(result.df), alpha=1 - confidence, power=0.8),
        confidence,
        "Welch t",
        "the seeds do not match: unpaired",
    )


def smallest_detectable(
    sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8, paired: bool = True
) -> float:
    """Return the smallest true difference that a two-sided t test finds with the given power.

    Solves P(|T| > t_{df, 1 - alpha/2}) = power for the noncentrality of T ~ noncentral t (Cohen 1988,
    Statistical Power Analysis, chapter 2). Paired: noncentrality = difference / (sd / sqrt(n)), df = n - 1;
    unpaired: difference / (sd * sqrt(2 / n)), df = 2n - 2.

    Args:
        sd: standard deviation of the differences (paired) or within each group (unpaired), >= 0.
        n: pairs, or values per group, >= 2.
        alpha: level of the test, in (0, 1).
        power: wanted chance to find it, in (alpha, 1).
        paired: whether the test is.

    Raises:
        ValueError: an argument is out of its range.
    """
    if n < 2 or not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"needs n >= 2 and a finite sd >= 0, got n={n}, sd={sd!r}")
    error = sd * math.sqrt((1 if paired else 2) / n)
    return error * _detectable_errors(n - 1 if paired else 2 * n - 2, alpha=alpha, power=power)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> SignedRank:
    """Test pairs by the signed ranks of their differences, two-sided (Wilcoxon 1945, Biometrics 1:80).

    Pairs without a difference are dropped (scipy's `zero_method="wilcox"`). The null distribution is exact
    up to 50 pairs without ties and up to 13 with ties (all 2^n signs); beyond, the normal approximation
    corrected for ties and continuity. Differences that only rounding tells apart are ties.

    Args:
        a, b: finite numbers [n], a[i] and b[i] of the same seed.

    Raises:
        ValueError: lengths differ, no values, or values that are not finite.
    """
    first, second = _pairs(a, b)
    signed = _signed_magnitudes(first - second, _rounding(first, second))
    n = signed.size
    if n == 0:
        return SignedRank(1.0, 0, first.size, 1.0, "exact")
    ties = np.unique(np.abs(signed)).size < n
    exact = n <= (13 if ties else 50)
    # Said outright, for what "auto" and the default correction mean changed between scipy's versions.
    # "approx" is what 1.13 calls the normal approximation; later ones take the name too.
    method = "approx" if not exact else stats.PermutationMethod(n_resamples=np.inf) if ties else "exact"
    p = float(stats.wilcoxon(signed, zero_method="wilcox", correction=True, method=method).pvalue)
    return SignedRank(
        p, n, first.size, min(1.0, 2.0 ** (1 - n)), "exact" if exact else "normal approximation"
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for their number (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Controls the chance of one or more false alarms whatever the dependence: reject where adjusted <= alpha.

    Args:
        p_values: in [0, 1]; None = not tested, which stays None and does not count.

    Raises:
        ValueError: a p value is outside [0, 1] or NaN.
    """
    tested = [(p, place) for place, p in enumerate(p_values) if p is not None]
    if any(not 0 <= p <= 1 for p, _ in tested):
        raise ValueError(f"p values lie in [0, 1], got {list(p_values)}")
    adjusted: list[float | None] = [None] * len(p_values)
    reached = 0.0
    for rank, (p, place) in enumerate(sorted(tested)):
        reached = max(reached, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = reached
    return adjusted


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = finite(a), finite(b)
    if first.size != second.size:
        raise ValueError(f"pairs need equal lengths, got {first.size} and {second.size}")
    return first, second


def _rounding(first: Floats, second: Floats) -> float:
    """Return the difference that float64 rounding can make between values of this size."""
    largest = max(float(np.abs(first).max()), float(np.abs(second).max()))
    return _ROUNDING_STEPS * float(np.finfo(np.float64).eps) * largest


def _signed_magnitudes(differences: Floats, rounding: float) -> Floats:
    """Replace each non-zero difference by sign * place of its magnitude; equal magnitudes share a place."""
    kept = differences[np.abs(differences) > rounding]
    order = np.argsort(np.abs(kept))
    steps = np.diff(np.abs(kept)[order], prepend=0.0) > rounding
    places = np.empty(kept.size)
    places[order] = np.cumsum(steps)
    return np.sign(kept) * places


def _detectable_errors(df: float, *, alpha: float, power: float) -> float:
    """Return the smallest detectable difference in standard errors: the noncentrality that gives `power`."""
    check_share(alpha, "alpha")
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha={alpha:g} and 1, got {power!r}")
    critical = float(stats.t.isf(alpha / 2, df))
    # The noncentral t integrated over its normal part: scipy's nct gives NaN at large noncentralities.
    z = np.linspace(-9.0, 9.0, 721)
    weights = stats.norm.pdf(z) * (z[1] - z[0])

    def excess(noncentrality: float) -> float:
        scale = df * ((z + noncentrality) / critical) ** 2
        return float(weights @ stats.chi2.cdf(scale, df)) - power

    high = critical
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-10))
