"""The contract of every model builder, and the parameter counts published in papers and their code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import one_in
from torch import nn
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.models.convolutional import cnn, deepobs_2c2d, deepobs_3c3d, lenet5
from trainer.models.dense import linear, mlp
from trainer.models.describe import check_shapes, layer_table
from trainer.models.layers import ACTIVATIONS, Activation, activation_layer
from trainer.models.residual import PadShortcut, resnet8, resnet14, resnet18, resnet20
from trainer.seeding import global_stream

Builder = Callable[..., nn.Module]

BUILDERS: list[Builder] = [
    linear,
    mlp,
    cnn,
    lenet5,
    deepobs_2c2d,
    deepobs_3c3d,
    resnet8,
    resnet14,
    resnet20,
    resnet18,
]
SMALLER: dict[Builder, dict[str, Any]] = {resnet18: {"width": 8}}
"""Options that keep the tests quick; the rest of the contract does not depend on them."""

RESNET_OPTIONS: dict[str, Any] = {"width": 8, "norm": "group", "stem": "7x7", "activation": "gelu"}
OTHER_VALUES: dict[Builder, dict[str, Any]] = {
    linear: {"bias": False},
    mlp: {"hidden": (50, 20), "activation": "tanh", "dropout": 0.5, "batch_norm": True},
    cnn: {
        "channels": (8, 16),
        "hidden": 32,
        "activation": "relu",
        "dropout": 0.5,
        "batch_norm": True,
    },
    lenet5: {"activation": "relu", "pool": "max", "padding": 0},
    deepobs_2c2d: {"activation": "elu"},
    deepobs_3c3d: {"activation": "elu"},
    resnet8: {**RESNET_OPTIONS, "shortcut": "projection"},
    resnet14: {**RESNET_OPTIONS, "shortcut": "projection"},
    resnet20: {**RESNET_OPTIONS, "shortcut": "projection"},
    resnet18: {**RESNET_OPTIONS, "shortcut": "pad"},
}


def build(
    builder: Builder, shape: tuple[int, ...] = (3, 16, 16), classes: int = 4, **options: Any
) -> nn.Module:
    with global_stream("init", 0):
        return builder(shape, classes, **{**SMALLER.get(builder, {}), **options})


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def separable_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 32 images [32, 3, 16, 16] around four prototypes, and their classes."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(32) % 4
    prototypes = torch.randn(4, 3, 16, 16, generator=generator)
    return prototypes[targets] + 0.3 * torch.randn(32, 3, 16, 16, generator=generator), targets


@pytest.mark.parametrize("builder", one_in(3, BUILDERS))
def test_it_learns_a_separable_problem(builder: Builder) -> None:
    model, (images, targets) = build(builder), separable_images()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_seed_decides_the_start_and_the_global_generator_is_put_back(builder: Builder) -> None:
    before = torch.random.get_rng_state()
    first, second = build(builder), build(builder)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with global_stream("init", 1):
        other = builder((3, 16, 16), 4, **SMALLER.get(builder, {}))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("builder", "shape"),
    one_in(
        3,
        (
            (builder, shape)
            for shape in ((1, 28, 28), (3, 32, 32), (3, 96, 96), (2, 17, 23))
            for builder in BUILDERS
        ),
    ),
)
def test_logits_have_the_shape_of_the_classes(builder: Builder, shape: tuple[int, ...]) -> None:
    model = build(builder, shape, classes=7)
    check_shapes(model, shape, 7)
    if shape != (3, 96, 96):
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("builder", [linear, mlp])
def test_flat_samples_do_as_well(builder: Builder) -> None:
    assert build(builder, (5,))(torch.zeros(3, 5)).shape == (3, 4)


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_gradient_reaches_every_parameter(builder: Builder) -> None:
    model, (images, targets) = build(builder), separable_images()
    torch.autograd.backward(functional.cross_entropy(model(images), targets))
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize(
    ("builder", "option"),
    one_in(3, ((builder, option) for builder in BUILDERS for option in OTHER_VALUES[builder])),
)
def test_every_option_changes_the_network(builder: Builder, option: str) -> None:
    images, _ = separable_images()
    base: dict[str, Any] = {"width": 16} if "width" in OTHER_VALUES[builder] else {}
    outputs = []
    for options in (base, {**base, option: OTHER_VALUES[builder][option]}):
        model = build(builder, **options)
        torch.manual_seed(0)
        outputs.append((count(model), model(images)))
    (count_before, before), (count_after, after) = outputs
    assert count_before != count_after or not torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("builder", BUILDERS)
def test_options_are_keywords_with_annotation_default_and_help(builder: Builder) -> None:
    options = list(inspect.signature(builder).parameters.values())[2:]
    assert {option.name for option in options} == set(OTHER_VALUES[builder])
    for option in options:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.annotation is not inspect.Parameter.empty
        assert option.default is not inspect.Parameter.empty
        assert re.search(rf"^ +{option.name}: \S", builder.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(
    ("builder", "shape", "options", "parameters"),
    [
        (linear, (1, 28, 28), {}, 7_850),
        (mlp, (1, 28, 28), {}, 784 * 200 + 200 + 200 * 10 + 10),
        (mlp, (1, 28, 28), {"hidden": ()}, 7_850),
        (cnn, (3, 32, 32), {}, 145_578),
        (lenet5, (1, 28, 28), {}, 61_706),
        (lenet5, (1, 32, 32), {"padding": 0}, 61_706),
        (deepobs_2c2d, (1, 28, 28), {}, 3_274_634),
        (deepobs_3c3d, (3, 32, 32), {}, 895_210),
        (resnet20, (3, 32, 32), {}, 269_722),
        (resnet18, (3, 32, 32), {"width": 64}, 11_173_962),
    ],
)
def test_published_parameter_counts(
    builder: Builder, shape: tuple[int, ...], options: dict[str, Any], parameters: int
) -> None:
    model = build(builder, shape, classes=10, **options)
    assert count(model) == parameters
    assert sum(row.parameters for row in layer_table(model, shape)) == parameters


@pytest.mark.parametrize(
    ("builder", "layers"), [(resnet8, 8), (resnet14, 14), (resnet20, 20), (resnet18, 18)]
)
def test_residual_networks_have_as_many_weight_layers_as_their_name_says(
    builder: Builder, layers: int
) -> None:
    model = build(builder, shortcut="pad")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_residual_networks_of_every_kind_keep_a_bias_only_without_norm(norm: str, shortcut: str) -> None:
    model = build(resnet8, norm=norm, shortcut=shortcut, width=6)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert {layer.bias is not None for layer in convolutions} == {norm == "none"}
    assert model(torch.randn(2, 3, 16, 16)).isfinite().all()


def test_the_cnn_has_no_activation_unless_asked_for() -> None:
    kinds = [type(layer).__name__ for layer in build(cnn, (3, 32, 32)).children()]
    assert kinds == [*["Conv2d", "MaxPool2d"] * 3, "Flatten", "Linear", "Linear"]
    assert (
        sum(isinstance(layer, nn.ReLU) for layer in build(cnn, (3, 32, 32), activation="relu").children())
        == 4
    )


@pytest.mark.parametrize("size", [(28, 28), (29, 29), (28, 29), (31, 40)])
def test_3c3d_pools_as_tensorflow_does(size: tuple[int, int]) -> None:
    """TensorFlow's "same" padding: output ceil(n / 2), with the odd pixel of padding at the end."""
    model = build(deepobs_3c3d, (3, *size))
    assert isinstance(model, nn.Sequential)
    inner = model[:2](torch.randn(2, 3, *size))
    pads = []
    for length in reversed(inner.shape[2:]):
        total = max((-(-length // 2) - 1) * 2 + 3 - length, 0)
        pads += [total // 2, total - total // 2]
    expected = functional.max_pool2d(functional.pad(inner, pads, value=-torch.inf), 3, 2)
    assert torch.equal(model[2](inner), expected)


def test_pad_shortcut_keeps_every_second_pixel_and_adds_empty_channels() -> None:
    images = torch.randn(2, 4, 5, 6)
    padded = PadShortcut(4, 8, stride=2)(images)
    assert padded.shape == (2, 8, 3, 3)
    assert torch.equal(padded[:, 2:6], images[:, :, ::2, ::2])
    assert padded[:, :2].abs().sum() == padded[:, 6:].abs().sum() == 0


@pytest.mark.parametrize("builder", [b for b in BUILDERS if b not in (linear, mlp)])
def test_convolutions_refuse_flat_samples(builder: Builder) -> None:
    with pytest.raises(ConfigError, match=r"needs images.*\[64\]"):
        builder((64,), 10)


@pytest.mark.parametrize(
    ("builder", "size", "layer"),
    [(cnn, 7, "pool3"), (lenet5, 11, "pool2"), (deepobs_3c3d, 4, "conv1"), (deepobs_3c3d, 8, "conv2")],
)
def test_images_that_are_too_small_name_the_layer(builder: Builder, size: int, layer: str) -> None:
    with pytest.raises(ConfigError, match=f"too small.*{layer}"):
        builder((1, size, size), 10)


@pytest.mark.parametrize(("builder", "size"), [(cnn, 8), (lenet5, 12), (deepobs_3c3d, 9), (deepobs_2c2d, 1)])
def test_the_smallest_images_that_the_docstrings_promise(builder: Builder, size: int) -> None:
    assert build(builder, (1, size, size))(torch.zeros(2, 1, size, size)).shape == (2, 4)


def test_every_activation_has_a_layer() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS)
    values = torch.linspace(-2, 2, 9)
    assert torch.equal(activation_layer("leaky_relu")(values), functional.leaky_relu(values))
    assert torch.equal(activation_layer("gelu")(values), functional.gelu(values))
    misspelt: Any = "relo"
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        activation_layer(misspelt)


@given(
    builder=st.sampled_from([cnn, lenet5, deepobs_2c2d, deepobs_3c3d, resnet8]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    classes=st.integers(1, 12),
)
def test_any_size_either_fits_or_is_refused_by_the_builder(
    builder: Builder, shape: tuple[int, int, int], classes: int
) -> None:
    with torch.device("meta"):  # the layers' arithmetic alone, no weights
        try:
            model = builder(shape, classes)
        except ConfigError:
            return  # too small; the tests above hold the limits
    check_shapes(model, shape, classes)
