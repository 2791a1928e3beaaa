"""Parameter patterns: by name, by class of the owning layer, by dimensionality, and combined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.matching import matching, trainable


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
        self.scale = nn.Parameter(torch.ones(()))


ALL = [
    "scale",
    "conv.weight",
    "conv.bias",
    "norm.weight",
    "norm.bias",
    "head.0.weight",
    "head.0.bias",
    "head.1.weight",
    "head.1.bias",
]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ALL),
        ({"name": "*.bias"}, ["conv.bias", "norm.bias", "head.0.bias", "head.1.bias"]),
        ({"name": "head.[01].weight"}, ["head.0.weight", "head.1.weight"]),
        ({"name": "*.BIAS"}, []),
        ({"name": "bias"}, []),
        ({"kind": "Linear"}, ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]),
        ({"kind": "*Norm*"}, ["norm.weight", "norm.bias"]),
        ({"kind": "Sequential"}, []),
        ({"kind": "Net"}, ["scale"]),
        ({"ndim": 2}, ["head.0.weight", "head.1.weight"]),
        ({"min_ndim": 2}, ["conv.weight", "head.0.weight", "head.1.weight"]),
        ({"ndim": 0}, ["scale"]),
        ({"name": "head.*", "kind": "Linear", "min_ndim": 2}, ["head.0.weight", "head.1.weight"]),
        ({"kind": "Conv2d", "ndim": 2}, []),
    ],
)
def test_every_given_condition_must_hold(conditions: dict[str, object], expected: list[str]) -> None:
    net = Net()
    assert matching(net, **conditions) == expected  # type: ignore[arg-type]


def test_frozen_parameters_are_nobodys() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight.requires_grad_(False)
    assert matching(net) == ["0.bias", "1.weight", "1.bias"]
    assert list(trainable(net)) == ["0.bias", "1.weight", "1.bias"]


def test_a_shared_parameter_counts_once_under_its_first_name() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert matching(net, name="*.weight") == ["0.weight"]
