"""Run optimizers on test functions of two parameters, with learning rates tuned under an equal budget.

The optimizers are those of the catalog, built as for a network. `landscape.figures` draws the results.
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
from trainer.optimizers.external import OptimizerSpec, build_external
from trainer.optimizers.groups import assign_groups
from trainer.optimizers.rules import refuse
from trainer.problems import SURFACES, Surface

Array = NDArray[np.float64]

FARTHEST = 1e6
"""A descent beyond this distance has diverged: every minimum is within 10 of the origin."""


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """An optimizer as given on the command line.

    Args:
        text: the text that was given, such as `SGD:momentum=0.9`; used as the name in figures.
        name: its name in the catalog.
        options: its validated options; without lr, the learning rate is selected later.
    """

    text: str
    name: str
    options: Mapping[str, Any]

    @property
    def has_lr(self) -> bool:
        """Whether the optimizer has a learning rate."""
        return "lr" in catalog.option_model("optimizer", self.name).model_fields

    @property
    def default_lr(self) -> float | None:
        """Its default learning rate; None if it has none."""
        field_ = catalog.option_model("optimizer", self.name).model_fields.get("lr")
        return (
            None
            if field_ is None or field_.is_required() or field_.default is None
            else float(field_.default)
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A learning rate that was tried, with f after the last step; infinity = diverged."""

    lr: float
    value: float


@dataclass(frozen=True, slots=True)
class Descent:
    """The path of one optimizer.

    Args:
        choice: the optimizer.
        lr: its learning rate; None if it has none.
        points: float64 [T + 1, 2], beginning with the start; ends early if it diverged.
        values: float64 [T + 1], f at the points.
        evaluations: int64 [T + 1], gradients computed up to each point: one per step, except for LBFGS.
        diverged: whether it moved beyond `FARTHEST` or f became NaN or infinite.
        trials: the learning rates tried by tuning; empty = not tuned.
    """

    choice: OptimizerChoice
    lr: float | None
    points: Array
    values: Array
    evaluations: NDArray[np.int64]
    diverged: bool
    trials: Sequence[Trial] = field(default=())

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the smallest or largest one tried: a wider grid may be better."""
        return bool(self.trials) and self.lr in (self.trials[0].lr, self.trials[-1].lr)


def find_surface(name: str) -> tuple[str, Surface]:
    """Return a surface and its exact name; raise ConfigError with a list of names if it does not exist."""
    exact = name.strip().lower().replace("-", "_").replace(" ", "_")
    if exact not in SURFACES:
        raise unknown_name("landscape", name, list(SURFACES))
    return exact, SURFACES[exact]


def parse_optimizers(text: str) -> list[OptimizerChoice]:
    """Parse `SGD,SGD:momentum=0.9,Adam:betas=[0.8,0.99]`: commas separate optimizers, colons options.

    Raises:
        ConfigError: an optimizer or option does not exist, a value is invalid, or an optimizer is repeated.
    """
    parts = [part.strip() for part in _split(text, ",")]
    if not all(parts):
        raise ConfigError(
            f"{text!r} does not name an optimizer",
            key="--optimizers",
            expected="SGD,Adam or SGD:momentum=0.9,Adam",
        )
    if len(set(parts)) < len(parts):
        raise ConfigError(f"{text!r} names an optimizer twice", key="--optimizers")
    return [_parse_optimizer(part) for part in parts]


def _parse_optimizer(text: str) -> OptimizerChoice:
    head, *settings = _split(text, ":")
    # `file.py:Thing` contains a colon.
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
    return OptimizerChoice(text, head, options)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


class Point(nn.Module):
    """A module whose two parameters are a point, and whose output is the value of the surface there."""

    def __init__(self, surface: Surface, start: tuple[float, float]) -> None:
        super().__init__()
        self.surface = surface
        self.at = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return f as a 0-d tensor."""
        x, y = self.at.unbind()
        return self.surface.value(x, y)


def descend(
    surface: Surface, choice: OptimizerChoice, *, lr: float | None, steps: int, start: tuple[float, float]
) -> Descent:
    """Run an optimizer from the start until it has computed `steps` gradients.

    The budget counts gradients because LBFGS computes several per step and would have an advantage otherwise.

    Raises:
        ConfigError: the optimizer cannot train two parameters, or torch rejects an option.
    """
    point = Point(surface, start)
    options = {**choice.options} | ({} if lr is None else {"lr": lr})
    cls: Any = catalog.find("optimizer", choice.name)
    groups = assign_groups(point, ["at"], [])
    arguments = catalog.arguments("optimizer", choice.name, options)
    try:
        if choice.name in catalog.REGISTRIES["optimizer"]:
            refuse(cls, options, groups, {"at": point.at}, device_type="cpu")
            optimizer = build_optimizer(cls, point, groups, arguments)
        else:
            spec = OptimizerSpec(choice.name, cls, arguments)
            optimizer = build_external(spec, point, groups, {"num_iterations": steps, "total_steps": steps})
    except OptlabError as error:
        raise ConfigError.of(
            Problem(p.what, p.key, f"--optimizers {choice.text!r}", p.expected) for p in error.problems
        ) from error

    def evaluate() -> float:
        optimizer.zero_grad()
        value: Tensor = point()
        torch.autograd.backward(value)
        evaluations.append(evaluations[-1] + 1)
        return value.item()

    points: list[list[float]] = [point.at.tolist()]
    values: list[float] = []
    evaluations, at = [0], [0]
    while evaluations[-1] < steps and not _has_diverged(points, values):
        if needs_closure(optimizer):
            # The step returns its first evaluation, which is at the current point.
            values.append(optimizer.step(evaluate))
        else:
            values.append(evaluate())
            optimizer.step()
        points.append(point.at.tolist())
        at.append(evaluations[-1])
    with torch.no_grad():
        values.append(point().item())
    diverged = _has_diverged(points, values)
    return Descent(choice, lr, np.array(points), np.array(values), np.array(at), diverged)


def _has_diverged(points: Sequence[Sequence[float]], values: Sequence[float]) -> bool:
    near = max(map(abs, points[-1])) < FARTHEST  # false for NaN too
    return not (near and (not values or math.isfinite(values[-1])))


def learning_rates(low: float, high: float, count: int) -> list[float]:
    """Return `count` log-spaced learning rates from low to high."""
    return [float(f"{lr:.4g}") for lr in np.geomspace(low, high, count)]


def tune(
    surface: Surface,
    choice: OptimizerChoice,
    *,
    rates: Sequence[float],
    steps: int,
    start: tuple[float, float],
) -> Descent:
    """Return the descent with the lowest final f over the rates. Ties go to the smaller rate.

    If every rate diverges, the descent with the smallest rate is returned.
    """
    best: Descent | None = None
    trials = []
    for lr in rates:
        descent = descend(surface, choice, lr=lr, steps=steps, start=start)
        trials.append(Trial(lr, math.inf if descent.diverged else float(descent.values[-1])))
        if best is None or trials[-1].value < min(trial.value for trial in trials[:-1]):
            best = descent
    assert best is not None, "at least one rate is tried"
    return Descent(best.choice, best.lr, best.points, best.values, best.evaluations, best.diverged, trials)


def compare_optimizers(
    surface: Surface,
    choices: Sequence[OptimizerChoice],
    *,
    steps: int,
    start: tuple[float, float],
    lr: float | None = None,
    rates: Sequence[float] = (),
) -> list[Descent]:
    """Run every optimizer from the same start.

    Args:
        surface: the function to minimize.
        choices: the optimizers; an lr in the options of one takes precedence.
        steps: number of gradients that each optimizer may compute.
        start: the start point.
        lr: learning rate for all; None = tuned over `rates`, or the default of each optimizer without rates.
        rates: learning rates to try for each optimizer.

    Raises:
        ConfigError: an optimizer cannot be used here, or has neither a default nor a given learning rate.
    """
    descents = []
    for choice in choices:
        own = choice.options.get("lr", lr)
        if own is None and choice.has_lr and rates:
            descents.append(tune(surface, choice, rates=rates, steps=steps, start=start))
            continue
        chosen = own if own is not None else choice.default_lr
        if chosen is None and choice.has_lr:
            raise ConfigError(
                f"{choice.text} has no default learning rate", key="--no-tune", fix="set --lr, or tune it"
            )
        rate = float(chosen) if chosen is not None and choice.has_lr else None
        descents.append(descend(surface, choice, lr=rate, steps=steps, start=start))
    return descents
