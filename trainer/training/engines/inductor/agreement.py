"""When two ways to make one step agree: what is left between them is what rounding leaves.

Knows values and their kinds, and neither models nor programs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

EXACT, ROUGH = 1e-3, 5e-2
"""By what shares of its largest element a value may differ that agrees, and one that rounding may have moved.

Of the forward pass every value has to agree. With gradients that is not so: rounding makes a ReLU or a
maximum choose otherwise now and then, which changes nothing before it and whole gradients behind it, by up to
2 % (seen in every step of a residual network with batch norm, of a wide one 7 %). Where rounding was seen to
do as much to eager's own, a value may differ by twice ROUGH in a step and by ten times EXACT in all of them,
but never by more.
"""

_NOISE = 1e-5
_LEAST_STEPS = 3
_TWICE = 2.0  # what rounding does to one step it does to another, but for chance


@dataclass(frozen=True, slots=True)
class Evidence:
    """A value that a step left behind, copied in float64.

    Attributes:
        kind: values of one kind have one unit.
        value: what it was.
        limit: the share of its largest element by which it may differ in one step.
        rounding: how far the rounding of what it is computed from may move an element.
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
    """Steps made in two ways, compared one by one.

    Args:
        bound: the largest share by which a gradient may differ in one step, whatever rounding is seen to do.
    """

    bound: float = 2 * ROUGH
    _steps: int = 0
    _least: dict[str, float] = field(default_factory=dict)  # the values' smallest differences so far
    _least_moved: dict[str, float] = field(default_factory=dict)  # and those that rounding alone makes
    _most_moved: float = 0.0  # the largest that it made of any value

    def compare(
        self, found: Mapping[str, Evidence], wanted: Mapping[str, Evidence], moved: Mapping[str, Evidence]
    ) -> str | None:
        """Compare what a step left behind; return in what it differs by more than rounding may move it.

        Args:
            found: of the step in the way that is checked.
            wanted: of the step in the other way, eager.
            moved: of eager's once more, with inputs moved by as little as rounding moves a forward pass.
        """
        self._steps += 1
        shares, by_rounding = _shares(found, wanted), _by_rounding(moved, wanted)
        self._least = _smaller(self._least, shares)
        self._least_moved = _smaller(self._least_moved, by_rounding)
        self._most_moved = max(self._most_moved, *by_rounding.values())
        beyond = [name for name, share in shares.items() if share > self._limit(wanted[name])]
        worst = max(beyond, key=lambda name: shares[name], default=None)
        return worst and f"in step {self._steps} {worst} differs from eager's by {shares[worst]:.2g} of it"

    def _limit(self, evidence: Evidence) -> float:
        if evidence.limit <= EXACT:
            return evidence.limit
        return min(max(evidence.limit, _TWICE * self._most_moved), self.bound)

    def is_sure(self) -> bool:
        """Return whether steps enough were compared, and every value has agreed in one of them."""
        return self._steps >= _LEAST_STEPS and max(self._least.values()) <= EXACT

    def never_agreed(self) -> str | None:
        """Return what differed in every step, so that rounding does not explain it; None = nothing did.

        In a deep network some ReLU chooses otherwise in every step. There a value agrees that came about as
        close to eager's as eager's own did with moved inputs.
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


def _by_rounding(moved: Mapping[str, Evidence], wanted: Mapping[str, Evidence]) -> dict[str, float]:
    """Return the shares by which rounding moves values: 0 where the forward pass moved by more than it does.

    Then inputs crossed a threshold of the model (they are numbers of words, say).
    """
    shares = _shares(moved, wanted)
    forward = [share for name, share in shares.items() if wanted[name].limit <= EXACT]
    crossed = max(forward, default=0.0) > EXACT or math.inf in shares.values()
    return dict.fromkeys(shares, 0.0) if crossed else shares


def deviation(found: Mapping[str, Evidence], wanted: Mapping[str, Evidence]) -> float:
    """Return the largest difference of an element as a share of the largest element of its kind."""
    largest: dict[str, float] = {}
    for evidence in wanted.values():
        here = _finite(evidence.value).abs().max().item()
        largest[evidence.kind] = max(largest.get(evidence.kind, 0.0), here)
    shares = [
        (_finite(found[name].value) - _finite(evidence.value)).abs().max().item()
        / max(largest[evidence.kind], 1e-30)
        for name, evidence in wanted.items()
    ]
    return max(shares, default=0.0)


def _shares(found: Mapping[str, Evidence], wanted: Mapping[str, Evidence]) -> dict[str, float]:
    """Return the values' largest differences as shares of their largest elements.

    A difference counts from 1e-5 of the largest element of its kind: smaller values may be nothing but
    rounding (the gradient of a bias before batch norm), where any other is as good. What is not finite has to
    be the same, and is left out of the rest.
    """
    largest = {name: _finite(evidence.value).abs().max().item() for name, evidence in wanted.items()}
    of_kind: dict[str, float] = {}
    for name, evidence in wanted.items():
        of_kind[evidence.kind] = max(of_kind.get(evidence.kind, 0.0), largest[name])
    shares = {}
    for name, evidence in wanted.items():
        ours, theirs = found[name].value, evidence.value
        if not torch.allclose(ours - _finite(ours), theirs - _finite(theirs), equal_nan=True):
            shares[name] = math.inf
            continue
        difference = (_finite(ours) - _finite(theirs)).abs().max().item()
        counted = difference - evidence.rounding - _NOISE * of_kind[evidence.kind]
        shares[name] = max(counted, 0.0) / max(largest[name], 1e-30)
    return shares


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
