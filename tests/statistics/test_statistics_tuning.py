"""Sensitivity and expected best of k against hand-made cases, closed forms and simulation."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from trainer.statistics import expected_best, mean_interval, sensitivity

NAN = math.nan


def test_sensitivity_finds_the_best_and_the_good_range():
    actual = sensitivity(
        {1.0: [0.5, 0.7], 0.1: [0.89, 0.91], 0.01: [0.88, 0.86], 0.001: [0.84, 0.80], 1e-4: [0.90, 0.84]},
        mode="max",
    )
    assert actual.settings == (1e-4, 0.001, 0.01, 0.1, 1.0)
    assert actual.centre == pytest.approx((0.87, 0.82, 0.87, 0.90, 0.60))
    assert (actual.best, actual.best_at_edge) == (0.1, False)
    # 5 % of 0.90: good from 0.855 on; 1e-4 is good too, but 0.001 lies between
    assert (actual.good_from, actual.good_to, actual.good_at_edge) == (0.01, 0.1, False)
    assert actual.width_decades == pytest.approx(1.0)
    interval = mean_interval([0.89, 0.91])
    assert (actual.low[3], actual.high[3]) == (interval.low, interval.high)


def test_the_best_on_the_edge_of_the_grid_is_flagged():
    losses = {0.01: [0.9], 0.1: [0.4], 1.0: [0.3]}
    actual = sensitivity(losses, mode="min", within=0.5)
    assert (actual.best, actual.best_at_edge, actual.good_at_edge) == (1.0, True, True)
    assert (actual.low[2], actual.high[2]) == (None, None)  # one seed
    assert actual.good_from == 0.1
    assert sensitivity({0.1: [0.4]}, mode="min").best_at_edge


def test_a_setting_with_a_diverged_run_is_never_best():
    actual = sensitivity({0.01: [0.5, 0.5], 0.1: [0.4, 0.4], 1.0: [0.1, NAN]}, mode="min", within=10.0)
    assert (actual.best, actual.best_at_edge) == (0.1, False)
    assert actual.centre[2] is None
    assert actual.diverged == (0, 0, 1)
    assert actual.n == (2, 2, 2)
    assert actual.good_to == 0.1


def test_when_everything_diverged_there_is_no_best():
    actual = sensitivity({0.1: [NAN], 1.0: [math.inf]}, mode="min")
    assert (actual.best, actual.best_at_edge, actual.good_from, actual.width_decades) == (
        None,
        False,
        None,
        None,
    )
    assert not actual.good_at_edge


def test_a_setting_of_zero_has_no_decades():
    actual = sensitivity({0.0: [0.5], 0.5: [0.4], 0.9: [0.6]}, mode="min")
    assert (actual.best, actual.width_decades) == (0.5, None)


def test_a_lowest_setting_of_zero_is_not_an_edge():
    actual = sensitivity({0.0: [0.3], 0.5: [0.4], 0.9: [0.6]}, mode="min", within=0.1)
    assert (actual.best, actual.best_at_edge, actual.good_at_edge) == (0.0, False, False)
    assert sensitivity({0.0: [0.3]}, mode="min").best_at_edge


def test_sensitivity_of_negative_values_still_calls_the_best_good():
    actual = sensitivity({0.1: [-2.0], 1.0: [-1.95], 10.0: [-1.0]}, mode="min")
    assert (actual.best, actual.good_from, actual.good_to) == (0.1, 0.1, 1.0)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({}, {}),
        ({0.1: []}, {}),
        ({NAN: [1.0]}, {}),
        ({0.1: [1.0]}, {"within": -1}),
        ({0.1: [1.0]}, {"mode": "x"}),
    ],
)
def test_sensitivity_refuses_invalid_arguments(values, options):
    with pytest.raises(ValueError, match=r"expected|within|mode"):
        sensitivity(values, **({"mode": "min"} | options))


def test_expected_best_is_the_mean_over_all_draws():
    values = [0.2, 0.9, 0.5, 0.9]
    actual = expected_best(values, [1, 2, 3, 4], mode="max")
    for place, k in enumerate(actual.budgets):
        every = [max(draw) for draw in itertools.product(values, repeat=k)]
        assert actual.mean[place] == pytest.approx(np.mean(every))
        assert actual.sd[place] == pytest.approx(np.std(every))
    least = expected_best(values, [2], mode="min")
    assert least.mean[0] == pytest.approx(
        np.mean([min(draw) for draw in itertools.product(values, repeat=2)])
    )


def test_expected_best_of_one_is_the_mean_and_grows_with_the_budget():
    values = np.random.default_rng(0).uniform(size=30)
    actual = expected_best(values, list(range(1, 31)), mode="max")
    assert actual.mean[0] == pytest.approx(values.mean())
    assert (np.diff(actual.mean) > 0).all()
    assert (actual.low <= actual.mean).all()
    assert (actual.mean[:10] <= actual.high[:10]).all()
    assert actual.mean[-1] < values.max()


def test_expected_best_is_mirrored_between_modes():
    values = np.random.default_rng(1).normal(size=20)
    low, high = expected_best(values, [1, 5], mode="min"), expected_best(-values, [1, 5], mode="max")
    assert_allclose(low.mean, -high.mean)
    assert (low.low < low.mean).all()
    assert (low.mean < low.high).all()


def test_expected_best_approaches_the_closed_form_for_uniform_trials():
    values = np.random.default_rng(2).uniform(size=20_000)
    actual = expected_best(values, [1, 3, 9], mode="max", resamples=20)
    assert_allclose(actual.mean, [1 / 2, 3 / 4, 9 / 10], atol=0.005)  # k / (k + 1)


@pytest.mark.parametrize("budgets", [[], [0], [4]])
def test_budgets_beyond_the_trials_are_refused(budgets):
    with pytest.raises(ValueError, match="budgets"):
        expected_best([1.0, 2.0, 3.0], budgets, mode="max")


def test_a_diverged_trial_needs_a_value():
    with pytest.raises(ValueError, match="diverged"):
        expected_best([1.0, NAN], [1], mode="max")


@pytest.mark.nightly
def test_expected_best_has_its_nominal_coverage_if_k_is_far_below_n():
    rng, budgets = np.random.default_rng(3), [1, 4]
    actual = [
        expected_best(rng.uniform(size=50), budgets, mode="max", resamples=500, seed=trial)
        for trial in range(2000)
    ]
    truth = np.array([1 / 2, 4 / 5])
    covered = np.mean([(each.low <= truth) & (truth <= each.high) for each in actual], axis=0)
    assert (covered > 0.9).all()
    assert (covered < 0.97).all()
