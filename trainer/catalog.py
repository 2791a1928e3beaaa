"""The registries of all components, and the lookup of builders by name or import path.

The registries are dicts. Those of torch's components are filled from what torch exports, so the optimizers
and schedules of a new release of torch are available automatically. The signature of a builder is its schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch.optim import Optimizer

from trainer import losses, metrics, models, schedules
from trainer.config import validation_errors as messages
from trainer.config.component_paths import SLOTS
from trainer.config.load import Components, Draft, Loaded, check, load
from trainer.config.models import OptimizerConfig
from trainer.config.paths import split_import_path
from trainer.config.signature_schema import is_import_path, schema_from_signature
from trainer.data import (
    augment,
    augment_function,
    bundled,
    csv_table,
    digits,
    image_folder,
    mnist1d,
    noise,
    npz,
    text,
    torchvision_sets,
    toy,
)
from trainer.errors import ConfigError, OptlabError, unknown_name
from trainer.imports import find_object
from trainer.models import (
    autoencoders,
    convolutional,
    dense,
    quadratic,
    recurrent,
    residual,
    torchvision_models,
    transformer,
)
from trainer.models.init import INIT_FUNCTIONS
from trainer.optimizers import external
from trainer.optimizers.build import check_options as check_optimizer
from trainer.optimizers.build import torch_optimizers
from trainer.optimizers.rules import REFUSED
from trainer.optimizers.scratch import SCRATCH
from trainer.tasks import CLASSIFICATION, TASKS
from trainer.trackers import TRACKERS
from trainer.trackers.exported_run import refuse_passwords
from trainer.user_code import compared_arguments, context_arguments, user_code

Builder = Callable[..., Any]

DATASETS: Mapping[str, Builder] = {
    "digits": digits.digits,
    "diabetes": bundled.diabetes,
    "wine": bundled.wine,
    "breast_cancer": bundled.breast_cancer,
    "mnist1d": mnist1d.mnist1d,
    "two_moons": toy.two_moons,
    "spiral": toy.spiral,
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
    "csv": csv_table.csv,
    "text": text.text,
    "tiny_shakespeare": text.tiny_shakespeare,
    "image_folder": image_folder.image_folder,
    "quadratic": noise.quadratic,
}

# Data sets that are not for classification. That of `npz`, `csv` and users' own sets depends on their files.
_TASKS: Mapping[str, str] = {
    "diabetes": "regression",
    "text": "next_token",
    "tiny_shakespeare": "next_token",
    "quadratic": "objective",
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
    "transformer": transformer.transformer,
    "rnn": recurrent.rnn,
    "gru": recurrent.gru,
    "lstm": recurrent.lstm,
    "autoencoder": autoencoders.autoencoder,
    "conv_autoencoder": autoencoders.conv_autoencoder,
    "vae": autoencoders.vae,
    "conv_vae": autoencoders.conv_vae,
    "quadratic": quadratic.quadratic,
}

# Models whose default loss is not that of the task.
_LOSSES: Mapping[str, str] = {"vae": "elbo", "conv_vae": "elbo"}

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
    "elbo": losses.elbo,
    "objective": losses.objective,
}

METRICS: Mapping[str, Builder] = {
    "accuracy": metrics.accuracy,
    "top5_accuracy": metrics.top5_accuracy,
    "error_rate": metrics.error_rate,
    "mse": metrics.mse,
    "rmse": metrics.rmse,
    "mae": metrics.mae,
    "r2": metrics.r2,
    "perplexity": metrics.perplexity,
    "bits_per_char": metrics.bits_per_char,
    "suboptimality": metrics.suboptimality,
}

REGISTRIES: Mapping[str, Mapping[str, Builder]] = {
    "dataset": DATASETS,
    "augmentation": AUGMENTATIONS,
    "model": MODELS,
    "init": INIT_FUNCTIONS,
    "loss": LOSSES,
    "optimizer": torch_optimizers() | SCRATCH,
    "scheduler": schedules.SCHEDULES,
    "metric": METRICS,
    "tracker": TRACKERS,
}

# Arguments that optlab passes to a builder, which therefore are not options of the config.
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
    "integer_targets",
    "run",
)

# Options of users' components that are filled in unless the config sets them, whatever their default.
_FILLED_IN: Mapping[str, Sequence[str]] = {"model": models.SIZES, "dataset": ("train", "split")}

# Structural keys of the config: a builder's parameter with such a name cannot be set.
_RESERVED = {slot.kind: ("name", "options", *slot.own_keys()) for slot in SLOTS}


def find(kind: str, name: str) -> Builder:
    """Return the builder of a component.

    Args:
        kind: a key of `REGISTRIES`.
        name: a name of that registry, or an import path: `/absolute/file.py:Thing` or `package.module:Thing`.

    Raises:
        ConfigError: the name is unknown, or the user's file cannot be imported; `key` is "name".
    """
    registry = REGISTRIES[kind]
    if name in registry:
        return registry[name]
    if split_import_path(name) is None:
        raise _unknown(kind, name, list(registry))
    return find_object(name, kind)


def _unknown(kind: str, name: str, names: Sequence[str]) -> ConfigError:
    """Return the error for an unknown name, with the form of an import path if the name resembles one."""
    (problem,) = unknown_name(kind, name, names, key="name").problems
    source, _, attribute = name.rpartition(".")
    if source and not problem.fix:
        path = f"{name}:NAME" if attribute == "py" else f"{source}.py:{attribute}"
        problem = replace(
            problem, fix=f"did you mean {path}? Components of your own are FILE.py:NAME or MODULE:NAME"
        )
    return ConfigError(problem.what, key=problem.key, expected=problem.expected, fix=problem.fix)


def is_registered_optimizer(config: OptimizerConfig) -> bool:
    """Return whether an optimizer is one of torch or of this package."""
    return config.name in REGISTRIES["optimizer"] and config.base is None


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of an optimizer; raise ConfigError if it is not one (`key` is "name")."""
    found = find("optimizer", name)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        expected = "a subclass of torch.optim.Optimizer"
        raise ConfigError(f"{name} is not an optimizer", key="name", expected=expected)
    return found


def option_model(kind: str, name: str) -> type[BaseModel]:
    """Return the strict model of a component's options; raise ConfigError if there is no such component.

    Options that are derived from the run (`T_max` of a schedule) are optional, although torch requires them.
    """
    return _registered_model(kind, name) if name in REGISTRIES[kind] else _model(kind, name)


@cache  # deriving a model takes 5 ms, and a config needs ten
def _registered_model(kind: str, name: str) -> type[BaseModel]:
    return _model(kind, name)


def _model(kind: str, name: str) -> type[BaseModel]:
    builder = find(kind, name)
    own = name in REGISTRIES[kind]
    optional: Collection[str] = schedules.DERIVED.get(name, ()) if kind == "scheduler" else ()
    drop: Sequence[str] = _CONTEXT
    if kind == "model" and not own:
        optional = ("in_features",)  # with a default, it can mean another size, as that of a layer
    # Functions of a user can be the component themselves, not its builder.
    if kind == "augmentation":
        drop = (*drop, *augment_function.ARGUMENTS)
    if kind in ("loss", "metric") and not own and (compared := compared_arguments(builder)):
        drop = (*drop, *compared, *(context_arguments(builder) if kind == "loss" else ()))
    if kind == "scheduler" and not own:
        optional, drop = (*schedules.LENGTHS, "max_lr"), (*drop, "t_in_epochs")
    if kind == "optimizer" and not own:
        optional, drop = external.CONTEXT, (*drop, *external.dropped_names(builder))
    with user_code(name):
        return schema_from_signature(
            builder,
            drop=drop,
            optional=optional,
            unset=() if own else _FILLED_IN.get(kind, ()),
            reserved=_RESERVED[kind],
            open_ended=kind in ("model", "optimizer", "scheduler") and not own,
        )


def arguments(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component's options for its builder, with import paths replaced by the imported objects.

    Raises:
        ConfigError: an import path cannot be imported; `key` is the option.
    """
    fields = option_model(kind, name).model_fields
    ready = dict(options)
    for option, value in options.items():
        if option in fields and is_import_path(fields[option]) and value is not None:
            try:
                named = [_named(text) for text in (value if isinstance(value, list) else [value])]
            except OptlabError as error:
                raise ConfigError.of(replace(problem, key=option) for problem in error.problems) from error
            ready[option] = named if isinstance(value, list) else named[0]
    return ready


def _named(value: Any) -> Any:
    """Import the object of an import path; return other values unchanged (for `str | Callable` options)."""
    return find_object(value) if isinstance(value, str) and split_import_path(value) else value


def check_options(kind: str, name: str, given: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return a component's options, with defaults filled in.

    Raises:
        ConfigError: options are unknown or have wrong values; the error lists all; `key` is the option.
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
    """Return the names of all components of a kind, in the order of its registry."""
    return list(REGISTRIES[kind])


def check_values(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Check values of the right types by calling the builder, if it needs only the options.

    Builders check ranges themselves: an optimizer is built with dummy parameters; losses and augmentations of
    this package are built. Users' components are called only when the experiment is built.

    Raises:
        ConfigError: the builder rejects a value; `key` is the option, if it is known.
    """
    if kind == "tracker":
        refuse_passwords(options)
    if name not in REGISTRIES[kind]:
        return
    if kind == "optimizer" and name not in REFUSED:
        check_optimizer(optimizer_class(name), arguments(kind, name, options))
    elif kind == "loss":
        find(kind, name)(**arguments(kind, name, options))
    elif kind == "augmentation":
        builder = find(kind, name)
        wants_classes = "num_classes" in inspect.signature(builder).parameters
        builder(**arguments(kind, name, options), **({"num_classes": 2} if wants_classes else {}))


def default_loss(config: Any) -> str:
    """Return the name of the loss of a config that states none: that of its model or of its task.

    Args:
        config: the plain values of a config that is not validated yet. If it states no task, and its data set
            is `npz`, `csv` or a user's own, the loss is that of classification: the data are not read here.
    """
    model = config.get("model")
    model_name = str(model.get("name") if isinstance(model, dict) else model)
    if model_name in _LOSSES:
        return _LOSSES[model_name]
    stated, data = config.get("task"), config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    task = (
        stated if isinstance(stated, str) and stated in TASKS else _TASKS.get(str(name), CLASSIFICATION.name)
    )
    return TASKS[task].loss


COMPONENTS = Components(option_model, {kind: names(kind) for kind in REGISTRIES}, check_values, default_loss)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read an experiment's YAML file, apply overrides (`optimizer.lr=0.1`) and validate the config.

    Raises:
        ConfigError: the config is not valid; the error lists every problem with its file and line.
    """
    return load(Path(path), overrides, components=COMPONENTS)


def check_config(draft: Draft) -> Loaded:
    """Validate a config that has been read.

    Raises:
        ConfigError: the config is not valid; the error lists every problem with its file and line.
    """
    return check(draft, components=COMPONENTS)
