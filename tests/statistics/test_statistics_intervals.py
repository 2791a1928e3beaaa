"""Intervals against R, closed forms and simulation."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from trainer.statistics import bootstrap_interval, mean_interval, stated_coverage

SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]


def test_mean_interval_is_that_of_r():
    # R: t.test(sleep$extra[1:10])
    actual = mean_interval(SLEEP_1)
    assert_allclose([actual.estimate, actual.low, actual.high], [0.75, -0.5297804, 2.0297804], rtol=1e-6)
    assert (actual.n, actual.method, actual.note) == (10, "Student t", "")


def test_mean_interval_of_two_values_is_the_closed_form():
    # t with one degree of freedom is Cauchy: its quantile is tan(pi * (p - 1/2)).
    actual = mean_interval([1.0, 3.0], confidence=0.9)
    half = math.tan(math.pi * 0.45)
    assert_allclose([actual.low, actual.high], [2 - half, 2 + half])


@pytest.mark.parametrize("make", [mean_interval, bootstrap_interval])
def test_one_seed_has_no_interval(make):
    actual = make([0.9])
    assert (actual.estimate, actual.low, actual.high, actual.n, actual.note) == (
        0.9,
        None,
        None,
        1,
        "one seed",
    )


@pytest.mark.parametrize("make", [mean_interval, bootstrap_interval])
def test_equal_values_are_noted(make):
    actual = make([0.5, 0.5, 0.5])
    assert (actual.low, actual.high) == (0.5, 0.5)
    assert "equal" in actual.note


@pytest.mark.parametrize("make", [mean_interval, bootstrap_interval])
@pytest.mark.parametrize(
    ("values", "message"),
    [([], "one or more"), ([1.0, math.nan], "1 of 2"), ([math.inf, 1.0], "diverged"), ([[1.0]], "shape")],
)
def test_values_that_cannot_be_averaged_are_refused(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_must_be_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=confidence)


def test_percentile_interval_is_the_exact_one_where_all_resamples_can_be_listed():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    every = np.array(np.meshgrid(*[values] * 4)).reshape(4, -1).mean(axis=0)  # all 4^4 resamples
    actual = bootstrap_interval(values, resamples=20_000)
    assert_allclose([actual.low, actual.high], np.quantile(every, [0.025, 0.975]), atol=0.3)
    assert "percentile" in actual.method


def test_the_bootstrap_of_many_values_approaches_the_t_interval():
    values = np.random.default_rng(1).normal(size=400)
    t = mean_interval(values)
    for method in ("percentile", "bca"):
        actual = bootstrap_interval(values, method=method, resamples=2000)
        assert_allclose([actual.low, actual.high], [t.low, t.high], atol=0.02)


def test_bca_corrects_for_skewness():
    values = np.random.default_rng(2).lognormal(size=40)
    percentile, bca = (bootstrap_interval(values, method=method) for method in ("percentile", "bca"))
    assert bca.low > percentile.low
    assert bca.high > percentile.high


def test_the_median_interval_is_within_the_values_and_bca_is_refused():
    values = [3.0, 1.0, 2.0, 9.0, 4.0]
    actual = bootstrap_interval(values, statistic="median")
    assert actual.estimate == 3.0
    assert 1.0 <= actual.low <= 3.0 <= actual.high <= 9.0
    with pytest.raises(ValueError, match="median"):
        bootstrap_interval(values, statistic="median", method="bca")


def test_the_bootstrap_depends_only_on_its_seed():
    first, again, other = (bootstrap_interval(SLEEP_1, resamples=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_under_coverage_is_stated():
    assert "84%" in bootstrap_interval(SLEEP_1[:5]).note
    assert "less than 90%" in bootstrap_interval(SLEEP_1, confidence=0.9).note
    shares = [stated_coverage(n) for n in (2, 3, 5, 10, 20, 30)]
    assert shares == sorted(shares)
    assert stated_coverage(2) == pytest.approx(0.5, abs=0.01)  # two values: the interval is their range
    assert stated_coverage(3) == pytest.approx(0.75, abs=0.01)  # three: the range again, 1 - 2 / 2^3
    assert stated_coverage(12) == stated_coverage(10)
    assert stated_coverage(1000) == stated_coverage(50)
    with pytest.raises(ValueError, match="at least 2"):
        stated_coverage(1)


def test_the_t_interval_has_its_nominal_coverage():
    samples = np.random.default_rng(3).normal(size=(2000, 5))
    intervals = [mean_interval(row, confidence=0.9) for row in samples]
    covered = sum(actual.low <= 0 <= actual.high for actual in intervals)
    assert stats.binomtest(covered, len(samples), 0.9).pvalue > 0.001


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("statistic", "n"), [("mean", 3), ("mean", 5), ("mean", 10), ("mean", 20), ("median", 5)]
)
def test_the_bootstrap_has_the_stated_coverage(statistic, n):
    samples = np.random.default_rng(n).normal(size=(4000, n))
    intervals = [
        bootstrap_interval(row, statistic=statistic, resamples=1000, seed=index)
        for index, row in enumerate(samples)
    ]
    covered = sum(actual.low <= 0 <= actual.high for actual in intervals) / len(samples)
    assert covered == pytest.approx(stated_coverage(n, statistic=statistic), abs=0.02)


@pytest.mark.nightly
@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_t_interval_has_its_nominal_coverage_nightly(n, confidence):
    samples = np.random.default_rng(n).normal(size=(20_000, n))
    intervals = [mean_interval(row, confidence=confidence) for row in samples]
    covered = sum(actual.low <= 0 <= actual.high for actual in intervals)
    assert stats.binomtest(covered, len(samples), confidence).pvalue > 0.001


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 50])
def test_stated_coverage_grows_with_the_confidence_up_to_its_maximum(n):
    stated = [stated_coverage(n, confidence=confidence) for confidence in (0.95, 0.98, 1 - 0.05 / 6, 0.999)]
    assert stated == sorted(stated)
    assert stated[-1] <= 1 - 2.0 ** (1 - n)  # no interval ends outside the values
    for wrong in ({"confidence": 0.9}, {"confidence": 0.99, "statistic": "median"}):
        with pytest.raises(ValueError, match="not measured"):
            stated_coverage(n, **wrong)


@pytest.mark.nightly
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("comparisons", [3, 10])
def test_the_bootstrap_has_the_stated_coverage_at_higher_confidence(n, comparisons):
    samples, confidence = np.random.default_rng(n).normal(size=(3000, n)), 1 - 0.05 / comparisons
    intervals = [
        bootstrap_interval(row, confidence=confidence, resamples=4000, seed=index)
        for index, row in enumerate(samples)
    ]
    covered = sum(actual.low <= 0 <= actual.high for actual in intervals) / len(samples)
    assert covered == pytest.approx(stated_coverage(n, confidence=confidence), abs=0.02)
