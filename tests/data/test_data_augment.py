"""Augmentations agree with torchvision for every sample, and each sample has its own random parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from trainer.data.augment import (
    Augmentation,
    color_jitter,
    cutout,
    mixup,
    random_affine,
    random_crop,
    random_horizontal_flip,
    random_rotation,
)
from trainer.data.dataset import Split
from trainer.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(12, 3, 9, 11, generator=seeded())
TARGETS = torch.arange(12) % 4

EVERY: dict[str, Augmentation] = {
    "random_crop": random_crop(padding=3),
    "random_horizontal_flip": random_horizontal_flip(),
    "random_rotation": random_rotation(degrees=40.0),
    "random_affine": random_affine(degrees=20.0, translate=(0.3, 0.2), scale=(0.6, 1.5), shear=15.0),
    "color_jitter": color_jitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3),
    "cutout": cutout(size=4),
    "mixup": mixup(alpha=1.0, num_classes=4),
}


def augmented(
    augmentation: Augmentation, seed: int = 0, images: Tensor = IMAGES
) -> tuple[Tensor, Tensor, Any]:
    params = augmentation.draw(len(images), tuple(images.shape[1:]), seeded(seed))
    return (*augmentation.apply(images, TARGETS[: len(images)], params), params)


@pytest.mark.parametrize("name", EVERY)
def test_every_sample_has_randomness_of_its_own(name: str) -> None:
    """A common error: one random draw for the whole batch."""
    same = IMAGES[:1].expand(12, -1, -1, -1).clone()
    if name == "mixup":  # mixing equal images shows nothing
        weights = EVERY[name].draw(12, (3, 9, 11), seeded())["weight"]
        assert len(set(weights.tolist())) == 12
        return
    images, _, _ = augmented(EVERY[name], images=same)
    different = {tuple(image.flatten().tolist()) for image in images}
    assert len(different) >= (2 if name == "random_horizontal_flip" else 6)


@pytest.mark.parametrize("name", EVERY)
def test_parameters_are_rows_on_the_cpu_and_follow_the_seed(name: str) -> None:
    one, same, other = (EVERY[name].draw(12, (3, 9, 11), seeded(seed)) for seed in (1, 1, 2))
    assert all(len(values) == 12 and values.device.type == "cpu" for values in one.values())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", EVERY)
def test_apply_keeps_shape_and_inputs_and_draws_nothing(name: str) -> None:
    before, state = IMAGES.clone(), torch.get_rng_state()
    images, _, params = augmented(EVERY[name])
    again, _ = EVERY[name].apply(IMAGES, TARGETS, params)
    assert images.shape == IMAGES.shape
    assert images.dtype == torch.float32
    assert not torch.equal(images, IMAGES)
    assert torch.equal(images, again)
    assert torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", EVERY)
def test_apply_can_be_traced_with_fake_tensors(name: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    params = EVERY[name].draw(12, (3, 9, 11), seeded())
    keys = list(params)

    def step(images: Tensor, targets: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return EVERY[name].apply(images, targets, dict(zip(keys, values, strict=True)))

    graph = make_fx(step, tracing_mode="fake")(IMAGES, TARGETS, *params.values())
    other = EVERY[name].draw(12, (3, 9, 11), seeded(5))
    for traced, plain in zip(
        graph(IMAGES, TARGETS, *other.values()), EVERY[name].apply(IMAGES, TARGETS, other), strict=True
    ):
        torch.testing.assert_close(traced, plain, rtol=0, atol=1e-6)


def test_crop_agrees_with_torchvision() -> None:
    images, _, params = augmented(random_crop(padding=3))
    for n, (top, left) in enumerate(zip(params["top"].tolist(), params["left"].tolist(), strict=True)):
        expected = functional.crop(functional.pad(IMAGES[n], [3]), top, left, 9, 11)
        assert torch.equal(images[n], expected)
    drawn = random_crop(padding=1).draw(500, (3, 9, 11), seeded())
    assert set(drawn["top"].tolist()) == set(drawn["left"].tolist()) == {0, 1, 2}


def test_flip_agrees_with_torchvision() -> None:
    images, _, params = augmented(random_horizontal_flip())
    for n, flip in enumerate(params["flip"].tolist()):
        assert torch.equal(images[n], functional.horizontal_flip(IMAGES[n]) if flip else IMAGES[n])
    assert torch.equal(augmented(random_horizontal_flip(p=0.0))[0], IMAGES)
    assert torch.equal(augmented(random_horizontal_flip(p=1.0))[0], IMAGES.flip(3))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_rotation_agrees_with_torchvision(interpolation: Any) -> None:
    images, _, params = augmented(random_rotation(degrees=170.0, interpolation=interpolation))
    for n, angle in enumerate(params["angle"].tolist()):
        # torchvision counts rotate's angle against the clock and affine's with it; ours is affine's.
        expected = functional.rotate(IMAGES[n], -angle, InterpolationMode(interpolation))
        torch.testing.assert_close(images[n], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_affine_agrees_with_torchvision(interpolation: Any) -> None:
    augmentation = random_affine(
        degrees=60.0, translate=(0.3, 0.2), scale=(0.6, 1.7), shear=25.0, interpolation=interpolation
    )
    images, _, params = augmented(augmentation)
    rows = torch.stack([params[key] for key in ("angle", "shift_x", "shift_y", "scale", "shear")], 1)
    for n, (angle, across, down, scale, shear) in enumerate(rows.tolist()):
        expected = functional.affine(
            IMAGES[n], angle, [across, down], scale, [shear, 0.0], InterpolationMode(interpolation)
        )
        torch.testing.assert_close(images[n], expected, rtol=0, atol=1e-4)


def test_affine_draws_within_its_ranges() -> None:
    augmentation = random_affine(degrees=20.0, translate=(0.5, 0.25), scale=(0.5, 2.0), shear=10.0)
    drawn = augmentation.draw(4000, (1, 8, 16), seeded())
    for key, low, high in (
        ("angle", -20, 20),
        ("shift_x", -8, 8),
        ("shift_y", -2, 2),
        ("scale", 0.5, 2),
        ("shear", -10, 10),
    ):
        values = drawn[key]
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert torch.equal(drawn["shift_x"], drawn["shift_x"].round())


@pytest.mark.parametrize(
    ("option", "adjust"),
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
        ("hue", functional.adjust_hue),
    ],
)
def test_colours_agree_with_torchvision(option: str, adjust: Any) -> None:
    images = IMAGES.clone()
    images[0] = images[0, :1]  # grey pixels have no hue
    images[1, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    images[2] = 0
    augmentation = color_jitter(**{option: 0.45})
    params = augmentation.draw(12, (3, 9, 11), seeded())
    changed, _ = augmentation.apply(images, TARGETS, params)
    assert set(params) == {option}
    for n, factor in enumerate(params[option].tolist()):
        torch.testing.assert_close(changed[n], adjust(images[n], factor), rtol=0, atol=2e-6)


def test_colours_apply_one_after_the_other_and_stay_in_range() -> None:
    augmentation = color_jitter(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)
    changed, _, params = augmented(augmentation)
    assert changed.min() >= 0
    assert changed.max() <= 1
    for n in range(12):
        image = functional.adjust_brightness(IMAGES[n], float(params["brightness"][n]))
        image = functional.adjust_contrast(image, float(params["contrast"][n]))
        image = functional.adjust_saturation(image, float(params["saturation"][n]))
        image = functional.adjust_hue(image, float(params["hue"][n]))
        torch.testing.assert_close(changed[n], image, rtol=0, atol=1e-5)


def test_brightness_and_contrast_serve_grey_images() -> None:
    grey = IMAGES[:, :1].contiguous()
    changed, _, params = augmented(color_jitter(contrast=0.5), images=grey)
    for n in range(12):
        expected = functional.adjust_contrast(grey[n], float(params["contrast"][n]))
        torch.testing.assert_close(changed[n], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_cutout_leaves_a_square_clipped_at_the_border(size: int) -> None:
    augmentation = cutout(size=size, fill=0.5)
    params = augmentation.draw(12, (3, 9, 11), seeded())
    images, _ = augmentation.apply(IMAGES, TARGETS, params)
    for n, (row, column) in enumerate(zip(params["row"].tolist(), params["column"].tolist(), strict=True)):
        expected = IMAGES[n].clone()
        top, left = row - size // 2, column - size // 2
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0.5
        assert torch.equal(images[n], expected)


def test_mixup_blends_images_and_targets_by_the_same_weights() -> None:
    images, targets, params = augmented(mixup(alpha=1.0, num_classes=4))
    one_hot = torch.nn.functional.one_hot(TARGETS, 4).float()
    for n in range(12):
        weight, partner = params["weight"][n], int(params["partner"][n])
        torch.testing.assert_close(images[n], weight * IMAGES[n] + (1 - weight) * IMAGES[partner])
        torch.testing.assert_close(targets[n], weight * one_hot[n] + (1 - weight) * one_hot[partner])
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
    real = torch.rand(12, 2, generator=seeded(3))
    _, mixed = mixup(alpha=1.0, num_classes=2).apply(IMAGES, real, params)
    weight = params["weight"][:, None]
    torch.testing.assert_close(mixed, weight * real + (1 - weight) * real[params["partner"]])
    flat, _ = mixup(alpha=1.0, num_classes=4).apply(IMAGES.flatten(1), TARGETS, params)
    assert torch.equal(flat, images.flatten(1))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_the_beta_distribution(alpha: float) -> None:
    from scipy.stats import beta, kstest

    weights = mixup(alpha=alpha, num_classes=2).draw(5000, (4,), seeded())["weight"].double().numpy()
    assert kstest(weights, beta(alpha, alpha).cdf).pvalue > 0.01


def test_what_does_not_fit_is_refused() -> None:
    flat = Split(torch.zeros(2, 5), torch.zeros(2))
    grey = Split(torch.zeros(2, 1, 5, 5), torch.zeros(2))
    wide = Split(torch.full((2, 3, 5, 5), 1.5), torch.zeros(2))
    for name, augmentation in EVERY.items():
        if name == "mixup":
            augmentation.check(flat, key="augment.0")
            continue
        with pytest.raises(ConfigError, match=f"{name} needs images") as caught:
            augmentation.check(flat, key="augment.0")
        assert caught.value.problems[0].key == "augment.0"
    with pytest.raises(ConfigError, match="3 channels; the images have 1"):
        color_jitter(hue=0.1).check(grey, key="augment.0")
    with pytest.raises(ConfigError, match=r"from 1\.5 to 1\.5"):
        color_jitter(brightness=0.1).check(wide, key="augment.0")
    color_jitter(brightness=0.1).check(grey, key="augment.0")
    with pytest.raises(ConfigError, match="changes nothing"):
        color_jitter()
    with pytest.raises(ConfigError, match="scale"):
        random_affine(scale=(2.0, 1.0))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", EVERY)
def test_the_device_changes_nothing_but_rounding(name: str) -> None:
    images, targets, params = augmented(EVERY[name])
    there = {key: values.cuda() for key, values in params.items()}
    moved, mixed = EVERY[name].apply(IMAGES.cuda(), TARGETS.cuda(), there)
    torch.testing.assert_close(moved.cpu(), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed.cpu(), targets)
