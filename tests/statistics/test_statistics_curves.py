"""Curves on a common grid and bands over them, without interpolation or extrapolation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from trainer.statistics import band, bootstrap_interval, common_grid, mean_interval

NAN = math.nan


def test_every_recorded_x_is_kept_by_default():
    actual = common_grid([([0, 10, 20], [3.0, 2.0, 1.0]), ([5, 10], [9.0, 8.0])])
    assert actual.x.tolist() == [0, 5, 10, 20]
    assert_array_equal(actual.y, [[3, 3, 2, 1], [NAN, 9, 8, NAN]])


def test_an_even_grid_carries_the_last_record_forward_and_stops_at_the_end():
    actual = common_grid([([0, 3, 4], [1.0, 2.0, 3.0]), ([0, 2], [5.0, 6.0])], points=5)
    assert actual.x.tolist() == [0, 1, 2, 3, 4]
    assert_array_equal(actual.y, [[1, 1, 1, 2, 3], [5, 5, 6, NAN, NAN]])


def test_a_log_grid_starts_above_zero_and_includes_both_ends():
    actual = common_grid([([0, 3, 30, 300], [1.0, 2.0, 3.0, 4.0])], points=7, scale="log")
    assert (actual.x[0], actual.x[-1], actual.y[0, 0], actual.y[0, -1]) == (3, 300, 2, 4)
    assert_allclose(np.diff(np.log(actual.x)), math.log(100) / 6)


def test_the_last_of_equal_x_values_counts_and_an_empty_run_stays_empty():
    actual = common_grid([([1, 1, 2], [5.0, 6.0, 7.0]), ([], [])])
    assert_array_equal(actual.y, [[6, 7], [NAN, NAN]])


@pytest.mark.parametrize(
    ("series", "options"),
    [
        ([], {}),
        ([([], [])], {}),
        ([([0], [1.0])], {"scale": "log"}),
        ([([0, 1], [1.0])], {}),
        ([([1, 0], [1.0, 2.0])], {}),
        ([([0, 1], [1.0, 2.0])], {"points": 1}),
    ],
)
def test_invalid_grids_are_refused(series, options):
    with pytest.raises(ValueError, match=r"x value|equal length|points"):
        common_grid(series, **options)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(2, 50))
def test_grid_values_were_recorded_at_or_before_their_x(places, points):
    x = np.sort(np.array(places, dtype=float))
    actual = common_grid([(x, x)], points)  # the value is the place where it was recorded
    assert (actual.y[0] <= actual.x).all()
    assert np.isin(actual.y[0], x).all()
    assert actual.y[0, -1] == x[-1]


def test_each_kind_of_band_equals_its_definition():
    y = np.random.default_rng(0).normal(size=(6, 3))
    std = band(y)
    assert_allclose(std.centre, y.mean(axis=0))
    assert_allclose(std.high - std.centre, y.std(axis=0, ddof=1))
    extremes = band(y, centre="median", kind="min_max")
    assert_allclose([extremes.centre, extremes.low, extremes.high], [np.median(y, 0), y.min(0), y.max(0)])
    quantiles = band(y, kind="quantiles", quantiles=(0.1, 0.9))
    assert_allclose([quantiles.low, quantiles.high], np.quantile(y, [0.1, 0.9], axis=0))
    t, interval = band(y, kind="t"), mean_interval(y[:, 1])
    assert (t.low[1], t.high[1]) == (interval.low, interval.high)
    bootstrap = band(y, kind="bootstrap", centre="median")
    interval = bootstrap_interval(y[:, 2], statistic="median", resamples=999)
    assert (bootstrap.low[2], bootstrap.high[2]) == (interval.low, interval.high)


@pytest.mark.parametrize("kind", ["std", "t", "bootstrap"])
def test_bands_count_the_runs_with_a_value(kind):
    actual = band([[1.0, 2.0, NAN], [3.0, NAN, NAN], [5.0, math.inf, NAN]], kind=kind)
    assert actual.n.tolist() == [3, 1, 0]
    assert_array_equal(actual.centre, [3, 2, NAN])
    assert_array_equal(np.isnan(actual.low), [False, True, True])
    assert_array_equal(np.isnan(actual.high), [False, True, True])


def test_bands_refuse_invalid_arguments():
    with pytest.raises(ValueError, match="median"):
        band([[1.0]], centre="median", kind="t")
    with pytest.raises(ValueError, match="shape"):
        band([1.0, 2.0])


@pytest.mark.parametrize("kind", ["std", "min_max", "quantiles"])
@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("runs", [1, 2, 5, 9, 40])
def test_complete_points_are_those_of_single_points_bit_for_bit(kind, centre, runs):
    """Points where all runs have a value are computed together."""
    y = np.random.default_rng(0).normal(size=(runs, 50))
    whole = band(y, centre=centre, kind=kind)
    padded = np.vstack([y, np.full(50, np.nan)])  # no point is complete
    single = band(padded, centre=centre, kind=kind)
    for ours, theirs in ((whole.centre, single.centre), (whole.low, single.low), (whole.high, single.high)):
        np.testing.assert_array_equal(ours, theirs)
