"""Loss and metrics: running means during training, and evaluation of whole splits.

Values are read from the device only when a mean is requested, so training on a GPU does not synchronize here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.metrics import Metric
from trainer.training.forward import ForwardPass

# Steps buffered before their losses are stacked and their correct predictions counted: one argmax over 32
# small batches costs a tenth of 32 calls, and integer counts do not depend on how they are split. With many
# more steps the buffered tensors spread over the heap, and each step causes page faults (50 at batch size 1).
_PENDING_STEPS = 32


class RunningMean:
    """Sample-weighted mean of the training loss, and metrics, since the last `reset`.

    Args:
        metrics: the metrics, measured on the outputs of the training steps.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Remove all steps added so far."""
        self._losses: list[Tensor] = []  # each holds the losses of several steps
        self._samples: list[int] = []
        self._pending: list[tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]] = []
        self._sums = [torch.zeros((), dtype=torch.int64) for _ in self._metrics]

    def add(self, loss: Tensor, targets: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        """Add one step: its mean loss (0-d), the targets of its batches, and the model's outputs.

        Returns:
            The number of samples in the step.
        """
        samples = sum([part.shape[0] for part in targets])  # len() of a tensor takes twice as long
        self._samples.append(samples)
        self._pending.append((loss, targets, outputs) if self._metrics else (loss, (), ()))
        if len(self._pending) >= _PENDING_STEPS:
            self._settle()
        return samples

    def _settle(self) -> None:
        if not self._pending:
            return
        losses, targets, outputs = zip(*self._pending, strict=True)
        self._losses.append(torch.stack(losses))
        if self._metrics:
            self._add_metrics(list(chain(*outputs)), list(chain(*targets)))
        self._pending.clear()

    def _add_metrics(self, outputs: list[Tensor], targets: list[Tensor]) -> None:
        together = [(torch.cat(outputs), torch.cat(targets))]
        for index, metric in enumerate(self._metrics):
            # Sums of floats depend on how steps are grouped, which differs in a resumed run.
            counts = metric.counts and targets[0].ndim == 1  # of tokens, metrics are means over windows
            for part in together if counts else zip(outputs, targets, strict=True):
                self._sums[index] = _add(self._sums[index], metric, *part)

    def values(self) -> dict[str, float | None]:
        """Return `train_loss` and `train_<metric>`; None if no step was added."""
        self._settle()
        seen = sum(self._samples)
        values: dict[str, float | None] = {"train_loss": None}
        for metric, sums in zip(self._metrics, self._sums, strict=True):
            values[f"train_{metric.name}"] = metric.compute(sums, seen) if seen else None
        if seen:
            weights = torch.tensor(self._samples, dtype=torch.float64)
            losses = torch.cat([part.cpu() for part in self._losses]).double()
            values["train_loss"] = float((losses * weights).sum() / seen)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the steps added so far, as plain tensors and numbers."""
        self._settle()
        losses = torch.cat([part.cpu() for part in self._losses]) if self._losses else torch.empty(0)
        sums = [part.cpu() for part in self._sums]
        return {"losses": losses, "samples": torch.tensor(self._samples), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.reset()
        self._losses = [state["losses"]]
        self._samples = state["samples"].tolist()
        # Earlier releases measured accuracy alone and stored the number of correct predictions.
        sums = state["sums"] if "sums" in state else [torch.tensor(state["right"]) for _ in self._metrics]
        self._sums = list(sums)


def _add(sums: Tensor, metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    batch_sums = sums_of(metric, outputs, targets)
    return sums.to(batch_sums.device) + batch_sums


def sums_of(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sums of a batch; raise ConfigError if they are no tensor."""
    assert metric.sums is not None
    sums = metric.sums(outputs, targets)
    if not isinstance(sums, Tensor):
        raise ConfigError(
            f"`sums` of {metric.name} returned a {type(sums).__name__}", key="name", expected="a tensor"
        )
    return sums


@torch.no_grad()
def evaluate_split(
    model: nn.Module,
    forward: ForwardPass,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    autocast: AbstractContextManager[object],
    metrics: Sequence[Metric],
) -> dict[str, float]:
    """Return the sample-weighted mean `loss` and the metrics of a model in eval mode.

    Args:
        model: its train or eval mode is restored afterwards.
        forward: computes the loss and the prediction of a batch.
        batches: (inputs, targets) over the whole split; at least one.
        autocast: the context of every forward pass.
        metrics: the metrics to measure.
    """
    was_training = model.training
    model.eval()
    losses, sizes = [], []
    sums = [torch.zeros((), dtype=torch.int64) for _ in metrics]
    for inputs, targets in batches:
        with autocast:
            loss, outputs = forward(model, inputs, targets)
            losses.append(loss.double())
        sizes.append(len(targets))
        sums = [_add(total, metric, outputs, targets) for total, metric in zip(sums, metrics, strict=True)]
    model.train(was_training)
    weights = torch.tensor(sizes, dtype=torch.float64)
    values = {"loss": float((torch.stack(losses).cpu() * weights).sum() / weights.sum())}
    return values | {
        metric.name: metric.compute(total, sum(sizes)) for metric, total in zip(metrics, sums, strict=True)
    }
