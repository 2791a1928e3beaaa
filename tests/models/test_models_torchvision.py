"""torchvision's models: every name builds for the data's shape and trains a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.models import torchvision_models
from trainer.models.describe import check_shapes, layer_table
from trainer.models.torchvision_models import NAMES, build
from trainer.seeding import global_stream

SMALLEST = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224, "vit_h_14": 28}
"""Pixels that a model needs where 32 do not do."""

SMALL = ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5"]


def train_one_step(name: str, size: int) -> None:
    """Train one step on two images; the loss must be finite, the head must move."""
    with global_stream("init", 0):
        model = build(name, (3, size, size), 5)
    check_shapes(model, (3, size, size), 5)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    # the last one: vision transformers start with a head of zeros, through which no gradient passes yet
    last = list(model.parameters())[-1]
    before = last.detach().clone()
    logits = model.train()(images)
    assert logits.shape == (2, 5)
    loss = nn.functional.cross_entropy(logits, torch.tensor([1, 3]))
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(before, last)


def test_the_names_are_those_of_the_installed_torchvision() -> None:
    assert sorted(NAMES) == sorted(torchvision_models.names())


@pytest.mark.parametrize("name", SMALL)
def test_small_models_train_one_step(name: str) -> None:
    train_one_step(name, 32)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL])
def test_every_other_model_trains_one_step(name: str) -> None:
    train_one_step(name, SMALLEST.get(name, 32))


def test_grey_images_are_refused_or_repeated_as_asked() -> None:
    with pytest.raises(ConfigError, match="repeat_channels=true"):
        build("squeezenet1_1", (1, 32, 32), 10)
    with global_stream("init", 0):
        grey = build("squeezenet1_1", (1, 32, 32), 10, repeat_channels=True).eval()
    with global_stream("init", 0):
        colour = build("squeezenet1_1", (3, 32, 32), 10).eval()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(grey(images), colour(images.repeat(1, 3, 1, 1)))


def test_dropout_reaches_torchvision_and_is_refused_where_there_is_none() -> None:
    rates = [
        m.p
        for m in build("mobilenet_v3_small", (3, 32, 32), 10, dropout=0.7).modules()
        if isinstance(m, nn.Dropout)
    ]
    assert rates == [0.7]
    densenet = build("densenet121", (3, 32, 32), 10, dropout=0.3)
    assert getattr(densenet.get_submodule("features.denseblock1.denselayer1"), "drop_rate", None) == 0.3
    with pytest.raises(ConfigError, match="no dropout"):
        build("resnet18", (3, 32, 32), 10, dropout=0.5)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet19", (3, 32, 32), "did you mean"),
        ("resnet18", (784,), "needs images"),
        ("resnet18", (2, 32, 32), "takes images of 3 channels, but the data have 2"),
        ("vit_b_16", (3, 40, 40), "that 16 divides"),
        ("vit_b_16", (3, 32, 48), "square images"),
        ("maxvit_t", (3, 32, 32), "multiples of 224"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_built(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(name, shape, 10)


def test_colour_images_are_not_repeated() -> None:
    with pytest.raises(ConfigError, match="3 channels already"):
        build("resnet18", (3, 32, 32), 10, repeat_channels=True)


def test_images_too_small_for_a_model_name_the_layer() -> None:
    with pytest.raises(ConfigError, match=r"layer features\.12 \(MaxPool2d\)"):
        check_shapes(build("alexnet", (3, 32, 32), 10), (3, 32, 32), 10)


def test_attention_layers_are_described() -> None:
    model = build("vit_b_32", (3, 32, 32), 10)
    rows = layer_table(model, (3, 32, 32))
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert rows[0].kind == "VisionTransformer"
    assert rows[-1].output_shape == (10,)
