"""Describing a network gives the right shapes, names faults, and changes no state."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.models.convolutional import cnn
from trainer.models.dense import mlp
from trainer.models.describe import LayerRow, check_shapes, layer_table


class LooksAtValues(nn.Module):
    """A user's model with data-dependent control flow, which cannot be traced from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits: Tensor = self.output(flat if flat.abs().max().item() < 1 else -flat)
        return logits


class RefusesZeros(nn.Module):
    """Decorrelates the features of a batch, which is not possible if all of them are 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        factor = torch.linalg.cholesky(flat.T @ flat)
        return torch.linalg.solve_triangular(factor, flat.T, upper=False).T


class WithToken(nn.Module):
    """A module with its own parameter and submodules, a tied weight, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, samples: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(samples) + self.token)
        return logits


class Broken(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        raise KeyError("no such thing")


def disturbable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


def test_layer_table_of_a_small_network() -> None:
    assert layer_table(mlp((1, 2, 3), 4, hidden=(5,)), (1, 2, 3)) == [
        LayerRow("flatten", "Flatten", (6,), 0),
        LayerRow("hidden1", "Linear", (5,), 35),
        LayerRow("activation1", "ReLU", (5,), 0),
        LayerRow("output", "Linear", (4,), 24),
    ]


def test_layer_table_counts_every_parameter_once() -> None:
    model = WithToken()
    assert layer_table(model, (4,)) == [
        LayerRow("", "WithToken", (4,), 4),
        LayerRow("first", "Linear", (4,), 16),
        LayerRow("second", "Linear", (4,), 0),
        LayerRow("unused", "Linear", None, 6),
    ]


def test_output_shapes_are_those_of_a_real_pass() -> None:
    model = cnn((3, 17, 20), 5, activation="relu")
    shapes = {row.name: row.output_shape for row in layer_table(model, (3, 17, 20))}
    assert isinstance(model, nn.Sequential)
    value = torch.zeros(2, 3, 17, 20)
    for name, layer in model.named_children():
        value = layer(value)
        assert shapes[name] == tuple(value.shape[1:])


@pytest.mark.parametrize("in_training", [True, False])
def test_looking_changes_nothing(in_training: bool) -> None:
    model = disturbable().train(in_training)
    model.get_submodule("2").eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    check_shapes(model, (1, 4, 4), 3)
    layer_table(model, (1, 4, 4))
    with pytest.raises(ConfigError):
        check_shapes(model, (1, 9, 9), 3)
    assert torch.equal(random, torch.random.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_a_model_that_refuses_zeros_is_run_without_values() -> None:
    check_shapes(RefusesZeros(), (1, 1, 3), 3)
    with pytest.raises(ConfigError, match="do not pass through the model"):
        check_shapes(nn.Sequential(RefusesZeros(), nn.Linear(5, 3)), (1, 1, 3), 3)


def test_models_that_look_at_values_are_run_with_values() -> None:
    check_shapes(LooksAtValues(), (1, 2, 2), 3)
    with pytest.raises(ConfigError, match=r"layer output \(Linear\), which received \[N, 9\]"):
        check_shapes(LooksAtValues(), (1, 3, 3), 3)


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (
            disturbable(),
            (3, 4, 4),
            [r"layer 0 \(Conv2d\)", r"received \[N, 3, 4, 4\]", r"expected: \[N, 1, H, W\]"],
        ),
        (disturbable(), (1, 2, 2), [r"layer 0 \(Conv2d\)", r"at least 3 x 3"]),
        (disturbable(), (1, 5, 5), [r"layer 4 \(Linear\)", r"received \[N, 36\]", r"expected: \[N, 16\]"]),
        (
            nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
            (1, 1, 1),
            [r"layer 0 \(MaxPool2d\)", "at least 2 pixels"],
        ),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), (4,), [r"layer 1 \(BatchNorm1d\)", "3 channels"]),
        (nn.Sequential(nn.Conv2d(1, 2, 5), nn.AdaptiveAvgPool2d(1)), (1, 3, 3), [r"layer 0 \(Conv2d\)"]),
        (Broken(), (4,), ["forward function", "KeyError: 'no such thing'", r"test_models_describe\.py:\d+"]),
        (nn.LSTM(5, 3), (4, 5), ["returns a tuple of 2 entries", "fix: state model.output"]),
        (nn.Linear(4, 2), (4,), [r"shape \[N, 2\]", r"logits \[N, 3\]"]),
        (nn.Flatten(0), (4,), [r"shape \[\?\]"]),
    ],
)
def test_what_does_not_fit_is_told_with_its_layer(
    model: nn.Module, shape: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shapes(model, shape, 3)
    for word in words:
        assert re.search(word, str(caught.value))
