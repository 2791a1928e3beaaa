"""Curves of several runs on one grid, and bands over them. Smoothing and drawing are in `plots`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from trainer.statistics.intervals import (
    Floats,
    Statistic,
    bootstrap_interval,
    check_share,
    mean_interval,
)

BandKind = Literal["std", "min_max", "quantiles", "t", "bootstrap"]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Curves on a common grid.

    Args:
        x: increasing grid points [points].
        y: value of each run there [runs, points]; NaN before its first and after its last record.
    """

    x: Floats
    y: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Centre and band over runs at each grid point; NaN where there are too few values.

    Args:
        centre: mean or median [points].
        low, high: ends of the band [points].
        n: number of runs with a finite value there [points]; where it is less than the number of runs, the
            others ended or diverged, and the centre covers the remaining runs only: mark it or stop there.
    """

    centre: Floats
    low: Floats
    high: Floats
    n: np.ndarray[tuple[int], np.dtype[np.int64]]


def common_grid(
    series: Sequence[tuple[ArrayLike, ArrayLike]],
    points: int | None = None,
    *,
    scale: Literal["linear", "log"] = "linear",
) -> Grid:
    """Put runs of different length and spacing on one grid, as step functions.

    At each grid point a run has its last recorded value, and never a later one. Outside the range of its
    records it has NaN, so the curve of a run that ended is not extended.

    Args:
        series: x values (not decreasing; of equal ones the last counts) and y values of each run.
        points: size of the grid over the range of all runs, >= 2; None = every recorded x value.
        scale: even spacing in x or in log x (then from the first x above 0).

    Raises:
        ValueError: no x values, x and y of unequal length, x values that decrease or are not finite, or fewer
            than two points.
    """
    runs = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in series]
    for x, y in runs:
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"x {x.shape} and y {y.shape} must be one-dimensional and of equal length")
        if not (np.isfinite(x).all() and (np.diff(x) >= 0).all()):
            raise ValueError("x values must be finite and not decrease")
    positions = np.unique(np.concatenate([np.empty(0), *(x for x, _ in runs)]))
    if scale == "log":
        positions = positions[positions > 0]
    if positions.size == 0:
        raise ValueError("no run has an x value on this axis")
    grid = positions if points is None else _even_grid(positions[0], positions[-1], points, scale)
    y = np.full((len(runs), grid.size), np.nan)
    for row, (x, values) in zip(y, runs, strict=True):
        if x.size:
            inside = (grid >= x[0]) & (grid <= x[-1])
            row[inside] = values[np.searchsorted(x, grid[inside], side="right") - 1]
    return Grid(grid, y)


def band(
    y: ArrayLike,
    *,
    centre: Statistic = "mean",
    kind: BandKind = "std",
    quantiles: tuple[float, float] = (0.25, 0.75),
    confidence: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
) -> Band:
    """Return the centre and a band over runs at each point of a grid.

    `std` (centre +- one standard deviation), `min_max` and `quantiles` show the spread of runs. `t` (of the
    mean) and `bootstrap` (percentile, of the centre) are pointwise intervals of the centre.

    Args:
        y: [runs, points], NaN or infinite = no value there.
        centre: `mean` or `median`.
        kind: kind of band; `t` requires the mean.
        quantiles: for `quantiles`, each in (0, 1).
        confidence: for `t` and `bootstrap`, in (0, 1).
        resamples, seed: for `bootstrap`; the same resampling seed is used at all points.

    Raises:
        ValueError: y is not two-dimensional, or `t` with a median.
    """
    matrix = np.asarray(y, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"expected values [runs, points], got an array of shape {matrix.shape}")
    if kind == "t" and centre == "median":
        raise ValueError("a Student t band requires the mean; use kind='bootstrap' for a median")
    check_share(confidence, "confidence")
    for quantile in quantiles:
        check_share(quantile, "quantiles")
    middle: Callable[[Floats], float] = np.mean if centre == "mean" else np.median

    def ends(column: Floats) -> tuple[float | None, float | None]:
        match kind:
            case "std":
                sd = float(column.std(ddof=1)) if column.size > 1 else np.nan
                return middle(column) - sd, middle(column) + sd
            case "min_max":
                return column.min(), column.max()
            case "quantiles":
                low, high = np.quantile(column, quantiles)
                return low, high
            case "t":
                interval = mean_interval(column, confidence=confidence)
            case "bootstrap":
                interval = bootstrap_interval(
                    column, statistic=centre, confidence=confidence, resamples=resamples, seed=seed
                )
        return interval.low, interval.high

    is_finite = np.isfinite(matrix)
    out = np.full((3, matrix.shape[1]), np.nan)
    complete = is_finite.all(axis=0) & (kind in ("std", "min_max", "quantiles"))
    if complete.any():
        out[:, complete] = _spread(np.ascontiguousarray(matrix[:, complete].T), centre, kind, quantiles)
    for column_index in np.flatnonzero(is_finite.any(axis=0) & ~complete):
        column = matrix[is_finite[:, column_index], column_index]
        out[:, column_index] = np.array([middle(column), *ends(column)], dtype=np.float64)  # None becomes NaN
    return Band(out[0], out[1], out[2], is_finite.sum(axis=0))


def _spread(rows: Floats, centre: Statistic, kind: BandKind, quantiles: tuple[float, float]) -> Floats:
    """Return centre, low and high [3, points] of finite values [points, runs], as for every point alone."""
    middle = np.mean(rows, axis=1) if centre == "mean" else np.median(rows, axis=1)
    if kind == "min_max":
        return np.stack([middle, rows.min(axis=1), rows.max(axis=1)])
    if kind == "quantiles":
        return np.stack([middle, *np.quantile(rows, quantiles, axis=1)])
    sd = rows.std(axis=1, ddof=1) if rows.shape[1] > 1 else np.full(len(rows), np.nan)
    return np.stack([middle, middle - sd, middle + sd])


def _even_grid(first: float, last: float, points: int, scale: Literal["linear", "log"]) -> Floats:
    if points < 2:
        raise ValueError(f"a grid needs two or more points, got {points}")
    even = np.linspace(first, last, points) if scale == "linear" else np.geomspace(first, last, points)
    even[0], even[-1] = first, last  # geomspace can miss its ends by rounding and drop the last record
    return even
