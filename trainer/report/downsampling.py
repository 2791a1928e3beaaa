"""Selects the rows of a table that are drawn, so that a page of many runs stays small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def kept_rows(columns: Sequence[NDArray[np.float64]], limit: int) -> NDArray[np.intp]:
    """Return the indices of the rows to draw, increasing.

    The rows are divided into successive intervals of equal length. In every interval the rows of the smallest
    and the largest value of each column are kept, so that no spike is lost. The first and the last row and
    rows with a value that is not finite (a divergence) are kept too.

    Args:
        columns: values [rows] of every column that is drawn; NaN where a cell is empty.
        limit: about this many rows are kept, at least 4; tables with no more rows are kept whole.
    """
    rows = max((len(column) for column in columns), default=0)
    if rows <= limit:
        return np.arange(rows)
    intervals = max(1, limit // (2 * len(columns)))
    width = -(-rows // intervals)
    starts = width * np.arange(intervals)
    kept = [np.array([0, rows - 1])]
    for column in columns:
        kept.append(np.flatnonzero(np.isinf(column)))
        for sign in (1, -1):
            values = np.full(intervals * width, np.inf)
            values[:rows] = np.where(np.isfinite(column), sign * column, np.inf)
            blocks = values.reshape(intervals, width)
            kept.append((starts + blocks.argmin(axis=1))[np.isfinite(blocks).any(axis=1)])
    return np.unique(np.concatenate(kept)).astype(np.intp)
