"""What the builders share: activations, option types, and the check that images come in (room: models)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from trainer.errors import ConfigError, unknown_name

Activation = Literal[
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "tanh",
    "sigmoid",
    "hardtanh",
    "identity",
]
Width = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
}


def activation_layer(name: Activation) -> nn.Module:
    """Return a new layer with torch's defaults for the named activation; ConfigError for an unknown name."""
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, list(ACTIVATIONS), key="activation")
    return ACTIVATIONS[name]()


def require_images(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width); ConfigError when the samples are not images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"{model} needs images, the data have samples of shape {list(input_shape)}",
            key="name",
            expected="samples [C, H, W]",
            fix="choose mlp or linear, which take samples of any shape",
        )
    channels, height, width = input_shape
    return channels, height, width


def require_room(model: str, layer: str, input_shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise ConfigError when nothing is left of the image behind `layer`, whose output is `size` pixels."""
    if min(size) < 1:
        raise ConfigError(
            f"{model}: images of shape {list(input_shape)} are too small, nothing is left of them at {layer}",
            key="name",
            expected=f"images that are at least 1 x 1 pixel behind {layer}",
            fix="enlarge the images (data.resize or data.pad), or choose a model with fewer poolings",
        )
