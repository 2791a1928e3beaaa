"""From a config to living objects, in one place.

Every component is given its own values, never the config. Whatever does not fit is told with the config's
file and line, before anything runs or is written.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer import catalog
from trainer.config.identity import code_of
from trainer.config.load import Loaded
from trainer.config.models import (
    Component,
    Config,
    DataConfig,
    InitConfig,
    Match,
    OptimizerConfig,
    SchedulerConfig,
)
from trainer.data.arrays import dataset_of
from trainer.data.augment import Augmentation
from trainer.data.augment_function import FunctionAugmentation, is_augmentation, require_augmentation
from trainer.data.batches import Batches, eval_batches
from trainer.data.check import check_dataset
from trainer.data.dataset import Dataset, Splits, data_root, split_dataset
from trainer.data.preprocess import Prepare, dataset_mean_std, make_prepare
from trainer.device import PRECISIONS, Clock, autocast, check_threads, default_threads, resolve_device
from trainer.errors import ConfigError, OptlabError, Problem, unknown_name
from trainer.losses import Loss, penalty
from trainer.matching import matching, trainable
from trainer.models.describe import check_shapes, materialize, multiplications, sparse_gradients
from trainer.models.init import InitRule, initialize
from trainer.models.layers import feed_channels_last
from trainer.optimizers.build import build_optimizer, kinds_of, needs_closure, resolve_implementation
from trainer.optimizers.groups import Group, GroupSpec, assign_groups, assign_owners
from trainer.optimizers.rules import refuse
from trainer.schedules import Schedule, ScheduleSpec, build_schedule
from trainer.seeding import generator, global_stream, seed_dropout, seed_globals
from trainer.training.engines.choice import PAYS_AFTER_STEPS, compiler, engine_class
from trainer.training.experiment import Experiment, Plan
from trainer.training.timetable import Interval, run_length
from trainer.user_code import place_of, user_code, while_building


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A data set and its split, which runs of the same `data` section may share.

    Args:
        dataset: what the splits were taken from.
        splits: training, validation and test.
    """

    dataset: Dataset
    splits: Splits


def load_data(loaded: Loaded, *, download: bool = True) -> LoadedData:
    """Load the data set of a config and split it; errors as `build_experiment`."""
    data = loaded.config.data
    with located(loaded, "data"), global_stream("data", data.split_seed):
        dataset = _load_dataset(data, download=download)
        splits = split_dataset(
            dataset,
            val_size=data.val_size,
            val_from=data.val_from,
            split_seed=data.split_seed,
            limit=data.limit,
        )
    return LoadedData(dataset, splits)


def build_experiment(
    loaded: Loaded, *, download: bool = True, material: LoadedData | None = None
) -> Experiment:
    """Make everything that a run needs; the config of what comes back is resolved and complete.

    Seeds the global generators (torch's, `random`, `numpy.random`) and sets torch's thread count. Dropout and
    users' parts draw from these generators while training, so train an experiment before building the next:
    of two that train in turns in one process, each changes the random numbers of the other.

    Args:
        loaded: a checked config.
        download: whether a data set that is not on disk may be fetched, where the config allows it.
        material: the config's data, loaded before; None = load it.

    Raises:
        ConfigError, DataError: something does not fit; told with the place in the config.
    """
    try:
        return _build_experiment(loaded, download=download, material=material)
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = while_building(error, loaded.config.model_dump())
        if failure is None:
            raise
        with located(loaded):
            raise failure from error


def _build_experiment(loaded: Loaded, *, download: bool, material: LoadedData | None) -> Experiment:
    config = loaded.config
    seed_globals("construction", config.seed.init)
    with located(loaded):
        device = _prepare_machine(config)
    if material is None:
        material = load_data(loaded, download=download)
    dataset, splits = material.dataset, material.splits
    with located(loaded, "data"):
        prepare = make_prepare(
            input_shape=dataset.input_shape,
            **_mean_std(config.data, splits),
            resize=config.data.resize,
            pad=config.data.pad,
        )
        batches = _batches(config, dataset, splits, prepare, device)
        some_targets = next(batches.epoch(0)).targets[:2].cpu()  # tries one batch before the run
    model = build_model(loaded, prepare.output_shape, dataset.num_classes)
    _check_last_batch(loaded, model, batches, prepare.output_shape, dataset.num_classes)
    with located(loaded):
        threads = config.train.threads or _suitable_threads(model, prepare.output_shape, batches.batch_size)
        from_environment = config.train.threads is None and os.environ.get("OMP_NUM_THREADS") == str(threads)
        what = f"OMP_NUM_THREADS={threads}" if from_environment else ""
        torch.set_num_threads(check_threads(threads, what=what))
    model.to(device)
    if device.type == "cpu" and config.model.name in catalog.REGISTRIES["model"]:
        feed_channels_last(model, prepare.output_shape)
    seed_globals("construction", config.seed.init)  # what ran so far depends on what was known already
    with located(loaded, "loss"):
        loss = _build_loss(config.loss)
        with user_code(config.loss.name):
            _try_loss(loss, some_targets, dataset.num_classes)
        if config.loss.name == "cross_entropy":
            _check_probabilities(splits.train.targets)
        model_penalty = _penalty(config, model)

    optimizers, groups, implementations = _optimizers(loaded, model, prepare.output_shape, device)
    closure = any(needs_closure(optimizer) for optimizer in optimizers.values())
    steps_per_epoch = -(-batches.batches_per_epoch // config.train.accumulate)
    plan = _plan(config, steps_per_epoch)
    schedules = _schedules(loaded, optimizers, plan, steps_per_epoch, has_val=splits.val is not None)
    scaler = GradScaler(device.type) if PRECISIONS[config.train.precision] is torch.float16 else None
    precision = autocast(device, config.train.precision)
    engine_name = _engine_name(config, device, plan)
    engine = engine_class(engine_name)(
        model,
        loss,
        list(optimizers.values()),
        autocast=precision,
        needs_closure=closure,
        scaler=scaler,
        penalty=model_penalty,
        clip_grad_norm=config.train.clip_grad_norm,
        clip_grad_value=config.train.clip_grad_value,
        zero_grad=config.train.zero_grad == "every_step",
    )
    seed_dropout(config.seed.dropout)
    experiment = Experiment(
        config=_resolved(config, device, implementations, engine_name),
        device=device,
        splits=splits,
        data_digest=dataset.digest,
        code=code_of(config),
        batches=batches,
        evaluate_on=_evaluation(config, splits, prepare, device),
        model=model,
        loss=loss,
        classes=dataset.class_names is not None,
        num_classes=dataset.num_classes,
        optimizers=optimizers,
        groups=groups,
        schedules=schedules,
        engine=engine,
        scaler=scaler,
        autocast=precision,
        plan=plan,
        clock=Clock(device),
        notes=[*loaded.notes, *dataset.notes],
    )
    _check_metrics(loaded, experiment)
    return experiment


@contextmanager
def located(loaded: Loaded, prefix: str = "") -> Iterator[None]:
    """Give errors from inside the block their full dotted key and their place in the config's files."""
    try:
        yield
    except OptlabError as error:
        raise type(error).of(_locate(loaded, prefix, problem) for problem in error.problems) from error
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not _TOO_LARGE.search(reason):
            raise
        problem = Problem(f"a number is too large: {reason}", fix="give a smaller one")
        raise ConfigError.of([_locate(loaded, prefix, problem)]) from error


# How torch and Python say that a size goes beyond an integer of 64 bits, or beyond the memory.
_TOO_LARGE = re.compile(r"[Oo]verflow|too big|too large|allocate|out of memory|MemoryError")


def prefixed(problem: Problem, prefix: str) -> Problem:
    """Return a problem with its key below another one."""
    return replace(problem, key=".".join(part for part in (prefix, problem.key) if part))


def _locate(loaded: Loaded, prefix: str, problem: Problem) -> Problem:
    key = ".".join(part for part in (prefix, problem.key) if part)
    where = problem.where or (loaded.where(key) if key else "")
    return Problem(problem.what, key, where, problem.expected, problem.fix)


def build_model(loaded: Loaded, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the initialised model on the CPU, checked against the data's shape.

    Args:
        loaded: the config; its model, init and init seed are used.
        input_shape: of one prepared sample, (C, H, W) or (D,).
        num_classes: outputs wanted.
    """
    config = loaded.config
    with located(loaded, "model"), global_stream("init", config.seed.init):
        model = make_model(config.model, input_shape, num_classes)
    if config.init is not None:
        with located(loaded, "init"):
            rules = _init_rules(model, config.init)
            shapes = {name: value.shape for name, value in model.named_parameters()}
            initialize(model, rules, generator=generator("init", config.seed.init, 1))
            for name, value in model.named_parameters():
                if value.shape != shapes.get(name):
                    raise ConfigError(
                        f"the initialisation changed the shape of {name} to {list(value.shape)}"
                    )
    return model


def make_model(component: Component, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a model with torch's own initial weights, checked against the shape of the samples.

    Draws from torch's global generator.

    Raises:
        ConfigError: it cannot be built, or does not fit; keys are relative to the component.
    """
    model = _build("model", component, input_shape=input_shape, num_classes=num_classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{component.name} gave a {type(model).__name__}", key="name", expected="a torch.nn.Module"
        )
    with user_code(component.name):
        materialize(model, input_shape)
        _check_parameters(model)
        check_shapes(model, input_shape, num_classes)
    return model


def _check_parameters(model: nn.Module) -> None:
    """Refuse a model whose parameters are not where and what the engines compute with."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.device.type != "cpu":
            raise ConfigError(
                f"{name} is on the device {value.device}",
                key="name",
                expected="a model built on the CPU; optlab moves it to train.device",
            )


def _load_dataset(data: DataConfig, *, download: bool) -> Dataset:
    options = catalog.arguments("dataset", data.name, data.options)
    if "download" in options:
        options["download"] = options["download"] and download
    builder = catalog.find("dataset", data.name)
    with user_code(data.name):
        dataset: Dataset = builder(**options)
    if data.name not in catalog.REGISTRIES["dataset"]:
        with user_code(data.name):
            dataset = dataset_of(dataset, where=data.name)
            check_dataset(dataset, data.name)
    return dataset


def _check_last_batch(
    loaded: Loaded, model: nn.Module, batches: Batches, input_shape: tuple[int, ...], num_classes: int
) -> None:
    """Refuse an epoch that ends in a single sample where the model cannot train on one (batch norm)."""
    if batches.samples_per_epoch % batches.batch_size != 1 and batches.batch_size != 1:
        return
    try:
        check_shapes(model, input_shape, num_classes, batch=1)
    except ConfigError as error:
        key = "data.batch_size"
        raise ConfigError(
            "the last batch of an epoch has one sample, and the model cannot train on one: "
            + error.problems[0].what,
            key=key,
            where=loaded.where(key),
            fix="say data.drop_last=true, or choose another batch size",
        ) from error


def _build(kind: str, component: Component, **context: Any) -> Any:
    """Build a component from its options, and from that part of the context which its signature asks for."""
    builder = catalog.find(kind, component.name)
    wanted = inspect.signature(builder).parameters
    given = {name: value for name, value in context.items() if name in wanted}
    options = catalog.arguments(kind, component.name, component.options)
    with user_code(component.name):
        return builder(**options, **given)


def _build_loss(component: Component) -> Loss:
    """Return the loss; a user's function of (outputs, targets) is the loss itself, with its options bound."""
    builder = catalog.find("loss", component.name)
    if {"target", "targets"} & set(inspect.signature(builder).parameters):
        return partial(builder, **catalog.arguments("loss", component.name, component.options))
    loss: Loss = _build("loss", component)
    if not callable(loss):
        raise ConfigError(
            f"{component.name} gave a {type(loss).__name__}",
            key="name",
            expected="a function of (outputs, targets), or a builder that returns one",
        )
    return loss


def _prepare_machine(config: Config) -> torch.device:
    """Resolve the device; set determinism, and one thread until the model is there, for this process.

    The data's statistics and the first weights are computed by one thread, whatever trains: their last bits
    would differ between this run and the one of its saved config, where the number of threads is known.
    """
    if config.train.threads is not None:
        check_threads(config.train.threads)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(config.train.deterministic)
    return resolve_device(config.train.device)


def _suitable_threads(model: nn.Module, input_shape: tuple[int, ...], batch_size: int) -> int:
    per_sample = multiplications(model, input_shape)
    return default_threads(None if per_sample is None else per_sample * batch_size)


def _mean_std(data: DataConfig, splits: Splits) -> dict[str, list[float]]:
    if data.normalize is None:
        return {}
    if data.normalize == "dataset":
        mean, std = dataset_mean_std(splits.train)
        return {"mean": mean, "std": std}
    return {"mean": data.normalize.mean, "std": data.normalize.std}


def _batches(
    config: Config, dataset: Dataset, splits: Splits, prepare: Prepare, device: torch.device
) -> Batches:
    augment = [
        _augmentation(component, dataset.num_classes, f"augment.{number}")
        for number, component in enumerate(config.data.augment)
    ]
    return Batches(
        splits.train,
        batch_size=config.data.batch_size,
        shuffle=config.data.shuffle,
        drop_last=config.data.drop_last,
        seed=config.seed.batches,
        augmentation_seed=config.seed.augmentation,
        prepare=prepare,
        augment=augment,
        device=device,
        repeat=config.data.repeat,
    )


def _augmentation(component: Component, num_classes: int, key: str) -> Augmentation:
    """Return an augmentation; a user's function of `images` is the augmentation itself."""
    try:
        builder = catalog.find("augmentation", component.name)
        if component.name not in catalog.REGISTRIES["augmentation"] and is_augmentation(builder):
            options = catalog.arguments("augmentation", component.name, component.options)
            return FunctionAugmentation(builder, options, component.name, num_classes)
        found = _build("augmentation", component, num_classes=num_classes)
        return require_augmentation(found, component.name)
    except OptlabError as error:
        raise type(error).of(prefixed(problem, key) for problem in error.problems) from error


def _evaluation(
    config: Config, splits: Splits, prepare: Prepare, device: torch.device
) -> Callable[[str], Iterator[Any]]:
    def batches_of(split: str) -> Iterator[Any]:
        return eval_batches(
            getattr(splits, split), batch_size=config.data.eval_batch_size, prepare=prepare, device=device
        )

    return batches_of


def _try_loss(loss: Loss, targets: Tensor, num_classes: int) -> None:
    """Evaluate the loss once on zeros, so that targets of the wrong kind are told before the run."""
    outputs = torch.zeros(len(targets), num_classes, dtype=torch.float32, requires_grad=True)
    try:
        value = loss(outputs, targets)
    except (RuntimeError, ValueError, TypeError) as error:
        kind = f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape[1:])}"
        place = place_of(error)
        line = f" ({place})" if place else ""
        raise ConfigError(f"the loss refuses targets of kind {kind}: {error}{line}", key="name") from error
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
        raise ConfigError(
            f"the loss gave a {type(value).__name__}{shape} for {len(targets)} samples",
            key="name",
            expected="a tensor with one number, the mean over the samples",
        )
    if not value.is_floating_point() or value.device != outputs.device:
        kind = f"{str(value.dtype).removeprefix('torch.')} number on {value.device}"
        raise ConfigError(
            f"the loss gave a {kind}", key="name", expected="a real number on the outputs' device"
        )
    if not value.requires_grad:
        raise ConfigError(
            "the loss has no gradient: it does not depend on the outputs",
            key="name",
            expected="a number computed from the outputs by torch (without detach, item or no_grad)",
        )


def _check_probabilities(targets: Tensor) -> None:
    """Refuse the default loss on real targets: of one output it is 0 whatever the model says."""
    if targets.is_floating_point() and not (
        bool((targets >= 0).all()) and torch.allclose(targets.sum(1), torch.ones(len(targets)), atol=1e-3)
    ):
        raise ConfigError(
            "cross_entropy takes classes or their probabilities, and the data's targets are real values",
            key="name",
            expected="rows of targets that sum to 1",
            fix="say loss=mse (or l1, huber)",
        )


def _penalty(config: Config, model: nn.Module) -> Callable[[], Tensor] | None:
    if config.loss.l1 == 0 and config.loss.l2 == 0:
        return None
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    if not weights:
        raise ConfigError(
            "the model has no weights (parameters of two or more dimensions) to put a penalty on",
            key="l1" if config.loss.l1 else "l2",
        )
    return partial(penalty, weights, l1=config.loss.l1, l2=config.loss.l2)


def _init_rules(model: nn.Module, init: InitConfig) -> list[InitRule]:
    def fill(component: Component | None) -> Callable[..., Any] | None:
        if component is None:
            return None
        options = catalog.arguments("init", component.name, component.options)
        return partial(catalog.find("init", component.name), **options)

    rules = []
    for number, layer in enumerate(init.layers):
        names = tuple(matching(model, **_conditions(layer.match)))
        if not names:
            raise ConfigError(
                "the match finds no parameter",
                key=f"layers.{number}.match",
                expected=f"one of {', '.join(name for name, _ in model.named_parameters())}",
            )
        rules.append(InitRule(names, fill(layer.weight), fill(layer.bias), key=f"layers.{number}"))
    return [*rules, InitRule(None, fill(init.weight), fill(init.bias))]


def _conditions(match: Match) -> dict[str, Any]:
    return match.model_dump(exclude_none=True)


def _optimizers(
    loaded: Loaded, model: nn.Module, input_shape: tuple[int, ...], device: torch.device
) -> tuple[dict[str, Optimizer], dict[str, Sequence[Group]], list[dict[str, bool]]]:
    """Return the optimizers and their groups by label, and each one's implementation (fused, foreach)."""
    configs = loaded.config.optimizer
    prefixes = ["optimizer"] if len(configs) == 1 else [f"optimizer.{i}" for i in range(len(configs))]
    labels = [config.label or config.name for config in configs]
    if len(set(labels)) < len(labels):
        with located(loaded, "optimizer"):
            raise ConfigError(f"two optimizers are called {labels}", fix="give each a `label` of its own")
    with located(loaded, "optimizer"):
        matches = {
            label: None if config.match is None else _conditions(config.match)
            for label, config in zip(labels, configs, strict=True)
        }
        owned = assign_owners(model, matches)
    optimizers: dict[str, Optimizer] = {}
    groups: dict[str, Sequence[Group]] = {}
    implementations: list[dict[str, bool]] = []
    own_model = loaded.config.model.name not in catalog.REGISTRIES["model"]  # the others' gradients are dense
    sparse = sparse_gradients(model, input_shape) if own_model else set()
    for label, config, prefix in zip(labels, configs, prefixes, strict=True):
        with located(loaded, prefix):
            groups[label] = assign_groups(model, owned[label], _group_specs(config))
            cls = catalog.optimizer_class(config.name)
            options = catalog.arguments("optimizer", config.name, config.options)
            parameters = trainable(model)
            refuse(
                cls,
                options,
                groups[label],
                {name: parameters[name] for name in owned[label]},
                device_type=device.type,
                uses_scaler=PRECISIONS[loaded.config.train.precision] is torch.float16,
                alone=len(configs) == 1,
            )
            kinds = kinds_of({name: parameters[name] for name in owned[label]}, sparse)
            implementation = resolve_implementation(cls, options, kinds)
            with user_code(config.name):
                optimizers[label] = build_optimizer(
                    cls, model, groups[label], options | implementation, sparse=sparse
                )
            implementations.append(implementation)
    return optimizers, groups, implementations


def _group_specs(config: OptimizerConfig) -> list[GroupSpec]:
    return [GroupSpec(_conditions(group.match), group.label, group.options) for group in config.groups]


def _plan(config: Config, steps_per_epoch: int) -> Plan:
    train = config.train
    return Plan(
        steps=run_length(epochs=train.epochs, steps=train.steps, steps_per_epoch=steps_per_epoch),
        seconds=train.seconds,
        accumulate=train.accumulate,
        log=Interval(config.log.every),
        evaluate=Interval.of(train.eval_every, steps_per_epoch),
        checkpoint=None
        if train.checkpoint_every is None or train.checkpoint_every.seconds is not None
        else Interval.of(train.checkpoint_every, steps_per_epoch),
        checkpoint_seconds=train.checkpoint_every.seconds if train.checkpoint_every else None,
    )


def _schedules(
    loaded: Loaded,
    optimizers: Mapping[str, Optimizer],
    plan: Plan,
    steps_per_epoch: int,
    *,
    has_val: bool,
) -> list[Schedule]:
    configs = loaded.config.scheduler
    if not configs:
        return []
    with located(loaded, "scheduler"):
        specs = [
            ScheduleSpec(
                builder=catalog.find("scheduler", config.name),
                name=config.name,
                options=catalog.arguments("scheduler", config.name, config.options),
                interval=config.interval,
                warmup=config.warmup,
                monitor=_monitor(config, has_val=has_val),
                until=config.until,
            )
            for config in configs
        ]
        length = plan.steps
        if length is not None and configs[0].interval == "epoch":
            length = -(-length // steps_per_epoch)
        return [build_schedule(optimizer, specs, length=length) for optimizer in optimizers.values()]


def _monitor(scheduler: SchedulerConfig, *, has_val: bool) -> str | None:
    if scheduler.monitor is None and scheduler.name == "ReduceLROnPlateau":
        return "val_loss" if has_val else "train_loss"
    return scheduler.monitor


def _check_metrics(loaded: Loaded, experiment: Experiment) -> None:
    """Refuse metrics that no evaluation gives: early stopping, selection, plateau."""
    config, columns = loaded.config, experiment.eval_columns()
    has_val = experiment.splits.val is not None
    asked = {"train.select": config.train.select}
    if config.train.early_stopping:
        asked["train.early_stopping.metric"] = config.train.early_stopping.metric
    for number, scheduler in enumerate(config.scheduler):
        key = "scheduler.monitor" if len(config.scheduler) == 1 else f"scheduler.{number}.monitor"
        asked[key] = scheduler.monitor
    for key, metric in asked.items():
        if metric is None:
            continue
        if metric.startswith("val_") and not has_val:
            raise ConfigError(
                f"{metric} needs a validation split, and there is none (data.val_size is 0)",
                key=key,
                where=loaded.where(key),
                fix="say data.val_size=0.1, or another number of images",
            )
        if metric not in columns:
            raise unknown_name("metric", metric, columns, key=key, where=loaded.where(key))
    if config.train.early_stopping and not has_val:
        raise ConfigError(
            "early stopping needs a validation split: training numbers always look better for longer",
            key="train.early_stopping",
            where=loaded.where("train.early_stopping"),
            fix="say data.val_size=0.1, or another number of images",
        )


def _engine_name(config: Config, device: torch.device, plan: Plan) -> str:
    """Return `eager` or `compiled`: what `auto` means for this run on this machine."""
    if config.train.engine != "auto":
        return config.train.engine
    pays = plan.steps is not None and plan.steps >= PAYS_AFTER_STEPS
    possible = device.type == "cpu" and config.train.precision != "float16" and compiler() is not None
    return "compiled" if pays and possible else "eager"


def _resolved(
    config: Config,
    device: torch.device,
    implementations: Sequence[Mapping[str, bool]],
    engine: str,
) -> Config:
    """Return the config with everything that `auto` and null became on this machine."""
    fields = config.model_dump()
    fields["train"]["device"] = str(device)
    fields["train"]["engine"] = engine
    fields["train"]["threads"] = torch.get_num_threads()
    if "root" in fields["data"]:
        fields["data"]["root"] = str(data_root(fields["data"]["root"]).absolute())
    for optimizer, implementation in zip(fields["optimizer"], implementations, strict=True):
        optimizer.update(implementation)
    return Config.model_validate(fields)
