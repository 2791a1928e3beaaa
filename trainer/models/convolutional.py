"""Convolutional networks: the cnn of a PyTorch tutorial, LeNet-5, and 2c2d and 3c3d of DeepOBS."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from trainer.models.layers import (
    Activation,
    Probability,
    Width,
    activation_layer,
    require_images,
    require_room,
)


def cnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    channels: tuple[Width, ...] = (32, 32, 64),
    hidden: Width = 64,
    activation: Activation | None = None,
    dropout: Probability = 0.0,
    batch_norm: bool = False,
) -> nn.Module:
    """Return 5x5 convolutions, each with 2x2 max pooling, then two linear layers (1024-64-10 on CIFAR-10).

    As in a well-known CIFAR-10 tutorial of PyTorch courses, there is no activation between the layers by
    default (max pooling is the only nonlinearity). 145,578 parameters on CIFAR-10.

    Args:
        input_shape: (C, H, W), at least 8 pixels high and wide with three convolutions.
        num_classes: number of logits.
        channels: output channels of each convolution (5x5, padding 2), first to last.
        hidden: units of the hidden linear layer.
        activation: nonlinearity after every convolution and the hidden layer; null = none.
        dropout: probability of zeroing a hidden unit while training, 0 to below 1.
        batch_norm: batch normalization after every convolution.

    Raises:
        ConfigError: the samples are not images, or are too small for the pooling layers.
    """
    depth, height, width = require_images("cnn", input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, out in enumerate(channels, start=1):
        layers[f"conv{number}"] = nn.Conv2d(depth, out, 5, padding=2)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(out)
        if activation:
            layers[f"activation{number}"] = activation_layer(activation)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        depth, height, width = out, height // 2, width // 2
        require_room("cnn", f"pool{number}", input_shape, (height, width))
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(depth * height * width, hidden)
    if activation:
        layers["activation_hidden"] = activation_layer(activation)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(layers)


def lenet5(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    activation: Activation = "tanh",
    pool: Literal["average", "max"] = "average",
    padding: Literal[0, 2] = 2,
) -> nn.Module:
    """Return LeNet-5 in its usual modern form; 61,706 parameters on 28x28 grey images and ten classes.

    From LeCun et al., "Gradient-based learning applied to document recognition" (1998), it has the layers (6
    and 16 maps of 5x5, two 2x2 poolings, 120-84-10) and, by default, tanh and average pooling. As in all
    current versions, it does not have the sparse connections of C3, the trainable coefficients of the
    poolings, the scaled tanh and the radial basis outputs. A common variant is `activation: relu, pool: max`.

    Args:
        input_shape: (C, H, W), at least 12 pixels high and wide (16 with padding 0).
        num_classes: number of logits.
        activation: nonlinearity behind every layer but the last.
        pool: average or max pooling.
        padding: zero padding of the images: 2 for 28x28 pixels (giving the paper's 32x32), 0 for 32x32.

    Raises:
        ConfigError: the samples are not images, or are too small for the layers.
    """
    depth, height, width = require_images("lenet5", input_shape)
    pooling = nn.AvgPool2d if pool == "average" else nn.MaxPool2d
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (out, pad) in enumerate(((6, padding), (16, 0)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(depth, out, 5, padding=pad)
        layers[f"activation{number}"] = activation_layer(activation)
        layers[f"pool{number}"] = pooling(2)
        depth, height, width = out, (height + 2 * pad - 4) // 2, (width + 2 * pad - 4) // 2
        require_room("lenet5", f"pool{number}", input_shape, (height, width))
    layers["flatten"] = nn.Flatten()
    layers["hidden1"] = nn.Linear(depth * height * width, 120)
    layers["activation3"] = activation_layer(activation)
    layers["hidden2"] = nn.Linear(120, 84)
    layers["activation4"] = activation_layer(activation)
    layers["output"] = nn.Linear(84, num_classes)
    return nn.Sequential(layers)


def deepobs_2c2d(
    input_shape: tuple[int, ...], num_classes: int, *, activation: Activation = "relu"
) -> nn.Module:
    """Return DeepOBS's 2c2d: two 5x5 convolutions (32, 64), 2x2 max pooling after each, then 1024 units.

    3,274,634 parameters on 28x28 grey images and ten classes. Convolutions and poolings pad as TensorFlow's
    "same". DeepOBS initializes weights from a truncated normal (std 0.05) and biases to 0.05; to do so, set
    `init: {weight: {name: trunc_normal_, std: 0.05, a: -0.1, b: 0.1}, bias: {name: constant_, val: 0.05}}`.

    Source: github.com/fsschneider/DeepOBS, deepobs/models/pytorch/convnet.py at 7bdf8a8, `Basic2c2d`.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        activation: nonlinearity behind every layer but the last (DeepOBS: relu).

    Raises:
        ConfigError: the samples are not images.
    """
    depth, height, width = require_images("2c2d", input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, out in enumerate((32, 64), start=1):
        layers[f"conv{number}"] = nn.Conv2d(depth, out, 5, padding=2)
        layers[f"activation{number}"] = activation_layer(activation)
        # ceil_mode: "same" pooling keeps an odd last row or column
        layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True)
        depth, height, width = out, -(-height // 2), -(-width // 2)
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(depth * height * width, 1024)
    layers["activation3"] = activation_layer(activation)
    layers["output"] = nn.Linear(1024, num_classes)
    return nn.Sequential(layers)


def deepobs_3c3d(
    input_shape: tuple[int, ...], num_classes: int, *, activation: Activation = "relu"
) -> nn.Module:
    """Return DeepOBS's 3c3d: convolutions of 64, 96, 128 channels with 3x3 max pooling, then 512-256.

    895,210 parameters on CIFAR-10. The convolutions are 5x5, 3x3 and 3x3; the first two do not pad, the
    third and the poolings (stride 2) pad as TensorFlow's "same". DeepOBS initializes weights with Xavier
    (normal for the convolutions, uniform for the linear layers) and biases to 0, as a config's `init` can.

    Source: github.com/fsschneider/DeepOBS, deepobs/models/pytorch/convnet.py at 7bdf8a8, `Basic3c3d`.

    Args:
        input_shape: (C, H, W), at least 9 pixels high and wide.
        num_classes: number of logits.
        activation: nonlinearity behind every layer but the last (DeepOBS: relu).

    Raises:
        ConfigError: the samples are not images, or are too small for the convolutions.
    """
    depth, height, width = require_images("3c3d", input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (out, kernel, padding) in enumerate(((64, 5, 0), (96, 3, 0), (128, 3, 1)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(depth, out, kernel, padding=padding)
        height, width = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
        require_room("3c3d", f"conv{number}", input_shape, (height, width))
        layers[f"activation{number}"] = activation_layer(activation)
        # "same" for a window of 3 and stride 2: an odd length gets one pixel on both sides, an even one
        # one pixel at the end, which ceil_mode adds
        layers[f"pool{number}"] = nn.MaxPool2d(3, 2, padding=(height % 2, width % 2), ceil_mode=True)
        depth, height, width = out, -(-height // 2), -(-width // 2)
    layers["flatten"] = nn.Flatten()
    layers["hidden1"] = nn.Linear(depth * height * width, 512)
    layers["activation4"] = activation_layer(activation)
    layers["hidden2"] = nn.Linear(512, 256)
    layers["activation5"] = activation_layer(activation)
    layers["output"] = nn.Linear(256, num_classes)
    return nn.Sequential(layers)
