"""Intervals, adjusted p values and detectable differences of a family agree and have the stated error rates.

The simulations use several groups on the same seeds, so that pairs share seeds and groups. The formulas are
vectorized over thousands of families, and checked against the code.
"""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainer.statistics import (
    bonferroni,
    individual_confidence,
    minimum_detectable,
    paired_difference,
    welch_difference,
)

ALPHA = 0.05
MEASURED = st.floats(-1, 1).map(lambda value: round(value, 4))
DESIGNS = [(groups, n) for groups in (3, 5) for n in (3, 5, 10)]
NOISE = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def simulate(rng, families, means, n, noise="normal", spreads=1.0):
    """Return results [families, groups, n]: a seed effect shared by the groups, plus noise per run."""
    size = (families, len(means), n)
    luck = 3 * rng.normal(size=(families, 1, n))
    return luck + np.asarray(means)[:, None] + np.reshape(spreads, (-1, 1)) * NOISE[noise](rng, size)


def pairs_of(means):
    return list(combinations(range(len(means)), 2))


def intervals(values):
    """Return centres and half-widths [families, pairs] of all pairs, as in `paired_difference`."""
    pairs = pairs_of(values[0])
    differences = np.stack([values[:, a] - values[:, b] for a, b in pairs], axis=1)
    n = differences.shape[-1]
    t = stats.t.isf((1 - individual_confidence(1 - ALPHA, len(pairs))) / 2, n - 1)
    return differences.mean(axis=-1), t * differences.std(axis=-1, ddof=1) / np.sqrt(n)


def rates(values, means):
    """Return the shares of families with a false positive, and with all true values in the intervals."""
    truth = np.array([means[a] - means[b] for a, b in pairs_of(means)])
    centre, half = intervals(values)
    false = (np.abs(centre) > half)[:, truth == 0]
    return false.any(axis=1).mean(), (np.abs(centre - truth) <= half).all(axis=1).mean()


def margin(share, count, deviations=4):
    """Return how far a simulated share can differ from the true one by chance."""
    return deviations * np.sqrt(share * (1 - share) / count)


def partial(groups):
    """Means that are equal except for the last."""
    return [0.0] * (groups - 1) + [2.0]


def test_the_vectorized_formulas_equal_those_of_the_package():
    rng = np.random.default_rng(0)
    values = simulate(rng, 5, [0, 0.5, 1], 6)
    centre, half = intervals(values)
    for family, row in enumerate(values):
        for place, (a, b) in enumerate(pairs_of(row)):
            actual = paired_difference(row[a], row[b], comparisons=3)
            assert actual.estimate == pytest.approx(centre[family, place])
            assert actual.high - actual.low == pytest.approx(2 * half[family, place])
            assert actual.p_adjusted == pytest.approx(bonferroni(stats.ttest_rel(row[a], row[b]).pvalue, 3))
            assert actual.interval_confidence == pytest.approx(1 - ALPHA / 3)


@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_a_family_has_the_stated_error_and_coverage(groups, n):
    rng, families = np.random.default_rng(groups * n), 5000
    for noise in NOISE:
        for means in ([0.0] * groups, partial(groups)):
            error, coverage = rates(simulate(rng, families, means, n, noise), means)
            assert error <= ALPHA + margin(ALPHA, families)
            assert coverage >= 1 - ALPHA - margin(ALPHA, families)


@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_the_detectable_difference_is_found_with_the_stated_power(groups, n):
    comparisons, families = groups * (groups - 1) // 2, 5000
    effect = minimum_detectable(np.sqrt(2), n, alpha=ALPHA / comparisons)  # two runs' noise of 1 each
    means = [effect] + [0.0] * (groups - 1)
    centre, half = intervals(simulate(np.random.default_rng(n), families, means, n))
    actual = np.abs(centre[:, 0]) > half[:, 0]
    assert actual.mean() == pytest.approx(0.8, abs=margin(0.8, families))


@given(
    st.integers(2, 12).flatmap(lambda n: st.lists(MEASURED, min_size=2 * n, max_size=2 * n)),
    st.integers(1, 200),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_excludes_zero_if_and_only_if_the_adjusted_p_is_at_most_alpha(
    values, comparisons, confidence
):
    half = len(values) // 2
    for compare in (paired_difference, welch_difference):
        actual = compare(values[:half], values[half:], confidence=confidence, comparisons=comparisons)
        if actual.p is None:
            assert actual.excludes_zero is None
            continue
        alpha = 1 - confidence
        assert actual.excludes_zero == (actual.p_adjusted <= alpha) or actual.p_adjusted == pytest.approx(
            alpha
        )
        assert actual.p <= actual.p_adjusted


def test_a_larger_family_has_wider_intervals():
    alone = paired_difference([1, 2, 3, 5], [0, 0.5, 3, 2])
    together = paired_difference([1, 2, 3, 5], [0, 0.5, 3, 2], comparisons=6)
    assert together.low < alone.low < alone.high < together.high
    assert (together.p, together.p_adjusted) == (alone.p, pytest.approx(6 * alone.p))
    assert together.minimum_detectable > alone.minimum_detectable
    for wrong in ({"comparisons": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match=r"comparisons|confidence"):
            paired_difference([1, 2], [3, 5], **wrong)


@pytest.mark.nightly
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_a_family_has_the_stated_error_and_coverage_nightly(groups, n, noise, record_property):
    rng, families = np.random.default_rng(groups + n), 200_000
    for name, means in {"all equal": [0.0] * groups, "one differs": partial(groups)}.items():
        error, coverage = rates(simulate(rng, families, means, n, noise), means)
        record_property(name, f"error {error:.4f}, coverage {coverage:.4f}")
        assert error <= ALPHA + margin(ALPHA, families)
        assert coverage >= 1 - ALPHA - margin(ALPHA, families)


@pytest.mark.nightly
@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_unequal_spreads_of_normal_noise_keep_the_error_rate(groups, n):
    """Check the docstring's reason against a common spread for all groups; 100,000 families."""
    rng, families, spreads = np.random.default_rng(groups * n), 100_000, [3.0, 3.0] + [0.3] * (groups - 2)
    for means in ([0.0] * groups, [0.0, 0.0] + [5.0 + 2 * place for place in range(groups - 2)]):
        error, coverage = rates(simulate(rng, families, means, n, spreads=spreads), means)
        assert error <= ALPHA + margin(ALPHA, families)
        assert coverage >= 1 - ALPHA - margin(ALPHA, families)


@pytest.mark.nightly
@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_skewed_noise_of_unequal_spread_has_the_error_stated_in_the_docstring(groups, n):
    rng, families, spreads = np.random.default_rng(n), 100_000, [3.0, 3.0] + [0.3] * (groups - 2)
    error, _ = rates(simulate(rng, families, [0.0] * groups, n, "skewed", spreads), [0.0] * groups)
    assert 0.07 <= error <= 0.14


@pytest.mark.nightly
@pytest.mark.parametrize(("groups", "n"), DESIGNS)
def test_the_detectable_difference_is_found_with_the_stated_power_nightly(groups, n):
    comparisons, families = groups * (groups - 1) // 2, 200_000
    effect = minimum_detectable(np.sqrt(2), n, alpha=ALPHA / comparisons)
    means = [effect] + [0.0] * (groups - 1)
    centre, half = intervals(simulate(np.random.default_rng(n), families, means, n))
    actual = np.abs(centre[:, 0]) > half[:, 0]
    assert actual.mean() == pytest.approx(0.8, abs=margin(0.8, families))
