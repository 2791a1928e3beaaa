"""All components by name, in one place, and how a name or an import path becomes a builder (floor 3).

The registries are plain dicts: ours literal, torch's filled from what torch exports, so that a new release of
torch brings its new optimizers and schedules by itself. A builder's signature is its schema.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError
from torch.optim import Optimizer

from trainer import losses, schedules
from trainer.config import messages
from trainer.config.identity import file_digest, source_files
from trainer.config.load import Components, Draft, Loaded, check, load
from trainer.config.paths import split_import_path
from trainer.config.schema import is_import_path, schema_from_signature
from trainer.data import augment, digits, image_folder, npz, torchvision_sets
from trainer.errors import ConfigError, OptlabError, unknown_name
from trainer.init import INIT_FUNCTIONS
from trainer.models import convolutional, dense, residual, torchvision_models
from trainer.optimizers.build import check_options as check_optimizer
from trainer.optimizers.build import torch_optimizers
from trainer.optimizers.rules import REFUSED
from trainer.optimizers.scratch import SCRATCH
from trainer.seeding import global_stream

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

_OWN_MODELS: Mapping[str, Builder] = {
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
}

_TORCHVISION_MODELS: Mapping[str, Builder] = {
    f"torchvision.{name}": partial(torchvision_models.build, name) for name in torchvision_models.NAMES
}

MODELS: Mapping[str, Builder] = {**_OWN_MODELS, **_TORCHVISION_MODELS}

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
    "scheduler": schedules.SCHEDULES,
}

# Arguments that optlab gives a builder itself, and that are therefore no options of the config.
_CONTEXT = (
    "self",
    "params",
    "optimizer",
    "tensor",
    "generator",
    "last_epoch",
    "input_shape",
    "num_classes",
    "progress",
    # What a loss is called with, where a user's function is the loss itself.
    "outputs",
    "logits",
    "input",
    "targets",
    "target",
)


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
    if split_import_path(name) is None:
        raise unknown_name(kind, name, list(registry), key="name")
    return find_object(name)


def find_object(text: str) -> Builder:
    """Return what an import path names: `/absolute/file.py:thing` or `package.module:thing`.

    Raises:
        ConfigError: it cannot be imported, is not there, or cannot be called; `key` is "name".
    """
    path = split_import_path(text)
    assert path is not None, text
    module = _import_file(Path(path.source)) if path.is_file else _import_module(path.source)
    if not hasattr(module, path.attribute):
        own = [
            name
            for name, thing in vars(module).items()
            if getattr(thing, "__module__", "") == module.__name__
        ]
        raise ConfigError(
            f"{path.source} has no {path.attribute!r}",
            key="name",
            expected=f"one of {', '.join(own)}" if own else "a class or a function that stands there",
        )
    found: Builder = getattr(module, path.attribute)
    if not callable(found):
        raise ConfigError(f"{text} is a {type(found).__name__}", key="name", expected="a class or a function")
    return found


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of an optimizer; ConfigError when it is none (`key` is "name")."""
    found = find("optimizer", name)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        expected = "a subclass of torch.optim.Optimizer"
        raise ConfigError(f"{name} is no optimizer", key="name", expected=expected)
    return found


def _import_file(file: Path) -> ModuleType:
    """Import a user's file under its own path as a name; again where it, or what it imports, has changed.

    While it is imported its folder comes first in `sys.path`, as in `python file.py`. The modules that it
    imports from there are not kept under their short names, which files of other folders may use as well.
    """
    module_name = f"optlab_user:{file}"
    if not file.is_file():
        raise ConfigError(
            f"there is no file {file}", key="name", expected="a Python file, as my_file.py:Thing"
        )
    sources = {source: file_digest(source) for source in source_files(file)}
    known = sys.modules.get(module_name)
    if known is not None and vars(known).get(_SOURCES) == sources:
        return known
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)[_SOURCES] = sources
    sys.modules[module_name] = module
    try:
        # The same numbers whichever run of a process needs the file first.
        with _folder_first(file.parent, sources), global_stream("import", 0):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failure(str(file), error) from error
    return module


_SOURCES = "__optlab_sources__"


@contextmanager
def _folder_first(folder: Path, sources: Collection[Path]) -> Iterator[None]:
    """Let modules of a folder be imported inside the block; forget those of `sources` by name afterwards."""
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's file may have taken it out
            sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            source = getattr(module, "__file__", None)
            if name not in before and source and Path(source) in sources and ":" not in name:
                del sys.modules[name]


def _import_module(name: str) -> ModuleType:
    try:
        with global_stream("import", 0):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no module {name}", key="name", fix="install it, or say my_file.py:Thing"
            ) from error
        raise _import_failure(name, error) from error
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
        f"{source} cannot be imported: {type(error).__name__}: {error} ({place})",
        key="name",
        fix=f"mend {place}",
    )


def option_model(kind: str, name: str) -> type[BaseModel]:
    """Return the strict model of a component's options; ConfigError when there is no such component.

    Options that follow from the run (a schedule's `T_max`) may be left out, though torch requires them.
    """
    return _registered_model(kind, name) if name in REGISTRIES[kind] else _model(kind, name)


@cache  # deriving one takes 5 ms, and a config needs ten
def _registered_model(kind: str, name: str) -> type[BaseModel]:
    return _model(kind, name)


def _model(kind: str, name: str) -> type[BaseModel]:
    optional = schedules.DERIVED.get(name, ()) if kind == "scheduler" else ()
    return schema_from_signature(find(kind, name), drop=_CONTEXT, optional=optional)


def arguments(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component's options as its builder takes them: import paths become what they name.

    Raises:
        ConfigError: what an option names cannot be imported; `key` is the option.
    """
    fields = option_model(kind, name).model_fields
    ready = dict(options)
    for option, value in options.items():
        if option in fields and is_import_path(fields[option]) and value is not None:
            try:
                named = [find_object(text) for text in ([value] if isinstance(value, str) else value)]
            except OptlabError as error:
                raise ConfigError.of(replace(problem, key=option) for problem in error.problems) from error
            ready[option] = named[0] if isinstance(value, str) else named
    return ready


def check_options(kind: str, name: str, given: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return a component's options, complete with defaults.

    Raises:
        ConfigError: with every option that is unknown or has a wrong value; `key` is the option.
    """
    model = option_model(kind, name)
    try:
        valid = model.model_validate(given)
    except ValidationError as error:
        found = messages.explain(error, given, model)
        raise ConfigError.of(
            replace(problem, key=".".join(map(str, path))) for path, problem in found
        ) from error
    return {option: getattr(valid, option) for option in valid.model_fields_set}


def names(kind: str) -> Sequence[str]:
    """Return the names of a kind, in the order of its registry."""
    return list(REGISTRIES[kind])


def check_values(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Try options of the right types on the builder itself, where that takes nothing but the options.

    Ranges are the builder's own: an optimizer is tried on dummy parameters, a loss or augmentation is made
    (those of this package: what a user's own does when called is seen when the experiment is built).

    Raises:
        ConfigError: in the builder's words; `key` is the option, where it is known.
    """
    if kind == "optimizer" and name not in REFUSED:
        check_optimizer(optimizer_class(name), arguments(kind, name, options))
    elif name not in REGISTRIES[kind]:
        return
    elif kind == "loss":
        find(kind, name)(**arguments(kind, name, options))
    elif kind == "augmentation":
        builder = find(kind, name)
        wants_classes = "num_classes" in inspect.signature(builder).parameters
        builder(**arguments(kind, name, options), **({"num_classes": 2} if wants_classes else {}))


COMPONENTS = Components(option_model, {kind: names(kind) for kind in REGISTRIES}, check_values)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read an experiment's YAML file with overrides (`optimizer.lr=0.1`) and check all of it.

    Raises:
        ConfigError: with every problem that was found, each with its file and line.
    """
    return load(Path(path), overrides, components=COMPONENTS)


def check_config(draft: Draft) -> Loaded:
    """Check a config that has been read.

    Raises:
        ConfigError: with every problem that was found, each with its file and line.
    """
    return check(draft, components=COMPONENTS)
