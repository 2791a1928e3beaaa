"""Initial weights by the functions of torch.nn.init, and histograms of weights.

Which parameters a rule covers comes in as their names (see `trainer.matching`), what to fill them with as a
function. Reads no config and builds no model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError, OptlabError
from trainer.seeding import stream_seed
from trainer.user_code import place_of, what_happened

Fill = Callable[..., object]
"""Fills the tensor that is its first argument, in place; torch's take `generator` too."""

INIT_FUNCTIONS: dict[str, Fill] = {
    name: function
    for name, function in vars(nn.init).items()
    if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function)
}


@dataclass(frozen=True, slots=True)
class InitRule:
    """What the weights and the biases among some parameters are filled with.

    Args:
        parameters: names of the parameters it covers; None = all, of which weights only from two dimensions
            on, so that normalisation layers keep their scales of one.
        weight: fills the weights, as `partial(INIT_FUNCTIONS["xavier_normal_"], gain=2.0)`; None = as is.
        bias: fills the biases; None = as is.
        key: config key of the rule within the section, for errors (`layers.0`); empty for the section itself.
    """

    parameters: tuple[str, ...] | None
    weight: Fill | None = None
    bias: Fill | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between neighbouring edges; one edge more than counts; the last bin is closed."""

    edges: list[float]
    counts: list[int]


def parameter_role(name: str, parameter: Tensor) -> Literal["weight", "bias", "other"]:
    """Return what a parameter is: `bias` by its name, else `weight` by its name or from two dimensions on.

    `bias`, `in_proj_bias` and `bias_hh_l0` are biases; `weight`, `in_proj_weight` and any other tensor of two
    dimensions or more (class tokens and layer scales too) are weights; the rest is `other`.
    """
    words = name.rpartition(".")[2].split("_")
    if "bias" in words:
        return "bias"
    return "weight" if "weight" in words or parameter.ndim >= 2 else "other"


def initialize(model: nn.Module, rules: Sequence[InitRule], *, generator: torch.Generator) -> None:
    """Fill the model's parameters in place, by the first rule that covers each.

    Parameters are visited in the order of `model.named_parameters()` and draw from `generator` one after the
    other, so the same generator gives the same start. The model must be on the CPU. A parameter stays as it
    is where the first rule that covers it has None for its role. What a function draws from torch's global
    generator follows from the seed of `generator` and the parameter's place.

    Raises:
        ConfigError: a rule finds nothing to fill, or a function refuses a parameter (its shape, its options).
    """
    used: set[tuple[int, str]] = set()
    for position, (name, parameter) in enumerate(model.named_parameters()):
        assert parameter.device.type == "cpu", "initial weights are drawn on the CPU, whatever the device"
        role = parameter_role(name, parameter)
        for number, rule in enumerate(rules):
            if rule.parameters is not None and name not in rule.parameters:
                continue
            fill = {"weight": rule.weight, "bias": rule.bias, "other": None}[role]
            keeps_scale = rule.parameters is None and role == "weight" and parameter.ndim < 2
            if fill is not None and not keeps_scale:
                key = _dotted(rule.key, role)
                _fill(fill, name, parameter, key=key, generator=generator, position=position)
                used.add((number, role))
            break
    for number, rule in enumerate(rules):
        for role, fill in (("weight", rule.weight), ("bias", rule.bias)):
            # the rule for all may speak of biases to a model that has none; a pattern that does is a mistake
            if fill is not None and rule.parameters is not None and (number, role) not in used:
                raise ConfigError(
                    f"the match leaves no {role} to initialise"
                    + (f": it covers {', '.join(rule.parameters)}" if rule.parameters else ""),
                    key=_dotted(rule.key, role),
                    expected=f"a match that covers one of {_names_of_role(model, role)}",
                    fix="earlier matches win; `optlab show model` lists the layers",
                )


def weight_histograms(model: nn.Module, bins: int = 60) -> dict[str, Histogram]:
    """Return a histogram of the finite values of every weight (two dimensions or more) by parameter name.

    The edges run from the smallest to the largest value; all values equal makes a range of one around them.
    """
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    return {name: _histogram(weight, bins) for name, weight in weights.items()}


def _histogram(values: Tensor, bins: int) -> Histogram:
    if values.is_complex():
        values = torch.view_as_real(values)
    flat = values.detach().to("cpu", torch.float64).flatten()
    flat = flat[flat.isfinite()]
    low, high = (flat.min().item(), flat.max().item()) if len(flat) else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = torch.histogram(flat, bins, range=(low, high))
    return Histogram(edges.tolist(), [int(count) for count in counts])


def _fill(
    fill: Fill, name: str, parameter: Tensor, *, key: str, generator: torch.Generator, position: int
) -> None:
    try:
        takes_generator = "generator" in inspect.signature(fill).parameters
        # sparse_ shuffles with the global generator whatever it is given, and users' functions may draw there
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(stream_seed("init", generator.initial_seed(), position))
            fill(parameter, **({"generator": generator} if takes_generator else {}))
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        place = place_of(error)
        words = f"{what_happened(error)} ({place})" if place else str(error)
        raise ConfigError(
            f"cannot initialise {name} of shape {list(parameter.shape)}: {words}",
            key=key,
            fix="choose another function, or match only the layers that it is for (init.layers)",
        ) from error


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _names_of_role(model: nn.Module, role: str) -> str:
    names = [name for name, parameter in model.named_parameters() if parameter_role(name, parameter) == role]
    return ", ".join(names) if names else f"no parameter: the model has no {role}"
