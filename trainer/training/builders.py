"""Builders for the parts of an experiment. A component receives its own values, never the whole config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer import catalog
from trainer.config.load import Loaded
from trainer.config.models import (
    Component,
    Config,
    InitConfig,
    InnerOptimizerConfig,
    Match,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    StepMode,
)
from trainer.config.paths import split_import_path
from trainer.config.signature_schema import accepted_names
from trainer.data.augment import Augmentation
from trainer.data.augment_function import FunctionAugmentation, is_augmentation, require_augmentation
from trainer.device import PRECISIONS
from trainer.errors import ConfigError, OptlabError
from trainer.losses import Loss, penalty
from trainer.matching import matching, trainable
from trainer.metrics import BUILT_IN, RESERVED_NAMES, Metric, find, of_function
from trainer.models import sizes
from trainer.models.describe import check_shapes, materialize, sparse_gradients, takes_tokens
from trainer.models.init import InitRule, initialize
from trainer.optimizers.build import build_optimizer, kinds_of, needs_closure, resolve_implementation
from trainer.optimizers.external import OptimizerSpec, build_external, derived_numbers, rate_holder
from trainer.optimizers.groups import Group, GroupSpec, assign_groups, assign_owners
from trainer.optimizers.rules import refuse, refuse_mode
from trainer.schedules import Schedule, ScheduleSpec, build_schedule
from trainer.seeding import generator, global_stream
from trainer.tasks import CLASSIFICATION, NEXT_TOKEN, Task
from trainer.training.engines.eager import MicroBatch
from trainer.training.forward import ForwardPass
from trainer.training.locate import located, prefixed
from trainer.training.preflight import check_parameters, try_metric
from trainer.training.rehearsal import Outcome, Rehearsal
from trainer.training.timetable import Plan
from trainer.training.values import copies, layout, layout_change, require_same
from trainer.user_code import cited_definition, compared_arguments, user_code


def build_model(
    loaded: Loaded, input_shape: tuple[int, ...], num_classes: int, *, tokens: bool = False
) -> nn.Module:
    """Return the initialised model on the CPU, checked against the shape of the data.

    Args:
        loaded: the config; uses `model`, `init` and `seed.init`.
        input_shape: shape of one preprocessed sample, (C, H, W), (D,) or (T,).
        num_classes: required number of outputs.
        tokens: whether samples are tokens: inputs int64 [N, T], outputs [N, T, num_classes].
    """
    config = loaded.config

    def make() -> nn.Module:
        with global_stream("init", config.seed.init):
            return make_model(config.model, input_shape, num_classes, tokens=tokens)

    with located(loaded, "model"):
        model = make()
        if split_import_path(config.model.name):
            require_same(model.state_dict(), make().state_dict(), config.model.name)
    if config.init is not None:
        with located(loaded, "init"):
            _initialize(model, config.init, config.seed.init)
    return model


def _initialize(model: nn.Module, init: InitConfig, seed: int) -> None:
    """Initialize the weights; twice with users' functions, to check that these are deterministic."""
    rules = _init_rules(model, init)
    places = {"": init, **{f"layers.{number}.": layer for number, layer in enumerate(init.layers)}}
    own = {
        f"{place}{role}.name": fill.name
        for place, one in places.items()
        for role, fill in (("weight", one.weight), ("bias", one.bias))
        if fill is not None and split_import_path(fill.name)
    }
    before, start = layout(model), copies(dict(model.named_parameters()))
    initialize(model, rules, generator=generator("init", seed, 1))
    if change := layout_change(before, layout(model)):
        raise ConfigError(f"the initialisation {change}{''.join(map(cited_definition, own.values()))}")
    if own:
        key, component = next(iter(own.items()))
        first = copies(dict(model.named_parameters()))
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(start[name])
        initialize(model, rules, generator=generator("init", seed, 1))
        require_same(first, dict(model.named_parameters()), component, key=key)


def make_model(
    component: ModelConfig, input_shape: tuple[int, ...], num_classes: int, *, tokens: bool | None = None
) -> nn.Module:
    """Return a model with its default initial weights, checked against the shape of the samples.

    Draws from torch's global generator.

    Args:
        component: the model in the config.
        input_shape: shape of one preprocessed sample.
        num_classes: required number of outputs.
        tokens: whether samples are tokens; None = they are if the model has an embedding.

    Raises:
        ConfigError: the model cannot be built or does not fit the data; keys are relative to the component.
    """
    given = {"input_shape": input_shape, "num_classes": num_classes}
    if component.name not in catalog.REGISTRIES["model"]:
        known = sizes(input_shape, num_classes)
        given |= {name: size for name, size in known.items() if name not in component.options}
    model = _build("model", component, **given)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{component.name} returned a {type(model).__name__}", key="name", expected="a torch.nn.Module"
        )
    if tokens is None:
        tokens = takes_tokens(model, input_shape)
    with user_code(component.name):
        materialize(model, input_shape, tokens=tokens)
        check_parameters(model)
        check_shapes(model, input_shape, num_classes, tokens=tokens, output=component.output)
    return model


def _build(kind: str, component: Component, **context: Any) -> Any:
    """Build a component from its options and from those context values that its signature accepts."""
    builder = catalog.find(kind, component.name)
    wanted = accepted_names(builder)
    arguments = {name: value for name, value in context.items() if name in wanted}
    options = catalog.arguments(kind, component.name, component.options)
    with user_code(component.name):
        return builder(**options, **arguments)


def build_loss(component: Component) -> Loss:
    """Return the loss. A user's function of (outputs, targets) is used directly, with its options bound."""
    builder = catalog.find("loss", component.name)
    if component.name not in catalog.REGISTRIES["loss"] and compared_arguments(builder):
        return partial(builder, **catalog.arguments("loss", component.name, component.options))
    loss: Loss = _build("loss", component)
    if not callable(loss):
        raise ConfigError(
            f"{component.name} returned a {type(loss).__name__}",
            key="name",
            expected="a function of (outputs, targets), or a builder that returns one",
        )
    return loss


def build_metrics(
    components: Sequence[MetricConfig], targets: Sequence[Tensor], num_classes: int, task: Task
) -> tuple[Metric, ...]:
    """Return the metrics of the task, then those of the config; keys of errors are relative to the list.

    Args:
        components: the metrics of the config.
        targets: targets of some samples, as in training and as in evaluation; every metric is tried on them.
        num_classes: number of outputs.
        task: the task.
    """
    metrics = [BUILT_IN[name] for name in task.metrics]
    for number, component in enumerate(components):
        try:
            metric, is_additive = _build_metric(component)
            _check_metric(metric, component, metrics, task)
            with user_code(component.name):
                for one in targets:
                    try_metric(metric, one, num_classes, check_additive=is_additive)
        except OptlabError as error:
            raise type(error).of(prefixed(problem, str(number)) for problem in error.problems) from error
        if metric not in metrics:
            metrics.append(metric)
    return tuple(metrics)


def _build_metric(component: MetricConfig) -> tuple[Metric, bool]:
    """Return a metric, and whether its sums over batches must be additive (required of a `Metric`).

    A user's function of (outputs, targets) is used directly, with its options bound.
    """
    if component.name in BUILT_IN:
        return BUILT_IN[component.name], True
    builder = catalog.find("metric", component.name)
    options = catalog.arguments("metric", component.name, component.options)
    with user_code(component.name):
        if isinstance(builder, Metric) or not compared_arguments(builder):
            metric = builder if isinstance(builder, Metric) else builder(**options)
            if isinstance(metric, Metric) and metric.sums is not None:
                return metric, True
            raise ConfigError(
                f"{component.name} returned a {type(metric).__name__}",
                key="name",
                expected="a Metric with `sums`, or a function of (outputs, targets)",
            )
    if component.mode is None:
        raise ConfigError(
            f"{component.name} is a function, which does not say whether higher or lower values are better",
            key="mode",
            fix=f"write {{name: {component.name.rpartition('/')[2]}, mode: max}}, or min",
        )
    name = component.name.rpartition(":")[2]
    return of_function(name, component.mode, partial(builder, **options)), False


def _check_metric(metric: Metric, component: MetricConfig, others: Sequence[Metric], task: Task) -> None:
    if metric.needs_classes and task not in (CLASSIFICATION, NEXT_TOKEN):
        raise ConfigError(f"{metric.name} needs classes; the data has real targets", key="name")
    if task == NEXT_TOKEN and component.name in BUILT_IN and not metric.needs_classes:
        raise ConfigError(f"{metric.name} is not a metric of tokens", key="name")
    if component.mode not in (None, metric.mode):
        raise ConfigError(f"{metric.name} has mode {metric.mode}", key="mode", fix="leave out `mode`")
    own = component.name not in BUILT_IN
    reserved = (*RESERVED_NAMES, *BUILT_IN) if own else ()
    if metric.name in reserved or any(one.name == metric.name and one != metric for one in others):
        raise ConfigError(
            f"the name {metric.name} is taken by another metric or column",
            key="name",
            fix="rename your function, or set `name` of its Metric" if own else "",
        )


def build_augmentation(component: Component, num_classes: int, key: str) -> Augmentation:
    """Return an augmentation. A user's function of `images` is used directly."""
    try:
        builder = catalog.find("augmentation", component.name)
        if component.name not in catalog.REGISTRIES["augmentation"] and is_augmentation(builder):
            options = catalog.arguments("augmentation", component.name, component.options)
            return FunctionAugmentation(builder, options, component.name, num_classes, f"{key}.name")
        augmentation = _build("augmentation", component, num_classes=num_classes)
        return require_augmentation(augmentation, component.name)
    except OptlabError as error:
        raise type(error).of(prefixed(problem, key) for problem in error.problems) from error


def build_penalty(config: Config, model: nn.Module) -> Callable[[], Tensor] | None:
    """Return the function that computes the penalty on the weights; None without a penalty."""
    if config.loss.l1 == 0 and config.loss.l2 == 0:
        return None
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    if not weights:
        raise ConfigError(
            "the penalty applies to weights (parameters with two or more dimensions), and the model has none",
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
                "the match selects no parameter",
                key=f"layers.{number}.match",
                expected=f"one of {', '.join(name for name, _ in model.named_parameters())}",
            )
        rules.append(InitRule(names, fill(layer.weight), fill(layer.bias), key=f"layers.{number}"))
    return [*rules, InitRule(None, fill(init.weight), fill(init.bias))]


def _conditions(match: Match) -> dict[str, Any]:
    return match.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Optimizers:
    """The optimizers of a run.

    Args:
        by_label: the optimizers by label.
        groups: their parameter groups by label.
        step_mode: how a step calls all of them.
        resolved: for each, the settings of its config that were `auto` or null.
        derived: options that are derived from the run, by dotted key.
        changing: the numbers in parameter groups that steps change, by label.
    """

    by_label: Mapping[str, Optimizer]
    groups: Mapping[str, Sequence[Group]]
    step_mode: StepMode
    resolved: Sequence[Mapping[str, Any]]
    derived: Mapping[str, int | None]
    changing: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class OptimizerContext:
    """What optimizers are built with, and tried with before the run.

    Args:
        input_shape: shape of one preprocessed sample.
        device: device of the model.
        forward: computes the loss and the prediction of a batch.
        autocast: the context of every forward pass.
        batches: some batches of the run.
        numbers: numbers of the run for constructors; see `optimizers.external.CONTEXT`.
    """

    input_shape: tuple[int, ...]
    device: torch.device
    forward: ForwardPass
    autocast: AbstractContextManager[object]
    batches: Sequence[MicroBatch]
    numbers: Mapping[str, int | None]


def build_optimizers(loaded: Loaded, model: nn.Module, context: OptimizerContext) -> Optimizers:
    """Build the optimizers of a run; those that are not torch's or ours are tried on a copy of the model."""
    configs = loaded.config.optimizer
    prefixes = ["optimizer"] if len(configs) == 1 else [f"optimizer.{i}" for i in range(len(configs))]
    labels = [config.label or config.name for config in configs]
    if len(set(labels)) < len(labels):
        with located(loaded, "optimizer"):
            raise ConfigError(f"optimizer labels are not unique: {labels}", fix="give each a unique `label`")
    with located(loaded, "optimizer"):
        matches = {
            label: None if config.match is None else _conditions(config.match)
            for label, config in zip(labels, configs, strict=True)
        }
        owned = assign_owners(model, matches)
    optimizers: dict[str, Optimizer] = {}
    groups: dict[str, Sequence[Group]] = {}
    modes: list[StepMode] = []
    resolved: list[Mapping[str, Any]] = []
    derived: dict[str, int | None] = {}
    changing: dict[str, Sequence[str]] = {}
    train = loaded.config.train
    for label, config, prefix in zip(labels, configs, prefixes, strict=True):
        with located(loaded, prefix):
            groups[label] = assign_groups(model, owned[label], _group_specs(config))
            implementation: Mapping[str, bool] = {}
            mode: StepMode
            if catalog.is_registered_optimizer(config):
                built = _build_registered(loaded, config, model, groups[label], context)
                optimizers[label], mode, implementation = built
            else:
                optimizers[label], tried = _build_external(loaded, config, model, groups[label], context)
                mode, changing[label] = tried.mode, tried.changing
                numbers = derived_numbers(_optimizer_spec(config), context.numbers)
                derived |= {f"{prefix}.{name}": number for name, number in numbers.items()}
            refuse_mode(
                type(optimizers[label]).__name__,
                mode,
                uses_scaler=PRECISIONS[train.precision] is torch.float16,
                alone=len(configs) == 1,
                zero_grad=train.zero_grad == "every_step",
                reads_gradients=_gradient_keys(loaded.config),
            )
            modes.append(mode)
            resolved.append({**implementation, "step": mode})
    step_mode: StepMode = next((mode for mode in modes if mode != "plain"), "plain")
    return Optimizers(optimizers, groups, step_mode, resolved, derived, changing)


def _gradient_keys(config: Config) -> list[str]:
    stated = {
        "train.clip_grad_norm": config.train.clip_grad_norm,
        "train.clip_grad_value": config.train.clip_grad_value,
        "log.gradients": config.log.gradients,
    }
    return [key for key, value in stated.items() if value]


def _build_registered(
    loaded: Loaded,
    config: OptimizerConfig,
    model: nn.Module,
    groups: Sequence[Group],
    context: OptimizerContext,
) -> tuple[Optimizer, StepMode, Mapping[str, bool]]:
    """Return an optimizer of torch or of this package, how it is stepped, and its implementation."""
    cls = catalog.optimizer_class(config.name)
    options = catalog.arguments("optimizer", config.name, config.options)
    parameters = trainable(model)
    owned = {name: parameters[name] for group in groups for name in group.names}
    refuse(cls, options, groups, owned, device_type=context.device.type)
    own_model = loaded.config.model.name not in catalog.REGISTRIES["model"]  # built-in: dense gradients
    tokens = not context.batches[0][0].is_floating_point()
    sparse: set[str] = set()
    if own_model:
        output = loaded.config.model.output
        sparse = sparse_gradients(model, context.input_shape, tokens=tokens, output=output)
    implementation = resolve_implementation(cls, options, kinds_of(owned, sparse))
    optimizer = build_optimizer(cls, model, groups, options | implementation, sparse=sparse)
    mode: StepMode = "closure" if needs_closure(cls) else "plain"
    if config.step != "auto" and mode == "closure" and "closure" not in config.step:
        raise ConfigError(f"{config.name} needs a closure", key="step", expected="closure, or auto")
    return optimizer, mode if config.step == "auto" else config.step, implementation


def _build_external(
    loaded: Loaded,
    config: OptimizerConfig,
    model: nn.Module,
    groups: Sequence[Group],
    context: OptimizerContext,
) -> tuple[Optimizer, Outcome]:
    """Return an optimizer of a user or another package, and what trying it found out."""
    spec = _optimizer_spec(config)

    def build(of: nn.Module) -> Optimizer:
        return build_external(spec, of, groups, context.numbers)

    rehearsal = Rehearsal(
        spec,
        build,
        model,
        context.forward,
        context.autocast,
        context.batches,
        clip_grad_norm=loaded.config.train.clip_grad_norm,
        clip_grad_value=loaded.config.train.clip_grad_value,
    )
    outcome = rehearsal.run(config.step)
    return build(model), outcome


def _optimizer_spec(config: OptimizerConfig | InnerOptimizerConfig) -> OptimizerSpec:
    builder = catalog.find("optimizer", config.name)
    options = catalog.arguments("optimizer", config.name, config.options)
    base = None
    if config.base is not None:
        try:
            base = _optimizer_spec(config.base)
        except OptlabError as error:
            raise type(error).of(prefixed(problem, "base") for problem in error.problems) from error
    return OptimizerSpec(config.name, builder, options, base)


def _group_specs(config: OptimizerConfig) -> list[GroupSpec]:
    return [GroupSpec(_conditions(group.match), group.label, group.options) for group in config.groups]


def build_schedules(
    loaded: Loaded,
    optimizers: Mapping[str, Optimizer],
    plan: Plan,
    steps_per_epoch: int,
    metrics: Sequence[Metric],
    *,
    has_val: bool,
) -> list[Schedule]:
    """Return one schedule per optimizer, built from the config's list; an empty list without schedules."""
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
                monitor=monitor,
                higher_is_better=monitor is not None and find(monitor, metrics).mode == "max",
                until=config.until,
            )
            for config in configs
            for monitor in [_monitor(config, has_val=has_val)]
        ]
        length = plan.steps
        if length is not None and configs[0].interval == "epoch":
            length = -(-length // steps_per_epoch)
        return [
            build_schedule(rate_holder(optimizer), specs, length=length) for optimizer in optimizers.values()
        ]


def _monitor(scheduler: SchedulerConfig, *, has_val: bool) -> str | None:
    if scheduler.monitor is None and "plateau" in scheduler.name.rpartition(":")[2].lower():
        return "val_loss" if has_val else "train_loss"
    return scheduler.monitor
