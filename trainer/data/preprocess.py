"""Preprocess stored samples for the model, in training and evaluation: scale, resize, pad, normalize.

The order is: uint8 to float32 in [0, 1], augmentations (only in training), resize, pad, normalize. All
operations are deterministic and run on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data.dataset import Split
from trainer.errors import ConfigError

_CHUNK_VALUES = 2**22  # float64 values per chunk of the statistics: 32 MiB


@dataclass(frozen=True, slots=True, eq=False)
class Prepare:
    """Converts stored samples to float32 batches; created by `make_prepare`. Tokens (int64) stay as they are.

    Args:
        input_shape: (C, H, W) or (D,), as stored.
        resize: height and width to resize images to; None = no resize.
        pad: zero padding on every side in pixels; None = none.
        mean: float32, [C, 1, 1] or [D] or one number, in units of pixel / 255; None = no normalization.
        std: as `mean`, for the standard deviation.
    """

    input_shape: tuple[int, ...]
    resize: int | None
    pad: int | None
    mean: Tensor | None
    std: Tensor | None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one preprocessed sample, the input of the model."""
        return output_shape(self.input_shape, resize=self.resize, pad=self.pad)

    def to(self, device: torch.device | str) -> Prepare:
        """Return a copy with mean and std on a device."""
        if self.mean is None or self.std is None:
            return self
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Convert stored inputs, uint8 or float32 [N, ...], to the model's inputs, float32 [N, ...].

        Without a resize, uint8 needs one multiplication and one addition per value.
        """
        if inputs.dtype != torch.uint8 or self.resize is not None or self.mean is None or self.std is None:
            return self.finish(self.unit(inputs))
        # Scale and shift are not stored: each has only C values, and a traced graph folds them.
        scale = 1.0 / (255.0 * self.std)
        return self._padded(inputs).to(torch.float32).mul_(scale).add_(-self.mean / self.std)

    def unit(self, inputs: Tensor) -> Tensor:
        """Return uint8 pixels as float32 in [0, 1]; return float inputs unchanged."""
        return inputs.to(torch.float32).div_(255.0) if inputs.dtype == torch.uint8 else inputs

    def finish(self, images: Tensor) -> Tensor:
        """Resize, pad and normalize the result of `unit` (and of the augmentations)."""
        if self.resize is not None:
            images = torch.nn.functional.interpolate(
                images, size=(self.resize, self.resize), mode="bilinear", align_corners=False, antialias=True
            )
        images = self._padded(images)
        if self.mean is None or self.std is None:
            return images
        return images.sub(self.mean).div_(self.std)

    def _padded(self, images: Tensor) -> Tensor:
        return images if self.pad is None else torch.nn.functional.pad(images, [self.pad] * 4)


def output_shape(
    input_shape: tuple[int, ...], *, resize: int | None = None, pad: int | None = None
) -> tuple[int, ...]:
    """Return the shape of one sample after resize and pad."""
    if len(input_shape) != 3:
        return input_shape
    channels, *sides = input_shape
    height, width = (resize, resize) if resize is not None else sides
    border = 2 * (pad or 0)
    return (channels, height + border, width + border)


def make_prepare(
    *,
    input_shape: tuple[int, ...],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    pad: int | None = None,
) -> Prepare:
    """Return the preprocessing of samples of one shape.

    Args:
        input_shape: (C, H, W) or (D,), as stored.
        mean: one number, or one per channel (per feature), in units of pixel / 255; None = no normalization.
        std: as `mean`, for the standard deviation, above 0; required if and only if `mean` is given.
        resize: height and width to resize to (bilinear, antialiased), in pixels; None = no resize.
        pad: zero padding on every side in pixels, after the resize and before normalization; None = none.

    Raises:
        ConfigError: the length of `mean` or `std` does not match the channels, or flat features are to be
            resized or padded.
    """
    image = len(input_shape) == 3
    for key, value in (("resize", resize), ("pad", pad)):
        if value is not None and not image:
            raise ConfigError(
                f"{key} {value} needs images; the samples are flat: {list(input_shape)}",
                key=key,
                fix=f"remove {key}",
            )
        if value is not None and value < 1:
            raise ConfigError(f"{key} {value}", key=key, expected="1 or more pixels, or null")
    if (mean is None) != (std is None):
        raise ConfigError("mean and std must be given together", key="normalize", fix="set both, or neither")
    if mean is None or std is None:
        return Prepare(input_shape, resize, pad, None, None)
    return Prepare(
        input_shape,
        resize,
        pad,
        _per_channel(mean, input_shape, "normalize.mean"),
        _per_channel(std, input_shape, "normalize.std"),
    )


def _per_channel(numbers: Sequence[float], input_shape: tuple[int, ...], key: str) -> Tensor:
    channels, image = input_shape[0], len(input_shape) == 3
    if len(numbers) not in (1, channels):
        what = "channels" if image else "features"
        raise ConfigError(
            f"{len(numbers)} numbers for samples of {channels} {what}",
            key=key,
            expected=f"1 number or {channels}, one per {what[:-1]}" if channels > 1 else "1 number",
        )
    if key.endswith("std") and min(numbers) <= 0:
        raise ConfigError(f"a standard deviation of {min(numbers)}", key=key, expected="above 0")
    return torch.tensor(numbers, dtype=torch.float32).view((-1, 1, 1) if image else (-1,))


def dataset_mean_std(split: Split) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel (or feature) of a training split, for `make_prepare`.

    The unit is pixel / 255 for uint8. The computation uses float64; the standard deviation divides by the
    count. For a constant channel it is 1, so that the channel is only shifted.
    """
    pixels = split.inputs.dtype == torch.uint8
    moments = _moments_of_pixels if pixels and split.inputs.ndim == 4 else _moments
    mean, variance = moments(split.inputs)
    unit = 255.0 if pixels else 1.0
    mean, std = mean / unit, variance.sqrt() / unit
    # Rounding errors give a constant float channel a deviation of 1e-16 of its mean; treat it as 0.
    return mean.tolist(), torch.where(std > 1e-13 * mean.abs(), std, 1.0).tolist()


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel (or feature), in two passes over chunks."""
    flat = inputs.ndim == 2
    axes = (0,) if flat else (0, 2, 3)
    rows = max(1, _CHUNK_VALUES // inputs[0].numel())
    count = inputs.numel() // inputs.shape[1]
    chunks = torch.split(inputs, rows)
    mean = torch.stack([chunk.double().sum(axes) for chunk in chunks]).sum(0) / count
    centre = mean if flat else mean.view(-1, 1, 1)
    squares = torch.stack([(chunk.double() - centre).square_().sum(axes) for chunk in chunks]).sum(0)
    return mean, squares / count


def _moments_of_pixels(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of uint8 images, from how often each of the 256 values occurs.

    For MNIST this takes 0.1 s, two passes over its pixels 1.7 s.
    """
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in inputs.unbind(1)])
    values, total = torch.arange(256.0, dtype=torch.float64), inputs.numel() / inputs.shape[1]
    mean = (counts * values).sum(1) / total
    return mean, (counts * (values - mean.unsqueeze(1)).square()).sum(1) / total
