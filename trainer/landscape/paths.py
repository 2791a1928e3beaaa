"""Optimizers on problems of two parameters: descents, learning rates chosen by an equal budget.

The optimizers are those of the catalog, built as for a network. Draws nothing: `landscape_figures` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import catalog
from trainer.config.merge import parse_override
from trainer.errors import ConfigError, OptlabError, Problem, unknown_name
from trainer.optimizers.build import build_optimizer, needs_closure
from trainer.optimizers.groups import assign_groups
from trainer.optimizers.rules import refuse
from trainer.problems import SURFACES, Surface

Array = NDArray[np.float64]

FARTHEST = 1e6
"""A point farther out than this counts as diverged: every minimum is within 10 of the origin."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """An optimizer as asked for.

    Args:
        text: as it was given, `SGD:momentum=0.9`; its name in figures.
        name: its name in the catalog.
        options: its options, checked; without lr the learning rate is open.
    """

    text: str
    name: str
    options: Mapping[str, Any]

    @property
    def has_lr(self) -> bool:
        """Whether there is a learning rate to choose."""
        return "lr" in catalog.option_model("optimizer", self.name).model_fields

    @property
    def default_lr(self) -> float | None:
        """Its own default learning rate; None when it has none."""
        field_ = catalog.option_model("optimizer", self.name).model_fields.get("lr")
        return (
            None
            if field_ is None or field_.is_required() or field_.default is None
            else float(field_.default)
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A learning rate that was tried, and f after the last step; infinity = diverged."""

    lr: float
    value: float


@dataclass(frozen=True, slots=True)
class Descent:
    """One optimizer's way.

    Args:
        contestant: whose.
        lr: its learning rate; None when it has none.
        points: float64 [T + 1, 2], the start first; ends early where it diverged.
        values: float64 [T + 1], f there.
        evaluations: int64 [T + 1], gradients computed on the way there: one per step, but for LBFGS.
        diverged: whether it left the world or its numbers.
        trials: the learning rates tried before; empty = not tuned.
    """

    contestant: Contestant
    lr: float | None
    points: Array
    values: Array
    evaluations: NDArray[np.int64]
    diverged: bool
    trials: Sequence[Trial] = field(default=())

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate was the smallest or largest tried: a wider grid might do better."""
        return bool(self.trials) and self.lr in (self.trials[0].lr, self.trials[-1].lr)


def find_surface(name: str) -> tuple[str, Surface]:
    """Return a surface and its exact name; ConfigError lists them when there is none."""
    exact = name.strip().lower().replace("-", "_").replace(" ", "_")
    if exact not in SURFACES:
        raise unknown_name("landscape", name, list(SURFACES))
    return exact, SURFACES[exact]


def parse_contestants(text: str) -> list[Contestant]:
    """Read `SGD,SGD:momentum=0.9,Adam:betas=[0.8,0.99]`: commas part optimizers, colons their options.

    Raises:
        ConfigError: an optimizer or an option that does not exist, a bad value, the same one twice.
    """
    parts = [part.strip() for part in _split(text, ",")]
    if not all(parts):
        raise ConfigError(
            f"{text!r} names no optimizer", key="--optimizers", expected="SGD,Adam or SGD:momentum=0.9,Adam"
        )
    if len(set(parts)) < len(parts):
        raise ConfigError(f"{text!r} names an optimizer twice", key="--optimizers")
    return [_contestant(part) for part in parts]


def _contestant(text: str) -> Contestant:
    head, *settings = _split(text, ":")
    # `file.py:Thing` has a colon of its own.
    if settings and "=" not in settings[0]:
        head, settings = f"{head}:{settings[0]}", settings[1:]
    try:
        catalog.find("optimizer", head)
        overrides = [parse_override(setting) for setting in settings]
        options = catalog.check_options("optimizer", head, {".".join(o.key): o.value for o in overrides})
    except OptlabError as error:
        raise ConfigError.of(
            Problem(p.what, p.key if p.key != "name" else "", f"--optimizers {text!r}", p.expected, p.fix)
            for p in error.problems
        ) from error
    return Contestant(text, head, options)


def _split(text: str, separator: str) -> list[str]:
    """Split outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


class Point(nn.Module):
    """Two parameters and the height of the surface there."""

    def __init__(self, surface: Surface, start: tuple[float, float]) -> None:
        super().__init__()
        self.surface = surface
        self.at = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return f, a scalar."""
        x, y = self.at.unbind()
        return self.surface.value(x, y)


def descend(
    surface: Surface, contestant: Contestant, *, lr: float | None, steps: int, start: tuple[float, float]
) -> Descent:
    """Let an optimizer take steps from the start until it has computed so many gradients.

    That is one per step, but for LBFGS, which computes many in a step and would else have an advantage.

    Raises:
        ConfigError: it cannot be used on two numbers, or torch refuses an option.
    """
    point = Point(surface, start)
    options = {**contestant.options} | ({} if lr is None else {"lr": lr})
    cls: Any = catalog.find("optimizer", contestant.name)
    groups = assign_groups(point, ["at"], [])
    try:
        refuse(cls, options, groups, {"at": point.at}, device_type="cpu")
        optimizer = build_optimizer(
            cls, point, groups, catalog.arguments("optimizer", contestant.name, options)
        )
    except OptlabError as error:
        raise ConfigError.of(
            Problem(p.what, p.key, f"--optimizers {contestant.text!r}", p.expected) for p in error.problems
        ) from error

    def height() -> float:
        optimizer.zero_grad()
        value: Tensor = point()
        torch.autograd.backward(value)
        evaluations.append(evaluations[-1] + 1)
        return value.item()

    points: list[list[float]] = [point.at.tolist()]
    values: list[float] = []
    evaluations, at = [0], [0]
    while evaluations[-1] < steps and not _is_lost(points, values):
        if needs_closure(optimizer):
            # It evaluates where it stands first, and that is what it returns.
            values.append(optimizer.step(height))
        else:
            values.append(height())
            optimizer.step()
        points.append(point.at.tolist())
        at.append(evaluations[-1])
    with torch.no_grad():
        values.append(point().item())
    diverged = _is_lost(points, values)
    return Descent(contestant, lr, np.array(points), np.array(values), np.array(at), diverged)


def _is_lost(points: Sequence[Sequence[float]], values: Sequence[float]) -> bool:
    near = max(map(abs, points[-1])) < FARTHEST  # false for NaN too
    return not (near and (not values or math.isfinite(values[-1])))


def learning_rates(low: float, high: float, count: int) -> list[float]:
    """Return `count` log-spaced learning rates from low to high."""
    return [float(f"{lr:.4g}") for lr in np.geomspace(low, high, count)]


def tune(
    surface: Surface,
    contestant: Contestant,
    *,
    rates: Sequence[float],
    steps: int,
    start: tuple[float, float],
) -> Descent:
    """Return the descent whose last f is the lowest over the rates; of equal ones that of the smallest rate.

    When every rate diverges, the descent with the smallest one is returned.
    """
    best: Descent | None = None
    trials = []
    for lr in rates:
        descent = descend(surface, contestant, lr=lr, steps=steps, start=start)
        trials.append(Trial(lr, math.inf if descent.diverged else float(descent.values[-1])))
        if best is None or trials[-1].value < min(trial.value for trial in trials[:-1]):
            best = descent
    assert best is not None, "at least one rate is tried"
    return Descent(
        best.contestant, best.lr, best.points, best.values, best.evaluations, best.diverged, trials
    )


def race(
    surface: Surface,
    contestants: Sequence[Contestant],
    *,
    steps: int,
    start: tuple[float, float],
    lr: float | None = None,
    rates: Sequence[float] = (),
) -> list[Descent]:
    """Let every optimizer descend from the same start.

    Args:
        surface: the problem.
        contestants: the optimizers; one that states its own lr keeps it.
        steps: gradients that each may compute.
        start: where all begin.
        lr: one learning rate for all; None = tuned over `rates`, or each one's default when there are none.
        rates: what is tried for each, all of it for each.

    Raises:
        ConfigError: an optimizer cannot be used here, or has neither a default learning rate nor a given one.
    """
    found = []
    for contestant in contestants:
        own = contestant.options.get("lr", lr)
        if own is None and contestant.has_lr and rates:
            found.append(tune(surface, contestant, rates=rates, steps=steps, start=start))
            continue
        chosen = own if own is not None else contestant.default_lr
        if chosen is None and contestant.has_lr:
            raise ConfigError(
                f"{contestant.text} has no default learning rate", key="--no-tune", fix="say --lr, or tune it"
            )
        rate = float(chosen) if chosen is not None and contestant.has_lr else None
        found.append(descend(surface, contestant, lr=rate, steps=steps, start=start))
    return found
