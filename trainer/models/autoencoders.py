"""Autoencoders and variational autoencoders, fully connected and convolutional.

They return the reconstruction of a sample, flattened: float [N, D], as the task `reconstruction` requires.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.models.layers import Activation, Width, activation_layer, require_images

Likelihood = Literal["bernoulli", "gaussian"]
Widths = Annotated[tuple[Width, ...], Field(max_length=1000)]
Channels = Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)]


class Vae(nn.Module):
    """A variational autoencoder with a normal prior and a normal approximate posterior.

    q(z|x) = N(mean, exp(log_variance)) with a diagonal covariance, p(z) = N(0, 1), and p(x|z) is a Bernoulli
    distribution with the logits `decoder(z)`, or a normal distribution with this mean. z is drawn from
    torch's global generator, in training and in evaluation.

    Args:
        encoder: samples -> float [N, 2 * latent], the mean and the log variance of z.
        decoder: float [N, latent] -> float [N, D].
        latent: number of latent variables.
        likelihood: the distribution of a value of a sample given z.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int, likelihood: Likelihood) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent = latent
        self.bernoulli = likelihood == "bernoulli"

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return `output`, the mean of p(x|z), `mean` and `log_variance`; `logits` if it is Bernoulli."""
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = self.decoder(z)
        returned = {"mean": mean, "log_variance": log_variance}
        if self.bernoulli:
            return {"output": decoded.sigmoid(), "logits": decoded, **returned}
        return {"output": decoded, **returned}

    def sample(self, count: int) -> Tensor:
        """Return the means of p(x|z) for `count` draws of z from the prior: float [count, D]."""
        z = torch.randn(count, self.latent, device=next(self.parameters()).device)
        decoded: Tensor = self.decoder(z)
        return decoded.sigmoid() if self.bernoulli else decoded


def autoencoder(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    hidden: Widths = (128,),
    latent: Width = 16,
    activation: Activation = "relu",
    output_activation: Activation = "identity",
) -> nn.Module:
    """Return a fully connected autoencoder, for the task `reconstruction`.

    The encoder has the layers `hidden` and a linear layer to the latent variables; the decoder mirrors it.

    Args:
        input_shape: shape of one sample, (C, H, W) or (D,).
        num_classes: number of outputs, that of the values of a sample.
        hidden: units of each hidden layer of the encoder, first to last; the decoder has them in reverse.
        latent: number of latent variables.
        activation: nonlinearity after every hidden layer.
        output_activation: nonlinearity of the outputs; sigmoid for values in [0, 1].
    """
    size = _require_reconstruction("autoencoder", input_shape, num_classes)
    decoder = _dense((latent, *reversed(hidden), size), activation)
    encoder = nn.Sequential(nn.Flatten(), *_dense((size, *hidden, latent), activation))
    return _autoencoder(encoder, decoder, output_activation)


def conv_autoencoder(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    channels: Channels = (16, 32),
    latent: Width = 16,
    activation: Activation = "relu",
    output_activation: Activation = "identity",
) -> nn.Module:
    """Return a convolutional autoencoder, for the task `reconstruction` of images.

    The encoder has 3x3 convolutions with stride 2 and a linear layer to the latent variables; the decoder
    mirrors it with transposed convolutions.

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of outputs, that of the values of a sample.
        channels: output channels of each convolution of the encoder, first to last.
        latent: number of latent variables.
        activation: nonlinearity after every layer but the last of the encoder and of the decoder.
        output_activation: nonlinearity of the outputs; sigmoid for values in [0, 1].

    Raises:
        ConfigError: the samples are not images.
    """
    _require_reconstruction("conv_autoencoder", input_shape, num_classes)
    shape = require_images("conv_autoencoder", input_shape)
    encoder, decoder = _convolutions(shape, channels, latent, latent, activation)
    return _autoencoder(encoder, decoder, output_activation)


def vae(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    hidden: Widths = (256,),
    latent: Width = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
) -> nn.Module:
    """Return a fully connected variational autoencoder, for the task `reconstruction` and the loss `elbo`.

    The encoder returns the mean and the log variance of the latent variables z; z = mean + std * noise is
    decoded. The prediction is the mean of a sample given z.

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes".

    Args:
        input_shape: shape of one sample, (C, H, W) or (D,).
        num_classes: number of outputs, that of the values of a sample.
        hidden: units of each hidden layer of the encoder, first to last; the decoder has them in reverse.
        latent: number of latent variables.
        activation: nonlinearity after every hidden layer.
        likelihood: distribution of a value given z: `bernoulli` for values in [0, 1], or `gaussian`.
    """
    size = _require_reconstruction("vae", input_shape, num_classes)
    encoder = nn.Sequential(nn.Flatten(), *_dense((size, *hidden, 2 * latent), activation))
    return Vae(encoder, _dense((latent, *reversed(hidden), size), activation), latent, likelihood)


def conv_vae(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    channels: Channels = (16, 32),
    latent: Width = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
) -> nn.Module:
    """Return a convolutional variational autoencoder: `vae` with the layers of `conv_autoencoder`.

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes".

    Args:
        input_shape: (C, H, W), of any size.
        num_classes: number of outputs, that of the values of a sample.
        channels: output channels of each convolution of the encoder, first to last.
        latent: number of latent variables.
        activation: nonlinearity after every layer but the last of the encoder and of the decoder.
        likelihood: distribution of a value given z: `bernoulli` for values in [0, 1], or `gaussian`.

    Raises:
        ConfigError: the samples are not images.
    """
    _require_reconstruction("conv_vae", input_shape, num_classes)
    shape = require_images("conv_vae", input_shape)
    encoder, decoder = _convolutions(shape, channels, 2 * latent, latent, activation)
    return Vae(encoder, decoder, latent, likelihood)


def _autoencoder(encoder: nn.Sequential, decoder: nn.Sequential, output_activation: Activation) -> nn.Module:
    if output_activation != "identity":
        decoder.append(activation_layer(output_activation))
    return nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder))


def _require_reconstruction(model: str, input_shape: tuple[int, ...], num_classes: int) -> int:
    """Return the number of values of a sample; raise ConfigError if the model is to return another number."""
    size = math.prod(input_shape)
    if num_classes != size:
        raise ConfigError(
            f"{model} returns the {size} values of a sample, but {num_classes} outputs are required",
            key="name",
            expected="the task reconstruction",
            fix="set task=reconstruction, or choose another model",
        )
    return size


def _dense(widths: tuple[int, ...], activation: Activation) -> nn.Sequential:
    """Return linear layers with these numbers of units, with activations between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation_layer(activation)]
    return nn.Sequential(*layers[:-1])


def _convolutions(
    shape: tuple[int, int, int], channels: tuple[int, ...], encoded: int, latent: int, activation: Activation
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return an encoder of images to `encoded` values, and a decoder of `latent` values to flat images."""
    depth, height, width = shape
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for out in channels:
        down += [nn.Conv2d(depth, out, 3, stride=2, padding=1), activation_layer(activation)]
        # A convolution with stride 2 halves a length and rounds up: an even length needs one pixel more.
        padding = (1 - height % 2, 1 - width % 2)
        layer = nn.ConvTranspose2d(out, depth, 3, stride=2, padding=1, output_padding=padding)
        up = [activation_layer(activation), layer, *up]
        depth, height, width = out, -(-height // 2), -(-width // 2)
    size = depth * height * width
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, encoded))
    unflatten = nn.Unflatten(1, (depth, height, width))
    return encoder, nn.Sequential(nn.Linear(latent, size), unflatten, *up, nn.Flatten())
