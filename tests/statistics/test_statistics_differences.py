"""Differences and tests against R, published examples, closed forms and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from trainer.statistics import (
    bonferroni,
    minimum_detectable,
    paired_difference,
    welch_difference,
    wilcoxon,
)

# Student 1908, hours of extra sleep under two drugs: R's `sleep`.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

MEASURED = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))


def test_paired_t_is_that_of_r():
    # R: t.test(extra ~ group, sleep, paired = TRUE)
    actual = paired_difference(SLEEP_1, SLEEP_2)
    assert_allclose([actual.estimate, actual.low, actual.high], [-1.58, -2.4598858, -0.7001142], rtol=1e-6)
    assert actual.p == pytest.approx(0.002833, abs=5e-7)
    assert actual.effect_size == pytest.approx(-4.0621 / math.sqrt(10), abs=1e-5)  # d_z = t / sqrt(n)
    assert (actual.n, actual.method) == (10, "paired t")


def test_welch_is_that_of_r():
    # R: t.test(extra ~ group, sleep)
    actual = welch_difference(SLEEP_1, SLEEP_2)
    assert_allclose([actual.estimate, actual.low, actual.high], [-1.58, -3.3654832, 0.2054832], rtol=1e-6)
    assert actual.p == pytest.approx(0.07939, abs=5e-6)
    assert "unpaired" in actual.note


def test_hedges_g_is_its_definition():
    a, b = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0]
    actual = welch_difference(a, b)
    pooled = math.sqrt((3 * np.var(a, ddof=1) + 2 * np.var(b, ddof=1)) / 5)
    exact = math.gamma(2.5) / (math.sqrt(2.5) * math.gamma(2.0))
    assert actual.effect_size == pytest.approx(exact * (2.5 - 3.0) / pooled)
    assert exact == pytest.approx(1 - 3 / (4 * 5 - 1), abs=0.002)  # Hedges' own approximation
    assert (actual.n_a, actual.n_b, actual.n) == (4, 3, 3)


def test_welch_and_paired_detect_what_their_own_spread_allows():
    paired = paired_difference(SLEEP_1, SLEEP_2)
    sd = np.std(np.subtract(SLEEP_1, SLEEP_2), ddof=1)
    assert paired.minimum_detectable == pytest.approx(minimum_detectable(sd, 10))
    a = [1.0, 2.0, 3.0, 4.0, 5.0]
    welch = welch_difference(a, [value + 7 for value in a])  # equal n and spread: Welch's df is 2n - 2
    assert welch.minimum_detectable == pytest.approx(
        minimum_detectable(float(np.std(a, ddof=1)), 5, paired=False)
    )


def test_swapping_the_groups_changes_signs_only():
    for compare in (paired_difference, welch_difference):
        there, back = compare(SLEEP_1, SLEEP_2), compare(SLEEP_2, SLEEP_1)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert there.effect_size == pytest.approx(-back.effect_size)
        assert there.p == pytest.approx(back.p)


def test_bootstrap_difference_gives_an_interval_and_states_its_coverage():
    actual = paired_difference(SLEEP_1, SLEEP_2, method="bootstrap")
    assert actual.low < actual.estimate < actual.high < 0
    assert (actual.p, actual.p_adjusted, actual.minimum_detectable) == (None, None, None)
    assert "covers about 90% at n=10, not 95%" in actual.note
    wide = paired_difference(SLEEP_1, SLEEP_2, method="bootstrap", comparisons=3)
    assert wide.low < actual.low < actual.high < wide.high
    assert "covers about 95% at n=10, not 98.3%" in wide.note


@pytest.mark.parametrize("compare", [paired_difference, welch_difference])
def test_one_seed_gives_no_test(compare):
    actual = compare([0.98], [0.95])
    assert actual.estimate == pytest.approx(0.03)
    assert (actual.low, actual.high, actual.p, actual.effect_size, actual.minimum_detectable) == (None,) * 5
    assert actual.note == "one seed"


def test_differences_due_to_rounding_are_not_tested():
    a, b = [0.3, 0.4, 0.5], [0.2, 0.3, 0.4]
    assert np.ptp(np.subtract(a, b)) > 0  # which is why this matters
    actual = paired_difference(a, b)
    assert (actual.p, actual.low, actual.high, actual.excludes_zero) == (None,) * 4
    assert "equal" in actual.note
    assert paired_difference(a, a).p is None
    assert welch_difference([1.0, 1.0], [2.0, 2.0]).p is None


def test_pairs_need_equal_lengths_and_finite_values():
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="diverged"):
        welch_difference([1.0, math.nan], [1.0, 2.0])


@pytest.mark.parametrize(
    ("effect", "n", "power", "paired"),
    [
        # Cohen 1988 and G*Power: two groups of 64 for d = 0.5, 26 for 0.8; 34 pairs for d_z = 0.5
        (0.5, 64, 0.8015, False),
        (0.8, 26, 0.8075, False),
        (0.5, 34, 0.8078, True),
        (0.8, 15, 0.8213, True),
    ],
)
def test_minimum_detectable_agrees_with_published_power(effect, n, power, paired):
    assert minimum_detectable(1.0, n, power=power, paired=paired) == pytest.approx(effect, abs=5e-4)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_minimum_detectable_is_found_with_the_stated_power(n):
    effect = minimum_detectable(2.0, n, power=0.7)
    samples = np.random.default_rng(n).normal(effect, 2.0, size=(20_000, n))
    actual = np.count_nonzero(stats.ttest_1samp(samples, 0.0, axis=1).pvalue <= 0.05)
    assert actual / len(samples) == pytest.approx(0.7, abs=0.015)


@pytest.mark.parametrize(("df", "alpha"), [(4, 0.05), (9, 0.05), (30, 0.01), (100, 0.05)])
def test_power_agrees_with_the_noncentral_t(df, alpha):
    noncentrality = minimum_detectable(math.sqrt(df + 1), df + 1, alpha=alpha, power=0.8)
    critical = stats.t.isf(alpha / 2, df)
    power = stats.nct.sf(critical, df, noncentrality) + stats.nct.cdf(-critical, df, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_minimum_detectable_refuses_invalid_arguments():
    for arguments in ({"n": 1}, {"sd": -1.0}, {"power": 0.04}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match=r"n must be|power|alpha"):
            minimum_detectable(**({"sd": 1.0, "n": 5} | arguments))
    assert minimum_detectable(0.0, 5) == 0.0


def test_wilcoxon_is_that_of_hollander_and_wolfe():
    # R's ?wilcox.test, depression scale of nine patients: V = 40, one-sided p = 0.01953
    first = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    second = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    actual = wilcoxon(first, second)
    assert actual.p == pytest.approx(2 * 0.01953125)
    assert (actual.n, actual.pairs, actual.method, actual.smallest_possible_p) == (9, 9, "exact", 2 / 2**9)
    assert actual.verdict() is True


def test_wilcoxon_drops_pairs_without_difference():
    actual = wilcoxon(SLEEP_1, SLEEP_2)  # one zero, one tie, all others of one sign
    assert (actual.n, actual.pairs, actual.method) == (9, 10, "exact")
    assert actual.p == actual.smallest_possible_p == 2 / 2**9
    nothing = wilcoxon([1.0, 2.0], [1.0, 2.0])
    assert (nothing.p, nothing.n, nothing.verdict()) == (1.0, 0, None)


def test_five_pairs_cannot_be_significant():
    actual = wilcoxon([5, 6, 7, 8, 9], [1, 1, 1, 1, 1])
    assert actual.p == 0.0625
    assert not actual.can_reach()
    assert actual.verdict() is None
    assert "p is at least 0.0625" in actual.sentence()
    assert "0.05 needs 6" in actual.sentence()
    assert actual.verdict(0.1) is True
    assert wilcoxon([5, 6, 7, 8, 9, 10], [1] * 6).can_reach()


@pytest.mark.parametrize(
    "differences", [[1, 2, -3, 4, 5], [1, 1, -2, 2, 3, 3], [1, -1, 2, -2], [0, 0, 1, 1, -1, 4]]
)
def test_wilcoxon_is_exact_with_ties_and_zeros(differences):
    kept = np.array([difference for difference in differences if difference])
    ranks = stats.rankdata(np.abs(kept))
    every = [ranks @ np.array(signs) for signs in itertools.product((0, 1), repeat=kept.size)]
    middle, observed = ranks.sum() / 2, ranks @ (kept > 0)
    p = np.mean(np.abs(np.array(every) - middle) >= abs(observed - middle))
    assert wilcoxon(differences, np.zeros(len(differences))).p == pytest.approx(p)


def test_rounding_errors_do_not_change_signs_or_ranks():
    hundredths = np.array([97, 95, 93, 91, 90, 89])
    others = np.array([96, 94, 94, 89, 88, 89])
    exact, rounded = wilcoxon(hundredths, others), wilcoxon(hundredths / 100, others / 100)
    assert exact == rounded
    assert rounded.n == 5


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_wilcoxon_of_many_pairs_uses_the_normal_approximation(kind):
    rng = np.random.default_rng(4)
    differences = rng.normal(size=60) if kind == "untied" else rng.integers(-3, 4, size=40)
    actual = wilcoxon(differences, np.zeros(differences.size))
    kept = differences[differences != 0]
    n, ranks = kept.size, stats.rankdata(np.abs(kept))
    _, ties = np.unique(np.abs(kept), return_counts=True)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    distance = abs(ranks[kept > 0].sum() - n * (n + 1) / 4) - 0.5
    assert actual.method == "normal approximation"
    assert actual.p == pytest.approx(math.erfc(distance / math.sqrt(2 * variance)))


def test_bonferroni_multiplies_and_stops_at_one():
    assert bonferroni(0.01, 3) == pytest.approx(0.03)
    assert bonferroni(0.4, 3) == 1.0
    assert bonferroni(0.4, 1) == 0.4
    for p, comparisons in ((1.5, 1), (math.nan, 1), (0.5, 0)):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            bonferroni(p, comparisons)


def test_signed_ranks_of_a_family_need_more_pairs():
    actual = wilcoxon([5, 6, 7, 8, 9, 10], [1] * 6)
    assert actual.verdict(0.05, comparisons=1) is True
    assert actual.verdict(0.05, comparisons=3) is None
    assert "with 6 pairs that differ, adjusted p is at least 0.0938 (0.05 needs 7 pairs)" in actual.sentence(
        0.05, comparisons=3
    )


@given(
    st.lists(st.tuples(MEASURED, MEASURED), min_size=2, max_size=12),
)
def test_paired_difference_agrees_with_scipy_or_states_why_not(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    actual = paired_difference(a, b)
    if actual.p is None:
        assert "equal" in actual.note
    else:
        assert actual.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
        assert actual.low <= actual.estimate <= actual.high
        assert (actual.p <= 0.05) == (not actual.low <= 0 <= actual.high) or actual.p == pytest.approx(0.05)


def _alarms(test, size, *, scale=1.0, trials, seed):
    rng = np.random.default_rng(seed)
    return sum(test(rng.normal(size=size), rng.normal(scale=scale, size=size)) for _ in range(trials))


TESTS = {
    "paired t": (lambda a, b: paired_difference(a, b).p <= 0.05, 5, 0.05),
    "welch": (lambda a, b: welch_difference(a, b).p <= 0.05, 8, 0.05),
    # exact and discrete: of 2^8 sign patterns, those with p <= 0.05 make 10 / 256
    "wilcoxon": (lambda a, b: wilcoxon(a, b).p <= 0.05, 8, 10 / 256),
}


@pytest.mark.parametrize("name", TESTS)
def test_the_false_positive_rate_is_alpha(name):
    test, n, alpha = TESTS[name]
    alarms = _alarms(test, n, trials=600, seed=5)
    assert stats.binomtest(alarms, 600, alpha).pvalue > 0.001


@pytest.mark.nightly
@pytest.mark.parametrize("name", TESTS)
def test_the_false_positive_rate_is_alpha_nightly(name):
    test, n, alpha = TESTS[name]
    alarms = _alarms(test, n, trials=10_000, seed=6)
    assert stats.binomtest(alarms, 10_000, alpha).pvalue > 0.001


@pytest.mark.nightly
def test_welch_handles_unequal_variances():
    alarms = _alarms(TESTS["welch"][0], 8, scale=5.0, trials=10_000, seed=7)
    assert 0.04 <= alarms / 10_000 <= 0.06


@pytest.mark.nightly
@pytest.mark.parametrize("compare", [paired_difference, welch_difference])
def test_intervals_of_differences_have_their_nominal_coverage(compare):
    rng = np.random.default_rng(8)
    shared = rng.normal(size=(10_000, 6)) if compare is paired_difference else np.zeros((10_000, 6))
    actual = [compare(row + rng.normal(0.3, 1, 6), row + rng.normal(0, 1, 6)) for row in shared]
    covered = sum(each.low <= 0.3 <= each.high for each in actual)
    assert covered / len(actual) == pytest.approx(0.95, abs=0.01)
