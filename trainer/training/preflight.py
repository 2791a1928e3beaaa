"""Checks that run before training: invalid combinations raise an error before any file is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.load import Loaded
from trainer.config.models import DataConfig
from trainer.data.batches import Batches
from trainer.errors import ConfigError, unknown_name
from trainer.metrics import Metric
from trainer.models.describe import check_shapes, copy_model, temporary_copy
from trainer.seeding import generator, preserved
from trainer.tasks import Task
from trainer.training.evaluation import sums_of
from trainer.training.experiment import Experiment
from trainer.training.forward import ForwardPass
from trainer.training.values import require_same
from trainer.user_code import code_location


def check_inputs(task: Task, data: DataConfig) -> None:
    """Raise ConfigError if the config would scale or augment inputs that are not measurements.

    `key` is relative to `data`.
    """
    stated = {"normalize": data.normalize, "augment": data.augment}
    for key, value in stated.items():
        if value and not task.scales_inputs:
            raise ConfigError(
                f"the inputs of the task {task.name} cannot be changed by data.{key}",
                key=key,
                fix=f"remove data.{key}",
            )


def check_parameters(model: nn.Module) -> None:
    """Raise ConfigError if a parameter or buffer of the model is not on the CPU."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.device.type != "cpu":
            raise ConfigError(
                f"{name} is on the device {value.device}",
                key="name",
                expected="a model built on the CPU; optlab moves it to train.device",
            )


def check_last_batch(
    loaded: Loaded,
    model: nn.Module,
    batches: Batches,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    tokens: bool,
) -> None:
    """Raise ConfigError if a batch has one sample and the model cannot train on one (batch norm)."""
    if batches.samples_per_epoch % batches.batch_size != 1 and batches.batch_size != 1:
        return
    try:
        output = loaded.config.model.output
        check_shapes(model, input_shape, num_classes, batch=1, tokens=tokens, output=output)
    except ConfigError as error:
        key = "data.batch_size"
        raise ConfigError(
            "the last batch of an epoch has one sample, and the model cannot train on one: "
            + error.problems[0].what,
            key=key,
            where=loaded.where(key),
            fix="set data.drop_last=true, or use another batch size",
        ) from error


def output_shape(targets: Tensor, num_classes: int) -> tuple[int, ...]:
    """Return the shape of a model's outputs for targets: [N, K], or for tokens [N, T, K]."""
    return (*targets.shape, num_classes) if not targets.is_floating_point() else (len(targets), num_classes)


def try_loss(
    forward: ForwardPass, model: nn.Module, inputs: Tensor, targets: Tensor, num_classes: int
) -> object:
    """Evaluate the loss once, so that targets of the wrong kind are reported before the run.

    Returns:
        The outputs on which it was computed: those of a copy of the model if the loss uses more than the
        prediction, else zeros.
    """
    outputs: Any
    try:
        if forward.context:
            with temporary_copy(model) as model_copy, preserved(inputs.device):
                outputs = model_copy.train()(inputs)
                value = forward.score(model_copy, inputs, outputs, targets)[0]
        else:
            size = output_shape(targets, num_classes)
            outputs = torch.zeros(size, device=targets.device, requires_grad=True)
            value = forward.loss(outputs, targets)
    except (RuntimeError, ValueError, TypeError) as error:
        kind = f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape[1:])}"
        location = code_location(error)
        line = f" ({location})" if location else ""
        raise ConfigError(f"the loss fails on targets of type {kind}: {error}{line}", key="name") from error
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
        raise ConfigError(
            f"the loss returned a {type(value).__name__}{shape} for {len(targets)} samples",
            key="name",
            expected="a 0-d tensor, the mean over the samples",
        )
    if not value.is_floating_point() or value.device != targets.device:
        kind = f"{str(value.dtype).removeprefix('torch.')} number on {value.device}"
        raise ConfigError(
            f"the loss returned a {kind}", key="name", expected="a real number on the outputs' device"
        )
    if not value.requires_grad:
        raise ConfigError(
            "the loss has no gradient: it does not depend on the outputs",
            key="name",
            expected="a number computed from the outputs by torch (without detach, item or no_grad)",
        )
    return outputs


def try_forward(
    forward: ForwardPass,
    model: nn.Module,
    autocast: AbstractContextManager[object],
    inputs: Tensor,
    targets: Tensor,
    kind: str,
    component: str,
) -> None:
    """Run two copies of the model on the same samples: a user's model or loss must give equal results.

    Args:
        forward: computes the loss and the prediction of a batch.
        model: the model; not changed. Nothing is tried if the model or the loss cannot be copied.
        autocast: the context of the forward pass.
        inputs, targets: some samples.
        kind: `model` or `loss`.
        component: the name of the user's model or loss.

    Raises:
        ConfigError: they are not; `key` is "name".
    """
    results = []
    for _ in range(2):
        try:
            model_copy = copy_model(model).train()
            forward_copy = replace(forward, loss=copy.deepcopy(forward.loss))  # a module may have a state
        except Exception:  # of an object that one of them holds, as a lock
            return
        with preserved(inputs.device), autocast:
            loss, outputs = forward_copy(model_copy, inputs, targets)
        results.append({"the prediction": outputs} if kind == "model" else {"the loss": loss})
    require_same(results[0], results[1], component)


def try_metric(metric: Metric, targets: Tensor, num_classes: int, *, check_additive: bool) -> None:
    """Compute a metric on random outputs, so that a wrong one is reported before the run.

    Args:
        metric: the metric.
        targets: targets of some samples.
        num_classes: number of outputs.
        check_additive: whether the sums of two batches are added to those of both together.
    """
    outputs = torch.randn(output_shape(targets, num_classes), generator=generator("construction", 0))
    outputs = outputs.to(targets.device)
    with torch.no_grad():
        with preserved():
            sums = sums_of(metric, outputs, targets)
        with preserved():
            require_same({"its sums": sums}, {"its sums": sums_of(metric, outputs, targets)}, metric.name)
        metric.compute(sums, len(targets))
        if not check_additive or len(targets) < 2:
            return
        first, rest = sums_of(metric, outputs[:1], targets[:1]), sums_of(metric, outputs[1:], targets[1:])
    added = first.double() + rest.double()
    if added.shape != sums.shape or not torch.allclose(added, sums.double(), rtol=1e-4, equal_nan=True):
        raise ConfigError(
            f"`sums` of {metric.name} are not sums over the samples: those of two batches do not add up to "
            "those of both together",
            key="name",
            fix="return sums, not means, and compute the metric from them in `value`",
        )


def check_targets(loss: str, returned: object, targets: Tensor) -> None:
    """Raise ConfigError if a loss of this package is not defined for the targets.

    Args:
        loss: its name.
        returned: what the model returned, if the loss uses more than the prediction.
        targets: targets of the training split.
    """
    if loss == "cross_entropy":
        check_probabilities(targets)
    elif loss == "elbo" and isinstance(returned, Mapping) and "logits" in returned:
        low, high = float(targets.min()), float(targets.max())
        if not 0 <= low <= high <= 1:
            raise ConfigError(
                f"a Bernoulli likelihood needs values in [0, 1]; the inputs are {low:.3g} to {high:.3g}",
                key="name",
                fix="set data.normalize=null for images, or model.likelihood=gaussian",
            )


def check_probabilities(targets: Tensor) -> None:
    """Raise ConfigError for cross_entropy on real targets: with one output, it is 0 for every model."""
    if targets.is_floating_point() and not (
        bool((targets >= 0).all()) and torch.allclose(targets.sum(1), torch.ones(len(targets)), atol=1e-3)
    ):
        raise ConfigError(
            "cross_entropy needs classes or class probabilities as targets; the data has real-valued targets",
            key="name",
            expected="rows of targets that sum to 1",
            fix="set loss=mse (or l1, huber)",
        )


def check_metrics(loaded: Loaded, experiment: Experiment) -> None:
    """Raise ConfigError if early stopping, selection or a schedule uses a metric that is not measured."""
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
                fix="set data.val_size=0.1, or a number of images",
            )
        if metric not in columns:
            raise unknown_name("metric", metric, columns, key=key, where=loaded.where(key))
    if config.train.early_stopping and not has_val:
        raise ConfigError(
            "early stopping needs a validation split: training metrics keep improving when a model overfits",
            key="train.early_stopping",
            where=loaded.where("train.early_stopping"),
            fix="set data.val_size=0.1, or a number of images",
        )
