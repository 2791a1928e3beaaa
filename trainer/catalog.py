"""All components by name, in one place, and how a name or an import path becomes a builder (floor 3).

The registries are plain dicts: ours literal, torch's filled from what torch exports, so that a new release of
torch brings its new optimizers and schedules by itself. A builder's signature is its schema.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from trainer import losses, schedules
from trainer.config.load import Components, Loaded, load
from trainer.config.paths import split_import_path
from trainer.config.schema import schema_from_signature
from trainer.data import augment, digits, image_folder, npz, torchvision_sets
from trainer.errors import ConfigError, unknown_name
from trainer.init import INIT_FUNCTIONS
from trainer.models import convolutional, dense, residual, torchvision_models
from trainer.optimizers.build import torch_optimizers
from trainer.optimizers.scratch import SCRATCH

Builder = Callable[..., Any]

DATASETS: Mapping[str, Builder] = {
    "digits": digits.digits,
    "mnist": torchvision_sets.mnist,
    "fashion_mnist": torchvision_sets.fashion_mnist,
    "kmnist": torchvision_sets.kmnist,
    "emnist": torchvision_sets.emnist,
    "qmnist": torchvision_sets.qmnist,
    "cifar10": torchvision_sets.cifar10,
    "cifar100": torchvision_sets.cifar100,
    "svhn": torchvision_sets.svhn,
    "usps": torchvision_sets.usps,
    "npz": npz.npz,
    "image_folder": image_folder.image_folder,
}

AUGMENTATIONS: Mapping[str, Builder] = {
    "random_crop": augment.random_crop,
    "random_horizontal_flip": augment.random_horizontal_flip,
    "random_rotation": augment.random_rotation,
    "random_affine": augment.random_affine,
    "color_jitter": augment.color_jitter,
    "cutout": augment.cutout,
    "mixup": augment.mixup,
}

MODELS: Mapping[str, Builder] = {
    "linear": dense.linear,
    "mlp": dense.mlp,
    "cnn": convolutional.cnn,
    "lenet5": convolutional.lenet5,
    "2c2d": convolutional.deepobs_2c2d,
    "3c3d": convolutional.deepobs_3c3d,
    "resnet8": residual.resnet8,
    "resnet14": residual.resnet14,
    "resnet20": residual.resnet20,
    "resnet18": residual.resnet18,
} | {f"torchvision.{name}": partial(torchvision_models.build, name) for name in torchvision_models.NAMES}

LOSSES: Mapping[str, Builder] = {
    "cross_entropy": losses.cross_entropy,
    "nll": losses.nll,
    "mse": losses.mse,
    "l1": losses.l1,
    "huber": losses.huber,
    "bce_with_logits": losses.bce_with_logits,
    "multi_margin": losses.multi_margin,
}

REGISTRIES: Mapping[str, Mapping[str, Builder]] = {
    "dataset": DATASETS,
    "augmentation": AUGMENTATIONS,
    "model": MODELS,
    "init": INIT_FUNCTIONS,
    "loss": LOSSES,
    "optimizer": torch_optimizers() | SCRATCH,
    "scheduler": schedules.torch_schedulers() | schedules.OWN_SCHEDULERS,
}

# Arguments that optlab gives a builder itself, and that are therefore no options of the config.
_CONTEXT = ("self", "params", "optimizer", "tensor", "generator", "last_epoch", "input_shape", "num_classes", "progress")


def find(kind: str, name: str) -> Builder:
    """Return the builder of a component.

    Args:
        kind: a key of `REGISTRIES`.
        name: a name of that registry, or a user's own: `/absolute/file.py:Thing` or `package.module:Thing`.

    Raises:
        ConfigError: nobody has that name, or the user's file cannot be imported; `key` is "name".
    """
    registry = REGISTRIES[kind]
    if name in registry:
        return registry[name]
    path = split_import_path(name)
    if path is None:
        raise unknown_name(kind, name, list(registry), key="name")
    module = _import_file(Path(path.source)) if path.is_file else _import_module(path.source)
    if not hasattr(module, path.attribute):
        raise ConfigError(
            f"{path.source} has no {path.attribute!r}",
            key="name",
            expected=f"one of {', '.join(name for name in vars(module) if not name.startswith('_')) or 'nothing'}",
        )
    builder: Builder = getattr(module, path.attribute)
    if not callable(builder):
        raise ConfigError(f"{name} is a {type(builder).__name__}", key="name", expected="a class or a function")
    return builder


def _import_file(file: Path) -> ModuleType:
    """Import a user's file under its own path as a name, once per process."""
    module_name = f"optlab_user:{file}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if not file.is_file():
        raise ConfigError(f"there is no file {file}", key="name", expected="a Python file, as my_file.py:Thing")
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failure(str(file), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _import_failure(name, error) from error


def _import_failure(source: str, error: BaseException) -> ConfigError:
    """Return the error that shows the user's own error and its line."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        ours = [frame for frame in frames if frame.filename == source] or frames[-1:]
        place = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else source
    return ConfigError(
        f"{source} cannot be imported: {type(error).__name__}: {error} ({place})", key="name", fix=f"mend {place}"
    )


def option_model(kind: str, name: str) -> type[BaseModel]:
    """Return the strict model of a component's options; ConfigError when there is no such component."""
    return schema_from_signature(find(kind, name), drop=_CONTEXT)


def names(kind: str) -> Sequence[str]:
    """Return the names of a kind, in the order of its registry."""
    return list(REGISTRIES[kind])


COMPONENTS = Components(models=option_model, names={kind: names(kind) for kind in REGISTRIES})


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read an experiment's YAML file with overrides (`optimizer.lr=0.1`) and check all of it.

    Raises:
        ConfigError: with every problem that was found, each with its file and line.
    """
    return load(Path(path), overrides, components=COMPONENTS)
