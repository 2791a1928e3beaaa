"""Losses and penalties on the weights.

A loss builder takes its options and returns `loss(outputs, targets) -> scalar`, the mean over the batch. A
loss that needs more than the prediction has further parameters with the names of `user_code.LOSS_CONTEXT`.

Shapes: outputs float [N, K] are logits or real predictions. Targets are one of
    int64 [N]      class numbers
    float [N, K]   class probabilities (mixup) or real values
    float [N]      real values; the outputs are [N, 1]
For tokens, outputs are [N, T, K] and targets int64 [N, T].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from trainer.errors import ConfigError

Loss = Callable[..., Tensor]

OF_REGRESSION = (
    "mse",
    "l1",
    "huber",
    *(f"torch.nn:{name}" for name in ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "PoissonNLLLoss")),
)
"""Losses of real targets: with one of them, integer targets are real values unless the config states it."""


def cross_entropy(
    *,
    label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0,
    class_weights: list[Annotated[float, Field(ge=0)]] | None = None,
) -> Loss:
    """Return softmax cross-entropy, -sum_k q_k log softmax(outputs)_k, of class or probability targets.

    Source: torch.nn.CrossEntropyLoss.

    Args:
        label_smoothing: fraction of the target that is distributed uniformly over all classes, 0 to 1.
        class_weights: a factor >= 0 for the loss of each class; null = 1. The loss is the mean over the
            batch of the weighted losses. torch.nn.CrossEntropyLoss divides by the sum of the weights
            instead, which gives a sample another weight in each batch.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            _require_same_shape("cross_entropy", outputs, targets)
        elif targets.ndim == 2:
            outputs, targets = outputs.flatten(0, 1), targets.flatten()
        if class_weights is None:
            return functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)
        if len(class_weights) != outputs.shape[1]:
            raise ConfigError(
                f"got {len(class_weights)} weights for {outputs.shape[1]} classes", key="class_weights"
            )
        weights = outputs.new_tensor(class_weights)
        total = functional.cross_entropy(
            outputs, targets, weights, reduction="sum", label_smoothing=label_smoothing
        )
        return total / len(outputs)

    return loss


def nll() -> Loss:
    """Return the negative log-likelihood of the target class, -log softmax(outputs)_target.

    Models return logits, so the loss includes the log-softmax: it is `cross_entropy` without smoothing,
    computed in two steps. It accepts class targets only.

    Source: torch.nn.NLLLoss on torch.nn.LogSoftmax.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        _require_classes("nll", targets)
        if targets.ndim == 2:
            outputs, targets = outputs.flatten(0, 1), targets.flatten()
        return functional.nll_loss(functional.log_softmax(outputs, dim=1), targets)

    return loss


def mse() -> Loss:
    """Return the squared error, mean over batch and outputs; class targets become one-hot rows.

    Source: torch.nn.MSELoss.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, _real_targets("mse", outputs, targets))

    return loss


def l1() -> Loss:
    """Return the absolute error, mean over batch and outputs; class targets become one-hot rows.

    Source: torch.nn.L1Loss.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.l1_loss(outputs, _real_targets("l1", outputs, targets))

    return loss


def huber(*, delta: Annotated[float, Field(gt=0)] = 1.0) -> Loss:
    """Return Huber's loss, mean over batch and outputs; class targets become one-hot rows.

    e^2 / 2 where |e| <= delta, delta (|e| - delta / 2) beyond. Source: torch.nn.HuberLoss.

    Args:
        delta: error at which the loss changes from quadratic to linear, above 0.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.huber_loss(outputs, _real_targets("huber", outputs, targets), delta=delta)

    return loss


def bce_with_logits(*, reduction: Literal["mean", "sum_outputs"] = "mean") -> Loss:
    """Return the binary cross-entropy of every output; class targets become one-hot rows.

    Source: torch.nn.BCEWithLogitsLoss.

    Args:
        reduction: `mean` over batch and outputs, or `sum_outputs`: sum over the outputs, mean over the batch.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        mean = functional.binary_cross_entropy_with_logits(
            outputs, _real_targets("bce_with_logits", outputs, targets)
        )
        return mean * outputs.shape[1] if reduction == "sum_outputs" else mean

    return loss


def multi_margin(*, p: Literal[1, 2] = 1, margin: float = 1.0) -> Loss:
    """Return the multi-class hinge loss, sum_k max(0, margin - x_target + x_k)^p / K over k != target.

    It accepts class targets only. Source: torch.nn.MultiMarginLoss.

    Args:
        p: power of the hinge, 1 or 2.
        margin: required margin of the target class over every other class.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        _require_classes("multi_margin", targets)
        return functional.multi_margin_loss(outputs, targets, p=p, margin=margin)

    return loss


def elbo(
    *, beta: Annotated[float, Field(ge=0)] = 1.0, std: Annotated[float, Field(gt=0)] | None = None
) -> Loss:
    """Return the negative evidence lower bound (ELBO) of a variational autoencoder, in nats per sample.

    -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)), with one draw of z, and in closed form
    KL = 1/2 sum_j (mean_j^2 + var_j - log var_j - 1). With beta 1, its mean is an upper bound of -log p(x);
    for values between 0 and 1, the Bernoulli likelihood is the usual objective, but no density.
    The model returns a dict with `mean` and `log_variance`, float [N, latent], of z given x, and with
    `logits`, float [N, D], of a Bernoulli distribution of x given z; without `logits`, x is normal around the
    prediction.

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes"; Higgins et al. 2017, "beta-VAE".

    Args:
        beta: weight of the KL divergence.
        std: standard deviation of x given z, if it is normal; null = 1.
    """
    sigma = 1.0 if std is None else std
    constant = math.log(sigma * math.sqrt(2 * math.pi))

    def loss(prediction: Tensor, targets: Tensor, outputs: object) -> Tensor:
        if not isinstance(outputs, Mapping) or not {"mean", "log_variance"} <= set(outputs):
            raise ConfigError(
                "elbo needs a model that returns a dict with `mean` and `log_variance`",
                key="name",
                fix="choose the model vae or conv_vae, or another loss",
            )
        mean, log_variance = outputs["mean"], outputs["log_variance"]
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
        if "logits" in outputs:
            if std is not None:
                raise ConfigError("a Bernoulli likelihood has no standard deviation", key="std")
            error = functional.binary_cross_entropy_with_logits(outputs["logits"], targets, reduction="sum")
        else:
            squares = (prediction - targets).square().sum()
            error = squares / (2 * sigma**2) + constant * targets.numel()
        total: Tensor = error + beta * kl
        return total / len(targets)

    return loss


def objective() -> Loss:
    """Return the mean of the outputs, for a model whose output is the objective; targets are not used."""
    return lambda outputs, targets: outputs.mean()


def penalty(parameters: Sequence[Tensor], *, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return l1 * sum |w| + l2 / 2 * sum w^2 over one or more parameters; it is differentiable.

    The gradient of the l2 term is l2 * w, as that of `weight_decay: l2` in SGD.
    """
    total = torch.zeros((), dtype=parameters[0].dtype, device=parameters[0].device)
    for weight in parameters:
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + 0.5 * l2 * weight.square().sum()
    return total


def _require_classes(name: str, targets: Tensor) -> None:
    if targets.is_floating_point():
        raise ConfigError(
            f"{name} takes class targets, got real numbers of shape {list(targets.shape)}",
            key="name",
            expected="int64 class numbers [N]",
            fix="use cross_entropy, which also takes probabilities (mixup), or mse for real targets",
        )


def _require_same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise ConfigError(
            f"{name}: targets of shape {list(targets.shape)} do not match outputs {list(outputs.shape)}",
            key="name",
            expected=f"class numbers [N], or real targets {list(outputs.shape)}",
        )


def _real_targets(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return real targets in the outputs' shape; classes become one-hot rows."""
    if not targets.is_floating_point():
        # scatter, unlike one_hot, neither synchronizes with the GPU to check the range nor creates int64 rows
        return torch.zeros_like(outputs).scatter(1, targets.unsqueeze(1), 1.0)
    if targets.ndim == 1:
        targets = targets.unsqueeze(1)
    _require_same_shape(name, outputs, targets)
    return targets
