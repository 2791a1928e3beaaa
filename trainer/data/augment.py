"""Augmentations of training batches, with independent random parameters for every sample of a batch.

Each augmentation has two methods. `draw` draws all random parameters on the CPU, one row per sample. `apply`
transforms the whole batch on any device; its output shapes depend only on its input shapes, so it can be
traced. Images are float32 [N, C, H, W] in [0, 1], before resize, padding and normalization.

The formulas for geometry and colour are those of torchvision.transforms.v2.functional, applied per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trainer.data.dataset import Split
from trainer.errors import ConfigError

Params = dict[str, Tensor]
Shape = tuple[int, ...]
Interpolation = Literal["nearest", "bilinear"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Protocol):
    """The interface of augmentations."""

    def check(self, split: Split, *, key: str) -> None:
        """Raise ConfigError if the samples are not supported; `key` is the augmentation's config key."""

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Return random parameters for `count` samples of this shape: CPU tensors, one row each."""
        ...

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Return new images and targets; `params` are on the images' device."""
        ...


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return float32 [count], uniform from `low` to `high`."""
    return torch.rand(count, generator=generator).mul_(high - low).add_(low)


def _need_images(split: Split, what: str, key: str) -> None:
    if split.inputs.ndim != 4:
        raise ConfigError(
            f"{what} needs images; the samples are flat: {list(split.inputs.shape[1:])}",
            key=key,
            fix="remove the augmentation",
        )


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape [N] to [N, 1, 1, 1] or [N, 1], so that it broadcasts over the samples of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Pad with zeros and crop at a random position; see `random_crop`."""

    padding: int

    def check(self, split: Split, *, key: str) -> None:
        """Need images."""
        _need_images(split, "random_crop", key)

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `top` and `left`: int64 [N], 0 to 2 * padding, in the padded image."""
        return {
            side: torch.randint(2 * self.padding + 1, (count,), generator=generator)
            for side in ("top", "left")
        }

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Crop the images."""
        count, channels, height, width = images.shape
        padded = torch.nn.functional.pad(images, [self.padding] * 4)
        rows = params["top"][:, None] + torch.arange(height, device=images.device)
        columns = params["left"][:, None] + torch.arange(width, device=images.device)
        pixels = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(count, 1, -1)
        cut = padded.flatten(2).gather(2, pixels.expand(-1, channels, -1))
        return cut.view_as(images), targets


def random_crop(*, padding: Annotated[int, Field(ge=1)] = 4) -> RandomCrop:
    """Pad every image with zeros (black) and crop it to its original size at a random position.

    Args:
        padding: zero padding on every side in pixels, from 1; also the largest shift of the image.
    """
    return RandomCrop(padding)


@dataclass(frozen=True, slots=True)
class RandomHorizontalFlip:
    """Flip horizontally; see `random_horizontal_flip`."""

    p: float

    def check(self, split: Split, *, key: str) -> None:
        """Need images."""
        _need_images(split, "random_horizontal_flip", key)

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `flip`: bool [N]."""
        return {"flip": torch.rand(count, generator=generator) < self.p}

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Flip the selected images."""
        return torch.where(_per_sample(params["flip"], images), images.flip(3), images), targets


def random_horizontal_flip(*, p: Probability = 0.5) -> RandomHorizontalFlip:
    """Flip every image horizontally with probability `p`.

    Args:
        p: probability, 0 to 1.
    """
    return RandomHorizontalFlip(p)


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """Rotate, shift, scale and shear about the centre; see `random_affine`.

    Angles are clockwise in degrees, shifts in whole pixels to the right and down.
    """

    name: str
    degrees: float
    translate: tuple[float, float]
    scale: tuple[float, float]
    shear: float
    interpolation: Interpolation

    def check(self, split: Split, *, key: str) -> None:
        """Need images."""
        _need_images(split, self.name, key)

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `angle`, `shift_x`, `shift_y`, `scale` and `shear`: float32 [N]."""
        _, height, width = shape
        across, down = self.translate[0] * width, self.translate[1] * height
        return {
            "angle": _uniform(count, -self.degrees, self.degrees, generator),
            "shift_x": _uniform(count, -across, across, generator).round_(),
            "shift_y": _uniform(count, -down, down, generator).round_(),
            "scale": _uniform(count, *self.scale, generator),
            "shear": _uniform(count, -self.shear, self.shear, generator),
        }

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Interpolate every output pixel at its position in the input image; positions outside are 0."""
        _, _, height, width = images.shape
        angle, shear = params["angle"].deg2rad(), params["shear"].deg2rad()
        cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
        # The inverse of rotation(angle) @ shear_x(shear) * scale, from output to input, about the centre.
        xx, xy = cos - sin * tan, sin + cos * tan
        yx, yy = -sin, cos
        x = torch.arange(width, device=images.device) - (width - 1) / 2
        y = torch.arange(height, device=images.device) - (height - 1) / 2
        shifted_x = (x - params["shift_x"][:, None]) / params["scale"][:, None]  # [N, W]
        shifted_y = (y - params["shift_y"][:, None]) / params["scale"][:, None]  # [N, H]
        column, row = shifted_x[:, None, :], shifted_y[:, :, None]

        def mix(of_x: Tensor, of_y: Tensor, side: int) -> Tensor:
            return (of_x[:, None, None] * column + of_y[:, None, None] * row) * (2 / side)

        grid = torch.stack([mix(xx, xy, width), mix(yx, yy, height)], dim=-1)  # [N, H, W, 2] in -1 .. 1
        moved = torch.nn.functional.grid_sample(
            images, grid, mode=self.interpolation, padding_mode="zeros", align_corners=False
        )
        return moved, targets


def random_rotation(
    *, degrees: Annotated[float, Field(gt=0, le=180)] = 10.0, interpolation: Interpolation = "bilinear"
) -> RandomAffine:
    """Rotate every image about its centre by a random angle; pixels from outside the image are 0.

    Args:
        degrees: maximum angle in either direction, in degrees, above 0, up to 180.
        interpolation: bilinear, or nearest (creates no new grey values).
    """
    return RandomAffine("random_rotation", degrees, (0.0, 0.0), (1.0, 1.0), 0.0, interpolation)


def random_affine(
    *,
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0,
    translate: tuple[Probability, Probability] = (0.1, 0.1),
    scale: tuple[Positive, Positive] = (1.0, 1.0),
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0,
    interpolation: Interpolation = "bilinear",
) -> RandomAffine:
    """Rotate, shift, scale and shear every image at random about its centre; pixels from outside are 0.

    Args:
        degrees: maximum angle in either direction, in degrees, 0 to 180.
        translate: maximum horizontal and vertical shift in either direction, as fractions of the width and
            height; shifts are whole pixels.
        scale: minimum and maximum factor, above 0; 1 keeps the size.
        shear: maximum shear along x in either direction, in degrees, 0 to below 90.
        interpolation: bilinear, or nearest (creates no new grey values).
    """
    if scale[0] > scale[1]:
        raise ConfigError(f"scale {list(scale)}", key="scale", expected="the smaller factor first")
    return RandomAffine("random_affine", degrees, translate, scale, shear, interpolation)


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in this order; see `color_jitter`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def check(self, split: Split, *, key: str) -> None:
        """Require images in [0, 1]; saturation and hue also require 3 channels."""
        _need_images(split, "color_jitter", key)
        channels = split.inputs.shape[1]
        if channels != 3 and (self.saturation or self.hue):
            raise ConfigError(
                f"saturation and hue need 3 channels; the images have {channels}",
                key=key,
                fix="set both to 0",
            )
        if channels not in (1, 3):
            raise ConfigError(f"color_jitter needs 1 or 3 channels; the images have {channels}", key=key)
        if split.inputs.is_floating_point():
            low, high = (float(end) for end in split.inputs.aminmax())
            if low < 0 or high > 1:
                raise ConfigError(
                    f"color_jitter needs images in [0, 1]; these go from {low:g} to {high:g}",
                    key=key,
                    fix="store images as uint8 or scaled to [0, 1], and normalize with data.normalize",
                )

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw a factor per strength above 0, and `hue` as a fraction of the colour circle: float32 [N]."""
        strengths = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        drawn = {
            name: _uniform(count, max(0.0, 1 - strength), 1 + strength, generator)
            for name, strength in strengths.items()
            if strength
        }
        return drawn | ({"hue": _uniform(count, -self.hue, self.hue, generator)} if self.hue else {})

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Change the colours; values stay in [0, 1]."""
        if "brightness" in params:
            images = (images * _per_sample(params["brightness"], images)).clamp(0, 1)
        if "contrast" in params:
            images = _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), params["contrast"])
        if "saturation" in params:
            images = _blend(images, _grey(images), params["saturation"])
        if "hue" in params:
            images = _turn_hue(images, params["hue"])
        return images, targets


def _grey(images: Tensor) -> Tensor:
    """Return the luma of RGB images (ITU-R 601-2), [N, 1, H, W]; return grey images unchanged."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _per_sample(factor, images)
    return (images * factor + other * (1 - factor)).clamp(0, 1)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue of RGB images [N, 3, H, W] by `turn` [N], a fraction of the colour circle, in HSV."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    grey = chroma == 0
    divisor = torch.where(grey, 1.0, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = torch.where(grey, 0.0, sector) + 6 * turn.view(-1, 1, 1)
    # A channel of HSV colour: value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6.
    parts = [(n + hue).remainder(6) for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in parts], dim=1)


def color_jitter(
    *,
    brightness: NotNegative = 0.0,
    contrast: NotNegative = 0.0,
    saturation: NotNegative = 0.0,
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0,
) -> ColorJitter:
    """Change brightness, contrast, saturation and hue of every image at random, in this order.

    Args:
        brightness: the factor is drawn from max(0, 1 - brightness) to 1 + brightness; 0 = unchanged.
        contrast: as `brightness`, for the difference from the mean grey of the image; 0 = unchanged.
        saturation: as `brightness`, for the difference from the pixel's grey (3 channels); 0 = unchanged.
        hue: maximum shift in either direction, as a fraction of the colour circle, 0 to 0.5 (3 channels).
    """
    if not (brightness or contrast or saturation or hue):
        raise ConfigError(
            "color_jitter changes nothing", expected="brightness, contrast, saturation or hue above 0"
        )
    return ColorJitter(brightness, contrast, saturation, hue)


@dataclass(frozen=True, slots=True)
class Cutout:
    """Fill a square; see `cutout`."""

    size: int
    fill: float

    def check(self, split: Split, *, key: str) -> None:
        """Need images."""
        _need_images(split, "cutout", key)

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw the centre `row`, `column` of the square: int64 [N], uniform over the image."""
        return {
            "row": torch.randint(shape[1], (count,), generator=generator),
            "column": torch.randint(shape[2], (count,), generator=generator),
        }

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Fill the squares, clipped at the image border."""
        _, _, height, width = images.shape

        def inside(centre: Tensor, side: int) -> Tensor:
            offset = torch.arange(side, device=images.device) - (centre - self.size // 2)[:, None]
            return (offset >= 0) & (offset < self.size)

        hole = (
            inside(params["row"], height)[:, None, :, None]
            & inside(params["column"], width)[:, None, None, :]
        )
        return torch.where(hole, self.fill, images), targets


def cutout(*, size: Annotated[int, Field(ge=1)] = 8, fill: Probability = 0.0) -> Cutout:
    """Fill a square at a random position of every image (DeVries & Taylor 2017, arXiv:1708.04552).

    The centre may be any pixel; the square is clipped at the image border, as in the paper.

    Args:
        size: side of the square in pixels, from 1.
        fill: value to fill with, 0 (black) to 1, before normalization. The paper fills with the mean.
    """
    return Cutout(size, fill)


@dataclass(frozen=True, slots=True)
class Mixup:
    """Mix two samples and their targets; see `mixup`."""

    alpha: float
    num_classes: int

    def check(self, split: Split, *, key: str) -> None:
        """Accept any samples."""

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `weight`: float32 [N] from Beta(alpha, alpha), and `partner`: int64 [N], a permutation."""
        # torch draws from Beta only with its global generator, so use a NumPy generator seeded from ours.
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        weight = np.random.default_rng(seed).beta(self.alpha, self.alpha, count)
        return {
            "weight": torch.from_numpy(weight).float(),
            "partner": torch.randperm(count, generator=generator),
        }

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mix the samples; class numbers become probabilities, float32 [N, K]."""
        if not targets.is_floating_point():
            targets = (targets[:, None] == torch.arange(self.num_classes, device=targets.device)).to(
                images.dtype
            )

        def mix(values: Tensor) -> Tensor:
            weight = _per_sample(params["weight"], values)
            return weight * values + (1 - weight) * values.index_select(0, params["partner"])

        return mix(images), mix(targets)


def mixup(*, alpha: Positive = 0.2, num_classes: int) -> Mixup:
    """Mix every sample and its target with another of the batch (Zhang et al. 2018, arXiv:1710.09412).

    x = w * x_i + (1 - w) * x_j with an independent w ~ Beta(alpha, alpha) for every sample.

    Args:
        alpha: parameter of the Beta distribution, above 0; small = w close to 0 or 1, 1 = w uniform.
        num_classes: number of classes (from the data, not an option of the config).
    """
    return Mixup(alpha, num_classes)
