"""Compare a compiled step with an eager step: they agree if rounding explains their differences.

Works on named values; models and programs are handled elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

EXACT, ROUGH = 1e-3, 5e-2
"""Relative tolerances, as a share of the largest element: of values that agree, and of rounded gradients.

All values of the forward pass must agree within EXACT. Gradients need not: rounding occasionally makes a ReLU
or a maximum select another element, which changes whole gradients in the backward pass by up to 2 % (seen in
every step of a residual network with batch norm; 7 % in a wide one). If rounding changes eager gradients as
much, a value may differ by up to twice ROUGH in one step and by up to ten times EXACT in every step.
"""

_NOISE = 1e-5
_MIN_STEPS = 3
_TWICE = 2.0  # rounding differs by chance between two steps


@dataclass(frozen=True, slots=True)
class Evidence:
    """A value after a step, copied in float64.

    Attributes:
        kind: values of the same kind have the same unit.
        value: the copy.
        limit: relative tolerance in one step, as a share of the largest element.
        rounding: absolute tolerance per element, for the rounding of the inputs it is computed from.
    """

    kind: str
    value: Tensor
    limit: float
    rounding: float = 0.0

    @classmethod
    def of(cls, kind: str, value: Tensor, *, limit: float, rounding: float = 0.0) -> Evidence:
        """Copy a tensor."""
        return cls(kind, value.detach().to(torch.float64, copy=True), limit, rounding)


@dataclass(slots=True)
class Agreement:
    """Compares steps of two engines, one step at a time.

    Args:
        bound: largest relative difference of a gradient in one step, independent of the measured rounding.
        single: whether only one step is compared. The effect of rounding is then measured only if needed.
    """

    bound: float = 2 * ROUGH
    single: bool = False
    _steps: int = 0
    _least: dict[str, float] = field(default_factory=dict)  # smallest difference of each value so far
    _least_moved: dict[str, float] = field(default_factory=dict)  # smallest difference that rounding makes
    _most_moved: float = 0.0  # largest difference that rounding made in any value

    def compare(
        self,
        actual: Mapping[str, Evidence],
        expected: Mapping[str, Evidence],
        moved: Callable[[], Mapping[str, Evidence]],
    ) -> str | None:
        """Compare one step; return a description of the largest difference beyond tolerance, or None.

        Args:
            actual: values of the step that is checked.
            expected: values of the eager step.
            moved: returns values of the eager step with inputs perturbed as much as rounding changes a
                forward pass.
        """
        self._steps += 1
        shares = _shares(actual, expected)
        self._least = _smaller(self._least, shares)
        if self.single and all(share <= expected[name].limit for name, share in shares.items()):
            return None
        by_rounding = _by_rounding(moved(), expected)
        self._least_moved = _smaller(self._least_moved, by_rounding)
        self._most_moved = max(self._most_moved, *by_rounding.values())
        beyond = [name for name, share in shares.items() if share > self._limit(expected[name])]
        worst = max(beyond, key=lambda name: shares[name], default=None)
        return worst and f"in step {self._steps} {worst} differs from eager's by {shares[worst]:.2g} of it"

    def _limit(self, evidence: Evidence) -> float:
        if evidence.limit <= EXACT:
            return evidence.limit
        return min(max(evidence.limit, _TWICE * self._most_moved), self.bound)

    def is_sure(self) -> bool:
        """Return whether enough steps were compared and each value agreed in at least one of them."""
        return self._steps >= _MIN_STEPS and max(self._least.values()) <= EXACT

    def never_agreed(self) -> str | None:
        """Return a description of a value that differed in every step; None if there is none.

        In a deep network, rounding changes some ReLU in every step. Then a value agrees if it differs by
        about as much as the eager value does with perturbed inputs.
        """
        moved = {name: _TWICE * share for name, share in self._least_moved.items()}
        bounds = {name: min(max(EXACT, share), 10 * EXACT) for name, share in moved.items()}
        beyond = [name for name, share in self._least.items() if share > bounds[name]]
        if not beyond:
            return None
        worst = max(beyond, key=lambda name: self._least[name])
        return f"in every step {worst} differs from eager's, by {self._least[worst]:.2g} of it at least"


def _smaller(former: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    return {name: min(share, former.get(name, share)) for name, share in shares.items()}


def _by_rounding(moved: Mapping[str, Evidence], expected: Mapping[str, Evidence]) -> dict[str, float]:
    """Return the relative change of each value by rounding; all 0 if the forward pass changed too much.

    Then the perturbed inputs crossed a threshold of the model (for example, inputs that are word indices).
    """
    shares = _shares(moved, expected)
    forward = [share for name, share in shares.items() if expected[name].limit <= EXACT]
    crossed = max(forward, default=0.0) > EXACT or math.inf in shares.values()
    return dict.fromkeys(shares, 0.0) if crossed else shares


def deviation(actual: Mapping[str, Evidence], expected: Mapping[str, Evidence]) -> float:
    """Return the largest difference of any element, relative to the largest element of its kind."""
    largest: dict[str, float] = {}
    for evidence in expected.values():
        size = _finite(evidence.value).abs().max().item()
        largest[evidence.kind] = max(largest.get(evidence.kind, 0.0), size)
    shares = [
        (_finite(actual[name].value) - _finite(evidence.value)).abs().max().item()
        / max(largest[evidence.kind], 1e-30)
        for name, evidence in expected.items()
    ]
    return max(shares, default=0.0)


def _shares(actual: Mapping[str, Evidence], expected: Mapping[str, Evidence]) -> dict[str, float]:
    """Return the largest difference of each value, relative to its largest element.

    Differences below 1e-5 of the largest element of the same kind are ignored: such values may be only
    rounding errors (the gradient of a bias before batch norm). NaN and infinite elements must be equal in
    both; they are excluded from the differences.
    """
    largest = {name: _finite(evidence.value).abs().max().item() for name, evidence in expected.items()}
    of_kind: dict[str, float] = {}
    for name, evidence in expected.items():
        of_kind[evidence.kind] = max(of_kind.get(evidence.kind, 0.0), largest[name])
    shares = {}
    for name, evidence in expected.items():
        actual_value, expected_value = actual[name].value, evidence.value
        if not torch.allclose(
            actual_value - _finite(actual_value), expected_value - _finite(expected_value), equal_nan=True
        ):
            shares[name] = math.inf
            continue
        difference = (_finite(actual_value) - _finite(expected_value)).abs().max().item()
        counted = difference - evidence.rounding - _NOISE * of_kind[evidence.kind]
        shares[name] = max(counted, 0.0) / max(largest[name], 1e-30)
    return shares


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
