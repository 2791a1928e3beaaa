"""Initialize weights with functions of torch.nn.init, and compute histograms of weights.

A rule has the names of its parameters (see `trainer.matching`) and the functions that fill them.
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
from trainer.user_code import code_location, describe_with_line

Fill = Callable[..., object]
"""A function that fills its first argument, a tensor, in place; those of torch also take `generator`."""

INIT_FUNCTIONS: dict[str, Fill] = {
    name: function
    for name, function in vars(nn.init).items()
    if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function)
}


@dataclass(frozen=True, slots=True)
class InitRule:
    """The functions that initialize the weights and biases of some parameters.

    Args:
        parameters: names of the parameters; None = all, except weights with fewer than two dimensions, so
            that normalization layers keep their scales of 1.
        weight: fills the weights, as `partial(INIT_FUNCTIONS["xavier_normal_"], gain=2.0)`; None = unchanged.
        bias: fills the biases; None = unchanged.
        key: config key of the rule in the section, for errors (`layers.0`); empty for the section itself.
    """

    parameters: tuple[str, ...] | None
    weight: Fill | None = None
    bias: Fill | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between adjacent edges. There is one more edge than counts; the last bin is closed."""

    edges: list[float]
    counts: list[int]


def parameter_role(name: str, parameter: Tensor) -> Literal["weight", "bias", "other"]:
    """Return whether a parameter is a `bias`, a `weight` or `other`, by its name and number of dimensions.

    `bias`, `in_proj_bias` and `bias_hh_l0` are biases. `weight`, `in_proj_weight` and all other tensors with
    two or more dimensions (also class tokens and layer scales) are weights. The rest is `other`.
    """
    name_parts = name.rpartition(".")[2].split("_")
    if "bias" in name_parts:
        return "bias"
    return "weight" if "weight" in name_parts or parameter.ndim >= 2 else "other"


def initialize(model: nn.Module, rules: Sequence[InitRule], *, generator: torch.Generator) -> None:
    """Initialize the model's parameters in place; the first rule that contains a parameter applies.

    Parameters are initialized in the order of `model.named_parameters()` and draw from `generator`, so the
    same generator gives the same initial weights. The model must be on the CPU. A parameter is unchanged if
    its rule has None for its role. Before each function, torch's global generator is seeded from the seed of
    `generator` and the position of the parameter.

    Raises:
        ConfigError: a rule matches no parameter, or a function rejects a parameter's shape or its options.
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
            # The rule for all parameters may set biases for a model without any; for a match it is an error.
            if fill is not None and rule.parameters is not None and (number, role) not in used:
                raise ConfigError(
                    f"the match leaves no {role} to initialise"
                    + (f": it covers {', '.join(rule.parameters)}" if rule.parameters else ""),
                    key=_dotted(rule.key, role),
                    expected=f"a match that covers one of {_names_of_role(model, role)}",
                    fix="the first match applies; `optlab show model` lists the layers",
                )


def weight_histograms(model: nn.Module, bins: int = 60) -> dict[str, Histogram]:
    """Return a histogram of the finite values of every weight (two dimensions or more) by parameter name.

    The edges range from the smallest to the largest value; if these are equal, from 0.5 below to 0.5 above.
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
        # sparse_ always shuffles with the global generator, and users' functions may draw from it
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(stream_seed("init", generator.initial_seed(), position))
            fill(parameter, **({"generator": generator} if takes_generator else {}))
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = describe_with_line(error) if code_location(error) else str(error)
        raise ConfigError(
            f"cannot initialise {name} of shape {list(parameter.shape)}: {reason}",
            key=key,
            fix="choose another function, or match only layers that it supports (init.layers)",
        ) from error


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _names_of_role(model: nn.Module, role: str) -> str:
    names = [name for name, parameter in model.named_parameters() if parameter_role(name, parameter) == role]
    return ", ".join(names) if names else f"no parameter: the model has no {role}"
