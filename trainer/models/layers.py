"""What the builders share: activations, option types, and the check that images come in (room: models)."""

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


def feed_channels_last(model: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Let a convolutional model read its images with the channels innermost; return whether it now does.

    oneDNN's convolutions on CPUs take 0.75 of the time that way (three 5x5 convolutions, batch 64), with
    bfloat16 0.65. Weights keep their layout, so that every optimizer and checkpoint sees them as ever. A
    model that cannot (it calls `view` on what its convolutions give) is left alone, and so is one whose
    images have a single channel.

    Args:
        model: on a CPU.
        input_shape: of one sample, (C, H, W) or (D,).
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
