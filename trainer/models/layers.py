"""Shared by the builders of models: activations, types of options and checks of the input shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

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
    """Return a new activation layer with torch's defaults; raise ConfigError for an unknown name."""
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, list(ACTIVATIONS), key="activation")
    return ACTIVATIONS[name]()


def require_images(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width); raise ConfigError if the samples are not images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"{model} needs images, but the samples have shape {list(input_shape)}",
            key="name",
            expected="samples [C, H, W]",
            fix="choose mlp or linear, which accept samples of any shape",
        )
    channels, height, width = input_shape
    return channels, height, width


def require_tokens(model: str, input_shape: tuple[int, ...]) -> int:
    """Return the length of a window; raise ConfigError if the samples are not vectors."""
    if len(input_shape) != 1:
        raise ConfigError(
            f"{model} needs tokens, but the samples have shape {list(input_shape)}",
            key="name",
            expected="windows of tokens [T], as those of the data sets text and tiny_shakespeare",
            fix="choose another model or another data set",
        )
    return input_shape[0]


def require_room(model: str, layer: str, input_shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise ConfigError if `size`, the height and width of the output of `layer`, is 0."""
    if min(size) < 1:
        raise ConfigError(
            f"{model}: images of shape {list(input_shape)} are too small: the output of {layer} is empty",
            key="name",
            expected=f"images with at least 1 x 1 pixels after {layer}",
            fix="enlarge the images (data.resize or data.pad), or choose a model with fewer pooling layers",
        )


def feed_channels_last(model: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Let a convolutional model read images in channels-last memory format; return whether it does.

    In this format, oneDNN's convolutions on CPUs take 0.75 of the time (three 5x5 convolutions, batch 64), or
    0.65 with bfloat16. Weights keep their layout, so optimizers and checkpoints are not affected. It is not
    used for a model that fails with it (by calling `view` on the output of a convolution), nor for images
    with one channel.

    Args:
        model: a model on a CPU.
        input_shape: the shape of one sample, (C, H, W) or (D,).
    """
    convolves = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    if not convolves or len(input_shape) != 3 or input_shape[0] == 1:
        return False
    hook = model.register_forward_pre_hook(_channels_last)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(2, *input_shape))
    except RuntimeError:
        hook.remove()
        return False
    finally:
        model.train(was_training)
    return True


def _channels_last(_model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
