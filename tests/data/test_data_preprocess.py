"""Scaling, normalisation, resize and pad, against torchvision and plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.transforms.v2 import functional

from trainer.data.dataset import Split
from trainer.data.preprocess import dataset_mean_std, make_prepare, output_shape
from trainer.errors import ConfigError

IMAGES = torch.randint(0, 256, (5, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEAN, STD = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]


def test_without_options_pixels_are_divided_by_255() -> None:
    prepared = make_prepare(input_shape=(3, 8, 6))(IMAGES)
    assert torch.equal(prepared, IMAGES.float() / 255)


@pytest.mark.parametrize("floats", [False, True])
def test_normalise_is_torchvisions_up_to_rounding(floats: bool) -> None:
    images = IMAGES.float() / 255 if floats else IMAGES
    prepared = make_prepare(input_shape=(3, 8, 6), mean=MEAN, std=STD)(images)
    expected = functional.normalize(IMAGES.float() / 255, MEAN, STD)
    torch.testing.assert_close(prepared, expected, rtol=0, atol=2e-6)


def test_one_number_serves_every_channel() -> None:
    one = make_prepare(input_shape=(3, 8, 6), mean=[0.5], std=[0.25])
    three = make_prepare(input_shape=(3, 8, 6), mean=[0.5] * 3, std=[0.25] * 3)
    assert torch.equal(one(IMAGES), three(IMAGES))


@pytest.mark.parametrize("resize", [4, 16])
def test_resize_is_torchvisions_antialiased_bilinear(resize: int) -> None:
    prepare = make_prepare(input_shape=(3, 8, 6), resize=resize)
    expected = functional.resize(IMAGES.float() / 255, [resize, resize], antialias=True)
    torch.testing.assert_close(prepare(IMAGES), expected)


def test_the_order_is_resize_pad_normalise() -> None:
    prepare = make_prepare(input_shape=(3, 8, 6), mean=MEAN, std=STD, resize=4, pad=2)
    expected = functional.resize(IMAGES.float() / 255, [4, 4], antialias=True)
    expected = functional.normalize(functional.pad(expected, [2]), MEAN, STD)
    torch.testing.assert_close(prepare(IMAGES), expected, rtol=0, atol=2e-6)
    assert prepare.output_shape == (3, 8, 8) == tuple(expected.shape[1:])


def test_training_and_evaluation_prepare_alike() -> None:
    prepare = make_prepare(input_shape=(3, 8, 6), mean=MEAN, std=STD, pad=1)
    torch.testing.assert_close(prepare.finish(prepare.unit(IMAGES)), prepare(IMAGES), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "options", [{}, {"mean": MEAN, "std": STD, "pad": 1}, {"mean": MEAN, "std": STD, "resize": 9}]
)
def test_it_can_be_traced_for_a_compiled_step(options: dict) -> None:
    prepare = make_prepare(input_shape=(3, 8, 6), **options)
    graph = make_fx(prepare, tracing_mode="fake", _allow_non_fake_inputs=True)(IMAGES)
    torch.testing.assert_close(graph(IMAGES.flip(0)), prepare(IMAGES.flip(0)), rtol=0, atol=1e-6)


def test_the_stored_data_are_never_written_to() -> None:
    before = IMAGES.clone()
    floats = IMAGES.float()
    for stored in (IMAGES, floats):
        for options in ({}, {"mean": MEAN, "std": STD}, {"pad": 1}, {"mean": MEAN, "std": STD, "pad": 1}):
            make_prepare(input_shape=(3, 8, 6), **options)(stored)  # type: ignore[arg-type]
    assert torch.equal(IMAGES, before)
    assert torch.equal(floats, before.float())


def test_flat_features_are_normalised_one_by_one() -> None:
    rows = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 0.1, 0]) + 3
    )
    mean, std = dataset_mean_std(Split(rows, torch.zeros(50, 1)))
    assert std[3] == 1
    prepared = make_prepare(input_shape=(4,), mean=mean, std=std)(rows)
    torch.testing.assert_close(prepared.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(prepared.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 200, 2**22])
def test_mean_and_deviation_of_images_whatever_the_chunks(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.preprocess._CHUNK_VALUES", chunk)
    mean, std = dataset_mean_std(Split(IMAGES, torch.zeros(5)))
    whole = IMAGES.double() / 255
    assert mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(whole.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_constant_channel_of_floats_is_only_shifted() -> None:
    images = torch.full((7, 1, 3, 3), 0.1)
    assert dataset_mean_std(Split(images, torch.zeros(7)))[1] == [1.0]


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((3, 8, 6), {}, (3, 8, 6)),
        ((3, 8, 6), {"pad": 2}, (3, 12, 10)),
        ((3, 8, 6), {"resize": 9, "pad": 1}, (3, 11, 11)),
        ((7,), {}, (7,)),
    ],
)
def test_output_shape(shape: tuple[int, ...], options: dict, expected: tuple[int, ...]) -> None:
    assert output_shape(shape, **options) == expected


@pytest.mark.parametrize(
    ("shape", "options", "key"),
    [
        ((3, 8, 6), {"mean": [0.5, 0.5], "std": [1.0]}, "normalize.mean"),
        ((3, 8, 6), {"mean": [0.5], "std": [1.0, 1.0]}, "normalize.std"),
        ((3, 8, 6), {"mean": [0.5], "std": [0.0]}, "normalize.std"),
        ((3, 8, 6), {"mean": [0.5]}, "normalize"),
        ((1, 8, 6), {"mean": [0.5] * 3, "std": [1.0] * 3}, "normalize.mean"),
        ((9,), {"resize": 4}, "resize"),
        ((9,), {"pad": 4}, "pad"),
        ((3, 8, 6), {"pad": 0}, "pad"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], options: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_prepare(input_shape=shape, **options)
    assert caught.value.problems[0].key == key
