"""Metrics: what is measured beside the loss, in which direction it improves, and how it is shown.

A metric is one `Metric` value; everything that selects, tabulates or draws results asks it. This module does
not import torch, so that tables and figures of a run directory are created quickly.

Shapes: outputs float [N, K] are logits or real predictions. Targets are one of
    int64 [N]      class numbers
    float [N, K]   class probabilities (mixup) or real values
    float [N]      real values; the outputs are [N, 1]
For tokens, outputs are [N, T, K] and targets int64 [N, T].
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["min", "max"]

SPLITS = ("train", "train_eval", "val")
"""Prefixes of the columns of epochs.csv; `train_eval` is the training split in eval mode."""

RESERVED_NAMES = (
    *("loss", "loss_logx", "lr", "gradients", "init_histograms", "histograms"),
    *("reconstructions", "samples", "decision_boundary"),
)
"""The loss and the other figures of a run: a metric's figure has the name of the metric."""

_NAME = re.compile(r"(?!eval_)[A-Za-z_][A-Za-z0-9_]{0,59}\Z")  # train_eval_x is x in eval mode
_FORMAT = re.compile(r",?(\.\d\d?)?[efg%]\Z")
_PREFIX = re.compile(r"(?:(?:final|best)_)?(?:test|train_eval|train|val)_")


def mean(sums: Tensor, samples: int) -> float:
    """Return the mean over the samples, from their sum."""
    return float(sums.item() / samples)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement of a model on a split, and how its values are compared and shown.

    A metric is computed from sums over samples, which are added over batches: accuracy from the number of
    correct predictions, R2 from the sums of squared errors, targets and squared targets.

        >>> import torch
        >>> error = Metric("max_error", "min", sums=lambda outputs, targets: (outputs - targets).abs().sum())
        >>> error(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
        1.5

    Args:
        name: name in configs and columns, as `accuracy` in `val_accuracy`.
        mode: `max` if higher values are better, `min` if lower ones are.
        label: name on axes; empty = the name with spaces.
        short: name in headings of tables; empty = the label.
        unit: `%` for fractions in [0, 1], which are shown in percent; other text is only shown; empty = none.
        format: format of a value in tables, as `.2f`; empty = `.2%` for fractions, else by size.
        sums: (outputs, targets) -> sums over the samples of a batch, as int64 or float64 of any one shape; a
            window of tokens is one sample, with the mean over its tokens;
            None for the loss, and for a metric whose description was read from a run.
        value: (sums over all batches, number of samples) -> value of the metric; default: the mean.
        counts: whether the sums are integers. These do not depend on how samples are grouped, so that many
            small batches are computed at once.
        needs_classes: whether the targets have to be classes.
    """

    name: str
    mode: Mode
    label: str = ""
    short: str = ""
    unit: str = ""
    format: str = ""
    sums: Callable[[Tensor, Tensor], Tensor] | None = None
    value: Callable[[Tensor, int], float] = mean
    counts: bool = False
    needs_classes: bool = False

    def __post_init__(self) -> None:
        """Fill in the label and the short name; raise ConfigError for values that cannot be shown."""
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise ConfigError(
                f"{self.name!r:.80} cannot be the name of a metric",
                expected="letters, digits and underscores, at most 60, without a leading digit or `eval_`",
            )
        if self.mode not in ("min", "max"):
            raise ConfigError(f"{self.name}: mode is {self.mode!r:.40}", expected="min or max")
        for text in (self.label, self.short, self.unit):
            if not isinstance(text, str) or not text.isprintable() or "$" in text or len(text) > 60:
                raise ConfigError(
                    f"{self.name}: {text!r:.80} cannot be shown", expected="at most 60 characters without $"
                )
        if not isinstance(self.format, str) or (self.format and not _FORMAT.match(self.format)):
            raise ConfigError(
                f"{self.name}: format is {self.format!r:.40}", expected="a format such as `.2f` or `.1%`"
            )
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))
        object.__setattr__(self, "short", self.short or self.label)

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the value on one batch."""
        assert self.sums is not None, f"{self.name} is only a description"
        return self.compute(self.sums(outputs, targets), len(targets))

    def compute(self, sums: Tensor, samples: int) -> float:
        """Return the value of sums over samples; raise ConfigError if `value` does not return a number."""
        value = self.value(sums, samples)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"`value` of {self.name} returned a {type(value).__name__}", key="name", expected="a float"
            )
        return value

    @property
    def scale(self) -> int:
        """Factor from a value to the number that is shown: 100 for fractions, else 1."""
        return 100 if self.unit == "%" else 1

    @property
    def log(self) -> bool:
        """Whether figures show positive values on a log axis: they fall towards 0, as losses do."""
        return self.mode == "min" and self.unit != "%"

    def with_unit(self, text: str) -> str:
        """Return the text of an axis label with the unit: `accuracy (%)`."""
        return f"{text} ({self.unit})" if self.unit else text

    def heading(self, text: str) -> str:
        """Return the heading of a table column: `final val` -> `final val acc %`."""
        return " ".join(part for part in (text, self.short, self.unit) if part)

    @property
    def spec(self) -> str:
        """The format of a value; empty = by its size."""
        return self.format or (".2%" if self.unit == "%" else "")

    def description(self) -> dict[str, str]:
        """Return what is stored with a run, so that it is compared without importing a user's code."""
        return {key: getattr(self, key) for key in _DESCRIPTION}


_DESCRIPTION = ("name", "mode", "label", "short", "unit", "format")


def described(fields: Mapping[str, Any]) -> Metric:
    """Return the metric of a description; raise ConfigError if it is not valid."""
    return Metric(**{key: fields.get(key, "") for key in _DESCRIPTION})


# Functions of outputs and targets


def accuracy() -> Metric:
    """Return the accuracy: the share of samples whose largest output is that of the target class.

    Of probability targets (mixup), the target is the most probable class.
    """
    return Metric(
        "accuracy", "max", short="acc", unit="%", sums=_num_correct, counts=True, needs_classes=True
    )


def top5_accuracy() -> Metric:
    """Return the top-5 accuracy: the share of samples whose target is among the five largest outputs."""
    return Metric(
        "top5_accuracy",
        "max",
        label="top-5 accuracy",
        short="top-5 acc",
        unit="%",
        sums=_num_in_top5,
        counts=True,
        needs_classes=True,
    )


def error_rate() -> Metric:
    """Return the error rate: the share of samples whose largest output is not that of the target class."""
    return Metric(
        "error_rate",
        "min",
        short="error",
        unit="%",
        sums=lambda outputs, targets: len(targets) - _num_correct(outputs, targets),
        counts=True,
        needs_classes=True,
    )


def mse() -> Metric:
    """Return the mean squared error over samples and outputs; class targets become one-hot rows."""
    return Metric("mse", "min", label="mean squared error", short="MSE", sums=_squared_error)


def rmse() -> Metric:
    """Return the root of the mean squared error over samples and outputs."""
    return Metric(
        "rmse",
        "min",
        label="root mean squared error",
        short="RMSE",
        sums=_squared_error,
        value=lambda sums, samples: math.sqrt(mean(sums, samples)),
    )


def mae() -> Metric:
    """Return the mean absolute error over samples and outputs; class targets become one-hot rows."""
    return Metric("mae", "min", label="mean absolute error", short="MAE", sums=_absolute_error)


def r2() -> Metric:
    """Return R2, 1 - squared error / squared deviation from the mean target, averaged over the outputs.

    An output whose targets are all equal counts as 1 if it is exact, else as 0 (as in scikit-learn).
    """
    return Metric("r2", "max", label="R²", short="R²", format=".4f", sums=_moments, value=_r2)


def perplexity() -> Metric:
    """Return the perplexity, the exponential of the mean cross-entropy of the targets."""
    return Metric(
        "perplexity",
        "min",
        sums=_cross_entropy,
        value=lambda sums, samples: _exp(mean(sums, samples)),
        needs_classes=True,
    )


def bits_per_char() -> Metric:
    """Return the mean cross-entropy of the targets in bits: per character, or per byte of bytes."""
    return Metric(
        "bits_per_char",
        "min",
        label="bits per character",
        short="bits/char",
        format=".4f",
        sums=_cross_entropy,
        value=lambda sums, samples: mean(sums, samples) / math.log(2),
        needs_classes=True,
    )


def suboptimality() -> Metric:
    """Return the mean of outputs - targets: of an objective, the loss minus its known minimum."""
    return Metric(
        "suboptimality",
        "min",
        sums=lambda outputs, targets: (outputs.double() - _values(outputs, targets)).mean(dim=1).sum(),
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    logs = outputs.float().log_softmax(dim=-1)
    if targets.is_floating_point():
        return -(logs * targets).double().sum()
    return -_sum_over_samples(logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double())


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _num_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return _sum_over_samples(outputs.argmax(dim=-1) == _classes(targets))


def _num_in_top5(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[-1] < 5:
        raise ConfigError(f"top5_accuracy needs at least 5 classes; the data has {outputs.shape[-1]}")
    right = outputs.topk(5, dim=-1).indices == _classes(targets).unsqueeze(-1)
    return _sum_over_samples(right.any(dim=-1))


def _sum_over_samples(values: Tensor) -> Tensor:
    """Return the sum of [N]; of [N, T] the sum of the means over the tokens."""
    return values.sum() if values.ndim == 1 else values.double().mean(dim=1).sum()


def _classes(targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        assert targets.ndim == 2, "real targets are not classes"
        return targets.argmax(dim=1)
    return targets


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.double() - _values(outputs, targets)).square().mean(dim=1).sum()


def _absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.double() - _values(outputs, targets)).abs().mean(dim=1).sum()


def _moments(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sums of squared errors, targets and squared targets, float64 [3, K]."""
    values = _values(outputs, targets)
    sums = outputs.new_empty((3, values.shape[1])).double()
    sums[0], sums[1] = (outputs.double() - values).square().sum(dim=0), values.sum(dim=0)
    sums[2] = values.square().sum(dim=0)
    return sums


def _r2(sums: Tensor, samples: int) -> float:
    each: list[float] = []
    for error, total, squares in zip(*sums.tolist(), strict=True):
        spread = squares - total * total / samples
        # A smaller spread is the rounding of sums of equal targets.
        if math.isnan(spread) or spread > 1e-14 * squares:
            each.append(1 - error / spread)
        else:
            each.append(float(error == 0))
    return sum(each) / len(each)


def _values(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return real targets as float64 [N, K]; classes become one-hot rows."""
    if not targets.is_floating_point():
        return outputs.double().zero_().scatter(1, targets.unsqueeze(1), 1.0)
    values = targets.double()
    return values.unsqueeze(1) if values.ndim == 1 else values


def of_function(name: str, mode: Mode, function: Callable[[Tensor, Tensor], Tensor | float]) -> Metric:
    """Return the metric of a function that returns a value per sample, as a tensor [N], or their mean.

    The function is called once per batch. The mean of a batch is weighted by its number of samples.
    """

    def sums(outputs: Tensor, targets: Tensor) -> Tensor:
        result = function(outputs, targets)
        if isinstance(result, int | float):
            result = outputs.new_zeros(()).double() + result
        has_values = hasattr(result, "is_meta") and not (result.is_meta or result.is_complex())
        if not has_values or result.shape not in ((), targets.shape[:1]):
            what = f" of {result.dtype} {list(result.shape)}" if hasattr(result, "shape") else ""
            raise ConfigError(
                f"{name} returned a {type(result).__name__}{what} for {len(targets)} samples",
                key="name",
                expected="a tensor with one real number per sample, or their mean",
            )
        return result.double() * len(targets) if result.ndim == 0 else result.double().sum()

    return Metric(name, mode, sums=sums)


# The metrics of a run


LOSS = Metric("loss", "min")
BUILT_IN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        LOSS,
        accuracy(),
        top5_accuracy(),
        error_rate(),
        mse(),
        rmse(),
        mae(),
        r2(),
        perplexity(),
        bits_per_char(),
        suboptimality(),
    )
}
LEADING = ("accuracy", "loss")
"""Names of the metrics by which runs are compared by default: the first that was measured."""


def leading(names: Iterable[str]) -> str:
    """Return the name of the metric by which runs that measured the given metrics are compared by default."""
    measured = set(names)
    return next((name for name in LEADING if name in measured), "loss")


def metric_name(column: str) -> str:
    """Return the metric of a column or result: `val_accuracy`, `final_train_eval_accuracy` -> `accuracy`."""
    prefix = _PREFIX.match(column)
    return column[prefix.end() :] if prefix else column


def find(column: str, known: Iterable[Metric] = ()) -> Metric:
    """Return the metric of a column or result; lower values of an unknown one count as better, as of losses.

    Args:
        column: as `val_accuracy`, `final_val_loss`, `test_loss` or `loss`.
        known: metrics beside the built-in ones.
    """
    name = metric_name(column)
    known_metric = BUILT_IN.get(name) or next((metric for metric in known if metric.name == name), None)
    return known_metric or Metric(name if _NAME.match(name) else "unknown", "min")
