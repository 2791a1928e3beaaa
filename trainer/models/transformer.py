"""The decoder-only transformer of language models, as in nanoGPT."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.models.layers import Probability, Width, require_tokens


class _Attention(nn.Module):
    """Causal self-attention over [N, T, width]."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.dropout_rate = dropout
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        parts = self.queries_keys_values(x).split(width, dim=2)
        q, k, v = (part.view(samples, length, self.heads, -1).transpose(1, 2) for part in parts)
        rate = self.dropout_rate if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        joined = mixed.transpose(1, 2).reshape(samples, length, width)
        mixed_heads: Tensor = self.dropout(self.output(joined))
        return mixed_heads


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = _Attention(width, heads, dropout, bias)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=bias),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=bias),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class _Transformer(nn.Module):
    """Logits [N, T, K] of the token after each of [N, T]; T may be shorter than `context`."""

    def __init__(
        self,
        context: int,
        num_classes: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float,
        bias: bool,
        tied: bool,
    ) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(num_classes, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout, bias) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.output = nn.Linear(width, num_classes, bias=False)
        if tied:
            self.output.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                # The outputs of 2 * layers branches are added up; the sum keeps the scale of one.
                adds = name.endswith(("attention.output.weight", "mlp.2.weight"))
                std = 0.02 / math.sqrt(2 * layers) if adds else 0.02
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits


def transformer(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    layers: Annotated[int, Field(ge=1, le=1000)] = 4,
    heads: Width = 4,
    width: Width = 128,
    dropout: Probability = 0.0,
    bias: bool = False,
    tied: bool = True,
) -> nn.Module:
    """Return a decoder-only transformer: pre-norm blocks of causal attention and a GELU MLP, as nanoGPT's.

    Its context is that of the data (`data.context`). Embeddings of the positions are learned. Weights are
    drawn from a normal distribution of standard deviation 0.02, and 0.02 / sqrt(2 layers) where a block adds
    to its input.

    Source: nanoGPT's model.py; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    Args:
        input_shape: (T,), the number of tokens in a window.
        num_classes: number of tokens in the vocabulary.
        layers: number of blocks.
        heads: number of attention heads in a block; divides `width`.
        width: number of features of a token; the hidden layer of a block's MLP has 4 * width units.
        dropout: probability of dropping a feature, after the embeddings, in attention and after each branch.
        bias: add biases in linear layers and layer norms.
        tied: use the embedding of the tokens as the weights of the output layer.
    """
    context = require_tokens("transformer", input_shape)
    if width % heads:
        raise ConfigError(
            f"width {width} cannot be divided among {heads} heads", key="heads", expected="a divisor of width"
        )
    return _Transformer(context, num_classes, layers, heads, width, dropout, bias, tied)
