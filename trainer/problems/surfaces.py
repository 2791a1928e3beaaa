"""Test functions of two variables, with their minima, start points and plot windows.

Shapes: `value(x, y)` takes and returns tensors of the same shape; all operations are differentiable.
Each function states its source; the constants are those of Surjanovic and Bingham, Virtual Library of
Simulation Experiments, https://www.sfu.ca/~ssurjano/optimization.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Surface:
    """A function of two variables to minimize.

    Args:
        value: f(x, y) >= 0, elementwise.
        difficulty: what makes it difficult, in a few words.
        minima: the global minima (x, y), where f is 0.
        start: start point of the optimizers.
        x, y: plot window, (low, high); contains the minima and the start.
    """

    value: Function
    difficulty: str
    minima: tuple[tuple[float, float], ...]
    start: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """Return (1 - x)^2 + 100 (y - x^2)^2. Rosenbrock, The Computer Journal 3, 1960."""
    return (1 - x).square() + 100 * (y - x.square()).square()


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Return (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2. Beale, 1958."""
    return (1.5 - x + x * y).square() + (2.25 - x + x * y**2).square() + (2.625 - x + x * y**3).square()


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    """Return (x^2 + y - 11)^2 + (x + y^2 - 7)^2. Himmelblau, Applied Nonlinear Programming, 1972."""
    return (x.square() + y - 11).square() + (x + y.square() - 7).square()


def rastrigin(x: Tensor, y: Tensor) -> Tensor:
    """Return 20 + x^2 + y^2 - 10 (cos 2 pi x + cos 2 pi y). Rastrigin, Systems of Extremal Control, 1974."""
    waves = (2 * math.pi * x).cos() + (2 * math.pi * y).cos()
    return 20 + x.square() + y.square() - 10 * waves


def booth(x: Tensor, y: Tensor) -> Tensor:
    """Return (x + 2y - 7)^2 + (2x + y - 5)^2."""
    return (x + 2 * y - 7).square() + (2 * x + y - 5).square()


def three_hump_camel(x: Tensor, y: Tensor) -> Tensor:
    """Return 2 x^2 - 1.05 x^4 + x^6 / 6 + xy + y^2."""
    return 2 * x.square() - 1.05 * x**4 + x**6 / 6 + x * y + y.square()


def quadratic(x: Tensor, y: Tensor) -> Tensor:
    """Return (x^2 + 100 y^2) / 2, whose curvature along y is 100 times that along x."""
    return 0.5 * (x.square() + 100 * y.square())


_HIMMELBLAU_MINIMA = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286170),
    (3.584428340330492, -1.848126526964404),
)

SURFACES: dict[str, Surface] = {
    "rosenbrock": Surface(
        rosenbrock, "a flat, curved valley", ((1.0, 1.0),), (-1.5, 2.0), (-2.0, 2.0), (-0.8, 3.0)
    ),
    "beale": Surface(
        beale, "a plateau with steep edges", ((3.0, 0.5),), (1.0, 1.5), (-1.0, 4.2), (-1.2, 2.4)
    ),
    "himmelblau": Surface(
        himmelblau, "four equal minima", _HIMMELBLAU_MINIMA, (0.0, -4.0), (-5.5, 5.5), (-5.5, 5.5)
    ),
    "rastrigin": Surface(
        rastrigin, "a local minimum in every cell", ((0.0, 0.0),), (2.6, -3.4), (-4.5, 4.5), (-4.5, 4.5)
    ),
    "booth": Surface(booth, "a narrow ellipse", ((1.0, 3.0),), (-6.0, -4.0), (-9.0, 9.0), (-7.5, 9.0)),
    "three_hump_camel": Surface(
        three_hump_camel,
        "two local minima beside the global one",
        ((0.0, 0.0),),
        (2.0, 1.8),
        (-2.6, 2.6),
        (-2.6, 2.6),
    ),
    "quadratic": Surface(
        quadratic, "condition number 100", ((0.0, 0.0),), (-8.0, 1.5), (-10.0, 6.0), (-3.0, 3.0)
    ),
}
"""The test functions by name."""
