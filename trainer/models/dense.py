"""Fully connected networks: the linear model and the multilayer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from trainer.models.layers import Activation, Probability, Width, activation_layer


def linear(input_shape: tuple[int, ...], num_classes: int, *, bias: bool = True) -> nn.Module:
    """Return the linear model, outputs = W x + b, on the flattened sample.

    With cross_entropy this is softmax (multinomial logistic) regression; with mse and real targets, linear
    regression.

    Args:
        input_shape: shape of one sample, (C, H, W) or (D,).
        num_classes: number of classes, or of real targets.
        bias: add the vector b.
    """
    return nn.Sequential(
        OrderedDict(flatten=nn.Flatten(), output=nn.Linear(math.prod(input_shape), num_classes, bias=bias))
    )


def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    hidden: Annotated[tuple[Width, ...], Field(max_length=1000)] = (200,),
    activation: Activation = "relu",
    dropout: Probability = 0.0,
    batch_norm: bool = False,
) -> nn.Module:
    """Return a multilayer perceptron on the flattened sample.

    `mlp((1, 28, 28), 10)` is the 784-200-10 network. A hidden layer consists of a linear layer, batch norm,
    activation and dropout, in this order. The linear layers are named `hidden1`, `hidden2` ... `output`, so
    that `hidden*.weight` matches the hidden matrices.

    Args:
        input_shape: shape of one sample, (C, H, W) or (D,).
        num_classes: number of logits.
        hidden: units of each hidden layer, first to last; empty = none, which is `linear`.
        activation: nonlinearity after every hidden layer.
        dropout: probability of zeroing a hidden unit while training, 0 to below 1.
        batch_norm: batch normalization between each hidden layer and its activation.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(input_shape)
    for number, units in enumerate(hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(width, units)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(units)
        layers[f"activation{number}"] = activation_layer(activation)
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = units
    layers["output"] = nn.Linear(width, num_classes)
    return nn.Sequential(layers)
