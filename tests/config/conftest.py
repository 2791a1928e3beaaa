"""A small set of components without torch, so that these tests only test configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from trainer.config.load import Components
from trainer.config.paths import split_import_path
from trainer.config.signature_schema import schema_from_signature


def mnist(*, root: Path | None = None, download: bool = True) -> None:
    """Digits.

    Args:
        root: folder of the data; null = the default.
        download: fetch what is absent.
    """


def digits() -> None:
    """Small digits."""


def crop(*, padding: int = 4) -> None:
    """Crop."""


def flip(*, p: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:
    """Flip."""


def mlp(
    *, hidden: list[int], activation: Literal["relu", "tanh"] | None = "relu", dropout: float = 0.0
) -> None:
    """Dense network.

    Args:
        hidden: units of each hidden layer.
    """


def linear() -> None:
    """Linear."""


def zeros_(tensor: Any) -> None:
    """Zeros."""


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0) -> None:
    """Normal."""


def cross_entropy(*, label_smoothing: float = 0.0) -> None:
    """Cross entropy."""


def accuracy() -> None:
    """Accuracy."""


class SGD:
    """Gradient descent.

    Args:
        lr (float): learning rate
            (default: 1e-3)
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0, *, nesterov: bool = False
    ) -> None: ...


class Adam:
    """Adam."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> None: ...


class StepLR:
    """Steps."""

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None: ...


class Table:
    """Piecewise."""

    def __init__(self, optimizer: Any, table: dict[int, float]) -> None: ...


class LambdaLR:
    """Free."""

    def __init__(self, optimizer: Any, lr_lambda: Callable[[int], float]) -> None: ...


REGISTRIES: dict[str, dict[str, Any]] = {
    "dataset": {"mnist": mnist, "digits": digits},
    "augmentation": {"crop": crop, "flip": flip},
    "model": {"mlp": mlp, "linear": linear},
    "init": {"zeros_": zeros_, "normal_": normal_},
    "loss": {"cross_entropy": cross_entropy},
    "optimizer": {"SGD": SGD, "Adam": Adam},
    "scheduler": {"StepLR": StepLR, "Table": Table, "LambdaLR": LambdaLR},
    "metric": {"accuracy": accuracy},
    "tracker": {},
}


def models(kind: str, name: str) -> type[BaseModel] | None:
    path = split_import_path(name)
    if path:  # a user's own takes one option
        return schema_from_signature(crop)
    builder = REGISTRIES[kind].get(name)
    return schema_from_signature(builder) if builder else None


COMPONENTS = Components(models, {kind: list(registry) for kind, registry in REGISTRIES.items()})

BASE = """\
name: base
data: {name: mnist, batch_size: 64, root: data}
model:
  name: mlp
  hidden: [200]
optimizer:
  name: SGD
  lr: 1e-2
  momentum: 0.9
train: {epochs: 5}
"""


@pytest.fixture(scope="session")
def components() -> Components:
    return COMPONENTS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with base.yaml in it."""
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
