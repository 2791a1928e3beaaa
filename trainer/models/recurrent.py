"""Recurrent networks for language models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.models.layers import Probability, Width, require_tokens

Layers = Annotated[int, Field(ge=1, le=1000)]


class _Recurrent(nn.Module):
    """Logits [N, T, K] of the token after each of [N, T]; the state starts at 0 in every window."""

    def __init__(self, cells: nn.RNNBase, num_classes: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_classes, embedding)
        self.cells = cells
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(cells.hidden_size, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.cells(self.tokens(tokens))
        logits: Tensor = self.output(self.dropout(states))
        return logits


def rnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    embedding: Width = 64,
    hidden: Width = 128,
    layers: Layers = 1,
    activation: Literal["tanh", "relu"] = "tanh",
    dropout: Probability = 0.0,
) -> nn.Module:
    """Return an Elman network for tokens: embedding, recurrent layers, linear output layer.

    Source: torch.nn.RNN.

    Args:
        input_shape: (T,), the number of tokens in a window.
        num_classes: number of tokens in the vocabulary.
        embedding: number of features of a token.
        hidden: number of units of a recurrent layer.
        layers: number of recurrent layers.
        activation: activation of the recurrent layers.
        dropout: probability of dropping a unit, after every recurrent layer.
    """
    require_tokens("rnn", input_shape)
    cell = partial(nn.RNN, nonlinearity=activation)
    return _network(cell, num_classes, embedding, hidden, layers, dropout)


def gru(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    embedding: Width = 64,
    hidden: Width = 128,
    layers: Layers = 1,
    dropout: Probability = 0.0,
) -> nn.Module:
    """Return a network of gated recurrent units for tokens: embedding, GRU layers, linear output layer.

    Source: torch.nn.GRU.

    Args:
        input_shape: (T,), the number of tokens in a window.
        num_classes: number of tokens in the vocabulary.
        embedding: number of features of a token.
        hidden: number of units of a recurrent layer.
        layers: number of recurrent layers.
        dropout: probability of dropping a unit, after every recurrent layer.
    """
    require_tokens("gru", input_shape)
    return _network(nn.GRU, num_classes, embedding, hidden, layers, dropout)


def lstm(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    embedding: Width = 64,
    hidden: Width = 128,
    layers: Layers = 1,
    dropout: Probability = 0.0,
) -> nn.Module:
    """Return a long short-term memory network for tokens: embedding, LSTM layers, linear output layer.

    Source: torch.nn.LSTM.

    Args:
        input_shape: (T,), the number of tokens in a window.
        num_classes: number of tokens in the vocabulary.
        embedding: number of features of a token.
        hidden: number of units of a recurrent layer.
        layers: number of recurrent layers.
        dropout: probability of dropping a unit, after every recurrent layer.
    """
    require_tokens("lstm", input_shape)
    return _network(nn.LSTM, num_classes, embedding, hidden, layers, dropout)


def _network(
    cell: Callable[..., nn.RNNBase],
    num_classes: int,
    embedding: int,
    hidden: int,
    layers: int,
    dropout: float,
) -> nn.Module:
    """Return a network with recurrent layers of this kind."""
    between = dropout if layers > 1 else 0.0  # torch warns of dropout between layers if there is one
    cells = cell(embedding, hidden, layers, dropout=between, batch_first=True)
    return _Recurrent(cells, num_classes, embedding, dropout)
