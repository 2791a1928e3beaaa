"""Axes of a sweep: their values, invalid definitions, and their edges."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.errors import ConfigError
from trainer.sweep.space import edge, grid, parse_axis


def test_a_grid_has_every_combination_with_the_last_axis_fastest() -> None:
    axes = [parse_axis("a", [1, 2]), parse_axis("b", ["x", "y"])]
    assert list(grid(axes)) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert list(grid([])) == [{}]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [0.1, 0.2, 0.1],
        0.1,
        {"log_uniform": [0, 1]},
        {"log_uniform": [1e-3]},
        {"uniform": [1, 1]},
        {"uniform": [2, 1]},
        {"uniform": ["a", 1]},
        {"uniform": [0, float("inf")]},
        {"int": [0.5, 3]},
        {"choice": []},
        {"normal": [0, 1]},
        {"uniform": [0, 1], "int": [0, 1]},
        {},
        None,
    ],
)
def test_invalid_axes_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        parse_axis("optimizer.lr", value)


@pytest.mark.parametrize(
    ("axis", "best", "side"),
    [
        ([0.1, 0.01, 1.0], 1.0, "above"),
        ([0.1, 0.01, 1.0], 0.01, "below"),
        ([0.1, 0.01, 1.0], 0.1, None),
        ([0.1], 0.1, None),
        (["SGD", "Adam"], "Adam", None),
        ({"choice": [1, 2, 3]}, 3, None),
        ({"log_uniform": [1e-4, 1]}, 1.2e-4, "below"),
        ({"log_uniform": [1e-4, 1]}, 1e-2, None),
        ({"uniform": [0, 10]}, 9.8, "above"),
        ({"int": [1, 100]}, 1, "below"),
        ([0, 1e-4, 1e-3], 0, None),
        ([0, 1e-4, 1e-3], 1e-3, "above"),
    ],
)
def test_a_best_value_on_the_edge_of_its_axis_is_reported(axis: Any, best: Any, side: str | None) -> None:
    advice = edge(parse_axis("optimizer.lr", axis), best)
    assert advice is None if side is None else advice is not None and side in advice
