"""Residual networks for small images: ResNet-8/14/20, and ResNet-18 with a 3x3 stem."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.layers import Activation, activation_layer, require_images

Norm = Literal["batch", "group", "none"]
Shortcut = Literal["pad", "projection"]
Stem = Literal["3x3", "7x7"]
BaseWidth = Annotated[int, Field(ge=1)]


class PadShortcut(nn.Module):
    """Option A of He et al.: take every `stride`-th pixel and pad new channels with zeros; no parameters."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        """Create the shortcut from `channels` to `out` channels."""
        super().__init__()
        self.stride = stride
        self.extra = out - channels

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, out, H / stride, W / stride] (rounded up) of images [N, channels, H, W]."""
        kept = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to the shortcut: activation(x + f(x))."""

    def __init__(
        self, channels: int, out: int, *, stride: int, norm: Norm, shortcut: Shortcut, activation: Activation
    ) -> None:
        """Create the block; `shortcut` is used if `stride` or `out` changes the shape."""
        super().__init__()
        self.conv1 = _conv(channels, out, 3, stride, norm)
        self.norm1 = _norm(out, norm)
        self.activation1 = activation_layer(activation)
        self.conv2 = _conv(out, out, 3, 1, norm)
        self.norm2 = _norm(out, norm)
        self.shortcut: nn.Module
        if stride == 1 and channels == out:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(channels, out, stride)
        else:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=_conv(channels, out, 1, stride, norm), norm=_norm(out, norm))
            )
        self.activation2 = activation_layer(activation)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, out, H / stride, W / stride] (rounded up) of images [N, channels, H, W]."""
        inner = self.activation1(self.norm1(self.conv1(images)))
        total: Tensor = self.norm2(self.conv2(inner)) + self.shortcut(images)
        result: Tensor = self.activation2(total)
        return result


def resnet8(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: BaseWidth = 16,
    norm: Norm = "batch",
    shortcut: Shortcut = "pad",
    stem: Stem = "3x3",
    activation: Activation = "relu",
) -> nn.Module:
    """Return the CIFAR residual network of 8 layers (n = 1), of He et al. 2015, section 4.2.

    It has a 3x3 stem, three stages of n blocks with width, 2 width and 4 width channels (the image is halved
    between stages), global average pooling and one linear layer. Source: arxiv.org/abs/1512.03385. The
    initial weights are torch's default; for the paper's, use
    `init: {weight: {name: kaiming_normal_, nonlinearity: relu}}`.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        width: channels of the first stage (paper: 16).
        norm: normalisation behind every convolution: batch, group (8 groups) or none (then with biases).
        shortcut: where the shape changes: zeros for new channels (paper) or a 1x1 convolution.
        stem: first convolution: 3x3 (paper, for 32 pixels), or 7x7 with stride 2 for larger images.
        activation: nonlinearity (paper: relu).

    Raises:
        ConfigError: the samples are not images.
    """
    return _cifar_resnet("resnet8", 1, input_shape, num_classes, width, norm, shortcut, stem, activation)


def resnet14(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: BaseWidth = 16,
    norm: Norm = "batch",
    shortcut: Shortcut = "pad",
    stem: Stem = "3x3",
    activation: Activation = "relu",
) -> nn.Module:
    """Return the CIFAR residual network of 14 layers (n = 2); otherwise as `resnet8`.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        width: channels of the first stage (paper: 16).
        norm: normalisation behind every convolution: batch, group (8 groups) or none (then with biases).
        shortcut: where the shape changes: zeros for new channels (paper) or a 1x1 convolution.
        stem: first convolution: 3x3 (paper, for 32 pixels), or 7x7 with stride 2 for larger images.
        activation: nonlinearity (paper: relu).

    Raises:
        ConfigError: the samples are not images.
    """
    return _cifar_resnet("resnet14", 2, input_shape, num_classes, width, norm, shortcut, stem, activation)


def resnet20(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: BaseWidth = 16,
    norm: Norm = "batch",
    shortcut: Shortcut = "pad",
    stem: Stem = "3x3",
    activation: Activation = "relu",
) -> nn.Module:
    """Return the CIFAR residual network of 20 layers (n = 3, 0.27 M parameters); otherwise as `resnet8`.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        width: channels of the first stage (paper: 16).
        norm: normalisation behind every convolution: batch, group (8 groups) or none (then with biases).
        shortcut: where the shape changes: zeros for new channels (paper) or a 1x1 convolution.
        stem: first convolution: 3x3 (paper, for 32 pixels), or 7x7 with stride 2 for larger images.
        activation: nonlinearity (paper: relu).

    Raises:
        ConfigError: the samples are not images.
    """
    return _cifar_resnet("resnet20", 3, input_shape, num_classes, width, norm, shortcut, stem, activation)


def resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: BaseWidth = 64,
    norm: Norm = "batch",
    shortcut: Shortcut = "projection",
    stem: Stem = "3x3",
    activation: Activation = "relu",
) -> nn.Module:
    """Return ResNet-18 for small images: a 3x3 stem without pooling, 64-512 channels, two blocks per stage.

    11,173,962 parameters on CIFAR-10. ImageNet's, with a 7x7 stem and pooling, is `torchvision.resnet18`.
    Source: He et al. 2015, arxiv.org/abs/1512.03385, table 1, with the stem of section 4.2.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of logits.
        width: channels of the first stage (64); the others have 2, 4 and 8 times as many.
        norm: normalisation behind every convolution: batch, group (8 groups) or none (then with biases).
        shortcut: where the shape changes: zeros for new channels or a 1x1 convolution (usual here).
        stem: first convolution: 3x3 (paper, for 32 pixels), or 7x7 with stride 2 for larger images.
        activation: nonlinearity (paper: relu).

    Raises:
        ConfigError: the samples are not images.
    """
    widths = (width, 2 * width, 4 * width, 8 * width)
    return _resnet("resnet18", 2, widths, input_shape, num_classes, norm, shortcut, stem, activation)


def _cifar_resnet(
    name: str,
    blocks: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int,
    norm: Norm,
    shortcut: Shortcut,
    stem: Stem,
    activation: Activation,
) -> nn.Module:
    widths = (width, 2 * width, 4 * width)
    return _resnet(name, blocks, widths, input_shape, num_classes, norm, shortcut, stem, activation)


def _resnet(
    name: str,
    blocks: int,
    widths: Sequence[int],
    input_shape: tuple[int, ...],
    num_classes: int,
    norm: Norm,
    shortcut: Shortcut,
    stem: Stem,
    activation: Activation,
) -> nn.Module:
    """Build stem, stages and head; every stage but the first begins with stride 2."""
    channels, _, _ = require_images(name, input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=_conv(channels, widths[0], *((3, 1) if stem == "3x3" else (7, 2)), norm),
        norm=_norm(widths[0], norm),
        activation=activation_layer(activation),
    )
    channels = widths[0]
    for stage, out in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            layers[f"stage{stage}_block{block}"] = ResidualBlock(
                channels,
                out,
                stride=2 if block == 1 and stage > 1 else 1,
                norm=norm,
                shortcut=shortcut,
                activation=activation,
            )
            channels = out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)


def _conv(channels: int, out: int, kernel: int, stride: int, norm: Norm) -> nn.Conv2d:
    # a bias before a normalization has no effect
    return nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=norm == "none")


def _norm(channels: int, norm: Norm) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(8, channels), channels) if norm == "group" else nn.Identity()
