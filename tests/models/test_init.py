"""Initial weights: the same values as torch, the right parameters, error messages; and weight histograms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.matching import matching
from trainer.models.init import (
    INIT_FUNCTIONS,
    InitRule,
    initialize,
    parameter_role,
    weight_histograms,
)
from trainer.seeding import generator

OPTIONS: dict[str, dict[str, Any]] = {
    "constant_": {"val": 0.3},
    "sparse_": {"sparsity": 0.25},
    "kaiming_uniform_": {"nonlinearity": "relu"},
    "kaiming_normal_": {"mode": "fan_out"},
    "orthogonal_": {"gain": 1.5},
    "xavier_uniform_": {"gain": 2.0},
}
DETERMINISTIC = {"constant_", "ones_", "zeros_", "eye_", "dirac_"}


def fill(name: str) -> Any:
    return partial(INIT_FUNCTIONS[name], **OPTIONS.get(name, {}))


def linear_net() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.Linear(50, 30))


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))


def net_for(name: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3)) if name == "dirac_" else linear_net()


def test_every_function_of_torch_nn_init_is_there() -> None:
    assert set(INIT_FUNCTIONS) >= {
        *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_"),
        *(
            "xavier_uniform_",
            "xavier_normal_",
            "kaiming_uniform_",
            "kaiming_normal_",
            "orthogonal_",
            "sparse_",
        ),
    }
    assert not any(name.startswith("_") for name in INIT_FUNCTIONS)


# torch's sparse_ takes part of its numbers from the global generator: its structure is tested below
@pytest.mark.parametrize("name", [name for name in INIT_FUNCTIONS if name != "sparse_"])
def test_weights_are_torchs_from_the_same_generator(name: str) -> None:
    model, expected = net_for(name), net_for(name)
    initialize(model, [InitRule(None, weight=fill(name))], generator=generator("init", 7))
    stream = {} if name in DETERMINISTIC else {"generator": generator("init", 7)}
    for parameter in expected.parameters():
        if parameter.ndim >= 2:
            fill(name)(parameter, **stream)
    for (key, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs) or ours.ndim < 2, key


@pytest.mark.parametrize("name", INIT_FUNCTIONS)
def test_the_generator_decides_and_the_global_one_is_untouched(name: str) -> None:
    def weights(seed: int) -> Tensor:
        model = net_for(name)
        initialize(model, [InitRule(None, weight=fill(name))], generator=generator("init", seed))
        return next(model.parameters()).detach()

    torch.manual_seed(0)
    first = weights(1)
    torch.manual_seed(5)
    assert torch.equal(first, weights(1))
    assert torch.equal(first, weights(2)) == (name in DETERMINISTIC)
    model = net_for(name)
    before = torch.random.get_rng_state()
    initialize(model, [InitRule(None, weight=fill(name))], generator=generator("init", 1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("function", "low", "high", "std"),
    [
        (partial(nn.init.uniform_, a=-1, b=3), -1, 3, 4 / math.sqrt(12)),
        (partial(nn.init.normal_, mean=0, std=0.2), -math.inf, math.inf, 0.2),
        (partial(nn.init.xavier_normal_, gain=2.0), -math.inf, math.inf, 2 * math.sqrt(2 / 500)),
        (nn.init.xavier_uniform_, -math.sqrt(6 / 500), math.sqrt(6 / 500), math.sqrt(2 / 500)),
        (partial(nn.init.kaiming_normal_, nonlinearity="relu"), -math.inf, math.inf, math.sqrt(2 / 200)),
        (
            partial(nn.init.kaiming_uniform_, mode="fan_out", nonlinearity="linear"),
            -0.1,
            0.1,
            math.sqrt(1 / 300),
        ),
        (partial(nn.init.trunc_normal_, std=0.05, a=-0.1, b=0.1), -0.1, 0.1, 0.05 * 0.8796),
    ],
)
def test_statistics_of_the_weights(function: Any, low: float, high: float, std: float) -> None:
    """200 inputs, 300 outputs: 60,000 draws, so the standard deviation is known to about 0.3 %."""
    layer = nn.Linear(200, 300)
    initialize(layer, [InitRule(None, weight=function)], generator=generator("init", 0))
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.weight.min() >= low - 1e-6
    assert layer.weight.max() <= high + 1e-6


def test_orthogonal_and_sparse_have_their_structure() -> None:
    square, thin = nn.Linear(20, 20), nn.Linear(20, 40)
    initialize(square, [InitRule(None, weight=nn.init.orthogonal_)], generator=generator("init", 0))
    torch.testing.assert_close(square.weight @ square.weight.T, torch.eye(20), atol=1e-5, rtol=0)
    initialize(thin, [InitRule(None, weight=fill("sparse_"))], generator=generator("init", 0))
    assert ((thin.weight == 0).sum(dim=0) == 10).all()


def test_the_rule_for_all_leaves_norm_scales_and_fills_every_bias() -> None:
    model = linear_net()
    rule = InitRule(None, weight=fill("constant_"), bias=partial(nn.init.constant_, val=0.7))
    initialize(model, [rule], generator=generator("init", 0))
    values = {name: set(parameter.flatten().tolist()) for name, parameter in model.named_parameters()}
    assert [values[f"{layer}.weight"] == {1.0} for layer in (0, 1, 2)] == [False, True, False]
    assert all(value == pytest.approx(0.3) for layer in (0, 2) for value in values[f"{layer}.weight"])
    assert all(value == pytest.approx(0.7) for layer in (0, 1, 2) for value in values[f"{layer}.bias"])


def test_the_first_rule_that_covers_a_parameter_wins_and_none_keeps_torchs_own() -> None:
    model = conv_net()
    bias = dict(model.named_parameters())["0.bias"].detach().clone()
    rules = [
        InitRule(tuple(matching(model, kind="Conv2d")), weight=nn.init.ones_, key="layers.0"),
        InitRule(None, weight=nn.init.zeros_, bias=nn.init.zeros_),
    ]
    initialize(model, rules, generator=generator("init", 0))
    parameters = dict(model.named_parameters())
    assert (parameters["0.weight"] == 1).all()
    assert torch.equal(parameters["0.bias"], bias)
    assert (parameters["2.weight"] == 0).all()
    assert (parameters["2.bias"] == 0).all()


def test_a_match_may_fill_norm_scales() -> None:
    model = linear_net()
    rule = InitRule(tuple(matching(model, kind="BatchNorm1d")), weight=nn.init.zeros_, key="layers.0")
    initialize(model, [rule], generator=generator("init", 0))
    assert (dict(model.named_parameters())["1.weight"] == 0).all()


@pytest.mark.parametrize(
    ("rules", "key", "words"),
    [
        ([InitRule((), weight=nn.init.zeros_, key="layers.0")], "layers.0.weight", "leaves no weight"),
        ([InitRule(("0.weight",), bias=nn.init.zeros_, key="layers.1")], "layers.1.bias", "leaves no bias"),
        (
            [
                InitRule(("0.weight",), weight=nn.init.ones_, key="layers.0"),
                InitRule(("0.weight",), weight=nn.init.zeros_, key="layers.1"),
            ],
            "layers.1.weight",
            "leaves no weight",
        ),
        (
            [InitRule(None, weight=nn.init.eye_)],
            "weight",
            r"cannot initialise 0.weight of shape \[8, 3, 3, 3\]",
        ),
        ([InitRule(None, bias=nn.init.xavier_normal_)], "bias", r"cannot initialise 0.bias of shape \[8\]"),
        (
            [InitRule(("2.weight",), weight=nn.init.dirac_, key="layers.0")],
            "layers.0.weight",
            r"cannot initialise 2.weight of shape \[4, 8\]",
        ),
        ([InitRule(None, weight=partial(nn.init.normal_, std=-1.0))], "weight", "cannot initialise 0.weight"),
    ],
)
def test_what_cannot_be_done_is_told(rules: list[InitRule], key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        initialize(conv_net(), rules, generator=generator("init", 0))
    assert caught.value.problems[0].key == key


def test_users_functions_draw_from_the_seed_too() -> None:
    def noisy(weight: Tensor) -> None:
        weight.copy_(torch.randn(weight.shape))

    def weights(seed: int) -> list[Tensor]:
        model = linear_net()
        before = torch.random.get_rng_state()
        initialize(model, [InitRule(None, weight=noisy)], generator=generator("init", seed))
        assert torch.equal(before, torch.random.get_rng_state())
        return [parameter.detach() for parameter in model.parameters() if parameter.ndim == 2]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert not torch.equal(weights(0)[0], weights(1)[0])


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("0.weight", (4, 4), "weight"),
        ("norm.weight", (4,), "weight"),
        ("0.bias", (4,), "bias"),
        ("attention.in_proj_weight", (12, 4), "weight"),
        ("attention.in_proj_bias", (12,), "bias"),
        ("lstm.bias_hh_l0", (16,), "bias"),
        ("class_token", (1, 1, 4), "weight"),
        ("relative_position_bias_table", (9, 4), "bias"),
        ("temperature", (1,), "other"),
    ],
)
def test_roles_of_parameters(name: str, shape: tuple[int, ...], role: str) -> None:
    assert parameter_role(name, torch.zeros(shape)) == role


def test_histograms_count_every_weight_once() -> None:
    model = linear_net()
    histograms = weight_histograms(model, bins=12)
    assert list(histograms) == ["0.weight", "2.weight"]
    for name, histogram in histograms.items():
        weight = dict(model.named_parameters())[name]
        counts, edges = torch.histogram(weight.detach().double(), 12)
        assert (len(histogram.edges), sum(histogram.counts)) == (13, weight.numel())
        assert histogram.counts == counts.tolist()
        assert histogram.edges == pytest.approx(edges.tolist())


def test_histograms_of_constant_and_of_diverged_weights() -> None:
    constant, diverged = nn.Linear(4, 5), nn.Linear(4, 5)
    nn.init.constant_(constant.weight, 2.0)
    nn.init.constant_(diverged.weight, math.nan)
    histogram = weight_histograms(constant, bins=4)["weight"]
    assert (histogram.edges, histogram.counts) == ([1.5, 1.75, 2.0, 2.25, 2.5], [0, 0, 20, 0])
    assert sum(weight_histograms(diverged)["weight"].counts) == 0
