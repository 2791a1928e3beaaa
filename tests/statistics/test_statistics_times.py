"""Times to a target: unreached targets count as infinity in every statistic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trainer.statistics import ecdf_of_times, performance_profile, summary_of_times, time_to_target

INF = math.inf


@pytest.mark.parametrize(
    ("values", "target", "mode", "expected"),
    [
        ([0.9, 0.5, 0.2, 0.3], 0.5, "min", 10),  # met exactly
        ([0.9, 0.5, 0.2, 0.3], 0.4, "min", 20),  # between records: not before it was measured
        ([0.9, 0.5, 0.2, 0.3], 0.1, "min", INF),
        (
            [0.1, 0.8, 0.7, 0.9],
            0.8,
            "max",
            10,
        ),  # the first crossing counts, even if followed by worse values
        ([None, math.nan, 0.8, None], 0.5, "max", 20),
        ([math.nan] * 4, 0.5, "min", INF),  # diverged
        ([0.9, 0.5, 0.2, INF], 0.95, "min", 0),
    ],
)
def test_time_to_target_is_the_first_record_that_meets_it(values, target, mode, expected):
    assert time_to_target([0, 10, 20, 30], values, target, mode) == expected


def test_a_run_without_records_never_reaches_the_target():
    assert time_to_target([], [], 0.5, "min") == INF


@pytest.mark.parametrize(
    ("steps", "target", "mode"),
    [([0, 1], 1.0, "min"), ([0, 2, 1], 1.0, "min"), ([0, 1, 2], math.nan, "min"), ([0, 1, 2], 1.0, "least")],
)
def test_time_to_target_refuses_invalid_arguments(steps, target, mode):
    with pytest.raises(ValueError, match=r"steps|mode"):
        time_to_target(steps, [1.0, 2.0, 3.0], target, mode)


def test_summary_counts_failures_as_infinite():
    actual = summary_of_times([10, 20, INF, 30, INF])
    assert (actual.n, actual.reached, actual.median, actual.low, actual.high) == (5, 3, 30, 20, INF)
    assert summary_of_times([INF, INF]).median == INF
    assert summary_of_times([1, INF]).median == INF  # half of them did not reach it
    assert summary_of_times([7]).low == 7


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_the_median_of_finite_times_is_numpys(times):
    assert summary_of_times(times).median == pytest.approx(float(np.median(times)))


def test_quantiles_are_numpys_averaged_inverse():
    times = np.random.default_rng(0).exponential(size=40)
    actual = summary_of_times(times, quantiles=(0.1, 0.83))
    assert_allclose(
        [actual.low, actual.high], np.quantile(times, [0.1, 0.83], method="averaged_inverted_cdf")
    )


def test_the_ecdf_ends_below_one_if_runs_failed():
    actual = ecdf_of_times([20, INF, 10, 20])
    assert actual.x.tolist() == [10, 20]
    assert actual.fraction.tolist() == [0.25, 0.75]
    assert actual.n == 4
    nobody = ecdf_of_times([INF, INF])
    assert (nobody.x.size, nobody.fraction.size, nobody.n) == (0, 0, 2)


@pytest.mark.parametrize("function", [summary_of_times, ecdf_of_times, performance_profile])
@pytest.mark.parametrize("times", [[], [math.nan, 1.0], [-1.0]])
def test_invalid_times_are_refused(function, times):
    with pytest.raises(ValueError, match="times"):
        function(times)


def test_performance_profile_of_a_hand_computed_case():
    # Problems down, solvers A and B across; ratios: 1 2 | 3 1 | 1 inf | inf inf
    actual = performance_profile([[10, 20], [9, 3], [5, INF], [INF, INF]])
    assert actual.tau.tolist() == [1, 2, 3]
    assert actual.rho.tolist() == [[0.5, 0.5, 0.75], [0.25, 0.5, 0.5]]
    assert actual.unsolved == 1


def test_performance_profile_of_ties_and_of_unsolved_problems():
    assert performance_profile([[4, 4]]).rho.tolist() == [[1], [1]]
    actual = performance_profile([[INF, INF]])
    assert (actual.tau.tolist(), actual.rho.tolist(), actual.unsolved) == ([1], [[0], [0]], 1)
    with pytest.raises(ValueError, match="before training"):
        performance_profile([[0, 4]])


@given(
    st.lists(
        st.lists(st.one_of(st.floats(1e-3, 1e6), st.just(INF)), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_performance_profile_equals_its_definition(times):
    actual = performance_profile(times)
    table = np.array(times)
    assert (np.diff(actual.rho, axis=1) >= 0).all()
    assert_allclose(actual.rho[:, -1], np.isfinite(table).mean(axis=0))  # the share of solved problems
    wins = (table == table.min(axis=1, keepdims=True)) & np.isfinite(table)
    assert (actual.rho[:, 0] >= wins.mean(axis=0) - 1e-12).all()
    assert (
        actual.rho[:, 0].sum() >= np.isfinite(table).any(axis=1).mean() - 1e-12
    )  # every solved problem has a winner


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_performance_profile_does_not_depend_on_the_unit(factor, seed):
    times = np.random.default_rng(seed).integers(1, 9, size=(5, 3)) * 1.0
    plain, scaled = performance_profile(times), performance_profile(times * 2.0 ** round(factor))
    assert_allclose(plain.rho, scaled.rho)
    assert_allclose(plain.tau, scaled.tau)
