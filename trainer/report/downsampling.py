"""Selects the rows of a table that are drawn, so that a page of many runs stays small."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
    edges = np.linspace(0, rows, intervals + 1).astype(np.intp)
    kept = {0, rows - 1}
    for column in columns:
        finite = np.isfinite(column)
        kept.update(np.flatnonzero(np.isinf(column)).tolist())
        low, high = np.where(finite, column, np.inf), np.where(finite, column, -np.inf)
        for start, end in pairwise(edges):
            if finite[start:end].any():
                kept.add(int(start + low[start:end].argmin()))
                kept.add(int(start + high[start:end].argmax()))
    return np.array(sorted(kept), dtype=np.intp)
