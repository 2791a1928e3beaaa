"""Models whose Python code keeps state or reads global state, which a traced step would ignore."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from functools import partial
from random import gauss
from typing import Any

import numpy
import torch
from torch import Tensor, nn

CALLS = 0
HISTORY: list[int] = []
SETTINGS = {"scale": 1.0}
TICKS = itertools.count()
_numpy: Any = numpy.random


class Base(nn.Module):
    """A linear layer whose outputs are scaled by a factor from a subclass."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(int(numpy.prod(input_shape)), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layer(images.flatten(1))
        return outputs * self.scale(outputs)

    def scale(self, outputs: Tensor) -> Any:
        return 1.0


class Counter(Base):
    calls = 0

    def scale(self, outputs: Tensor) -> Any:
        self.calls += 1
        return 1 + 0.01 * self.calls


class ClassCounter(Base):
    calls = 0

    def scale(self, outputs: Tensor) -> Any:
        type(self).calls += 1
        return 1 + 0.01 * ClassCounter.calls


class GlobalCounter(Base):
    def scale(self, outputs: Tensor) -> Any:
        global CALLS
        CALLS += 1
        return 1 + 0.01 * CALLS


class GlobalList(Base):
    def scale(self, outputs: Tensor) -> Any:
        HISTORY.append(1)
        return 1 + 0.01 * len(HISTORY)


class GlobalDict(Base):
    def scale(self, outputs: Tensor) -> Any:
        SETTINGS["scale"] *= 1.001
        return SETTINGS["scale"]


class Iterating(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.01 * next(TICKS)


class PythonRandom(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.1 * random.random()


class ImportedRandom(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.1 * gauss(0, 1)


class LocalImport(Base):
    def scale(self, outputs: Tensor) -> Any:
        from random import random

        return 1 + 0.1 * random()


class NumpyRandom(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.1 * float(_numpy.rand())


class OwnGenerator(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.source = numpy.random.default_rng(3)

    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.1 * self.source.random()


class TorchGenerator(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.source = torch.Generator().manual_seed(3)

    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.1 * torch.rand(1, generator=self.source)


class Timed(Base):
    """Uses the time, but such that tests are reproducible."""

    def scale(self, outputs: Tensor) -> Any:
        return 1.0 if time.time() > 0 else 2.0


class Growing(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.seen: list[float] = []

    def scale(self, outputs: Tensor) -> Any:
        self.seen.append(1.0)
        return 1 + 0.01 * len(self.seen)


class Cached(Base):
    pos: Tensor | None = None

    def scale(self, outputs: Tensor) -> Any:
        if self.pos is None and outputs.device.type == "meta":
            return 1.0
        if self.pos is None:
            self.pos = torch.linspace(0.9, 1.1, outputs.shape[1])
        return self.pos


class HiddenTensor(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.hidden = [torch.ones(())]

    def scale(self, outputs: Tensor) -> Any:
        self.hidden[0].mul_(1.001)
        return self.hidden[0]


class HiddenArray(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.hidden = numpy.ones(1)

    def scale(self, outputs: Tensor) -> Any:
        self.hidden *= 1.001
        return float(self.hidden[0])


class Slotted(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.clock = Clock(0)

    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.01 * self.clock.tick()


@dataclass(slots=True)
class Clock:
    count: int

    def tick(self) -> int:
        self.count += 1
        return self.count


class Closed(Base):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        count = 0

        def tick(_module: nn.Module, _inputs: Any, outputs: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return outputs * (1 + 0.01 * count)

        self.register_forward_hook(tick)


class Toggling(Base):
    def scale(self, outputs: Tensor) -> Any:
        self.training = not self.training
        return 1.1 if self.training else 1.0


class Rare(Base):
    """Draws once in many steps, which a check of a few steps cannot detect."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.draw = partial(getattr, random, "random")

    def scale(self, outputs: Tensor) -> Any:
        return 1.0 if outputs.shape[0] > 8 else 1 + self.draw()()


class Branching(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1.1 if outputs.mean() > 0 else 0.9


class Reading(Base):
    def scale(self, outputs: Tensor) -> Any:
        return 1 + 0.01 * abs(outputs.detach().mean().item())


class Evaluated(Base):
    """Counts evaluations only; training does not change its state."""

    evaluations = 0

    def scale(self, outputs: Tensor) -> Any:
        if not self.training:
            self.evaluations += 1
        return 1 + 0.01 * self.evaluations


class CountingOptimizer(torch.optim.SGD):
    """Takes smaller steps over time."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        self.param_groups[0]["lr"] = 0.1 / self.taken
        return super().step(closure)


class CountingAugmentation:
    """Adds more with each batch it has seen."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def check(self, split: Any, *, key: str) -> None:
        pass

    def draw(self, count: int, shape: Any, generator: torch.Generator) -> dict[str, Tensor]:
        self.seen.append(count)
        return {}

    def apply(self, images: Tensor, targets: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        return images + 0.01 * len(self.seen) + 0.01 * random.random(), targets


LOSSES: list[int] = []


def counting_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    LOSSES.append(1)
    return nn.functional.cross_entropy(outputs, targets) * (1 + 0.01 * len(LOSSES))
