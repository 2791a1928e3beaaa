"""Use a user's function, as `flip(images)`, as an augmentation without a class with `draw` and `apply`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.data.augment import Augmentation, Params, Shape
from trainer.data.dataset import Split
from trainer.errors import ConfigError

ARGUMENTS = ("images", "inputs", "targets", "generator", "num_classes")
"""Parameters that such a function may have. One of the first two is required; all others are its options."""

EXPECTED = (
    "a function of `images` (and `targets`, `generator`) that returns the images or (images, targets), or a "
    "builder that returns an object with `check`, `draw` and `apply`"
)


def is_augmentation(builder: Callable[..., Any]) -> bool:
    """Return whether a function is an augmentation itself, not a builder of one."""
    return bool({"images", "inputs"} & set(inspect.signature(builder).parameters))


def require_augmentation(found: object, name: str) -> Augmentation:
    """Return the result of a builder; raise ConfigError if it is not an augmentation."""
    if not all(callable(getattr(found, method, None)) for method in ("check", "draw", "apply")):
        raise ConfigError(f"{name} returned a {type(found).__name__}", key="name", expected=EXPECTED)
    augmentation: Any = found
    return augmentation  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class FunctionAugmentation:
    """An augmentation that calls a function with each batch.

    Args:
        function: called with the `ARGUMENTS` in its signature and with `options`.
        options: its other keyword arguments.
        name: its name in messages.
        num_classes: number of classes of the data.
        key: its key in the config, relative to the data set.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any]
    name: str
    num_classes: int
    key: str

    def check(self, split: Split, *, key: str) -> None:
        """Accept any samples: errors appear at the first batch."""

    def draw(self, count: int, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `seed`: int64, the seed of the generator that is passed to the function."""
        return {"seed": torch.randint(2**63 - 1, (), generator=generator)}

    def apply(self, images: Tensor, targets: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Call the function; raise ConfigError if it returns another number of samples."""
        generator = torch.Generator().manual_seed(int(params["seed"]))
        values = (images, images, targets, generator, self.num_classes)
        wanted = inspect.signature(self.function).parameters
        given = {name: value for name, value in zip(ARGUMENTS, values, strict=True) if name in wanted}
        found = self.function(**given, **self.options)
        new, labels = found if isinstance(found, tuple) and len(found) == 2 else (found, targets)
        if not (
            isinstance(new, Tensor)
            and isinstance(labels, Tensor)
            and new.shape == images.shape
            and new.dtype == images.dtype
            and len(labels) == len(targets)
            and new.device == labels.device == images.device
        ):
            raise ConfigError(
                f"{self.name} returned {_described(found)} for {_described(images)}",
                key=self.key,
                expected="images of the same shape and type, or (images, targets)",
            )
        return new, labels


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return f"a {type(value).__name__}"
