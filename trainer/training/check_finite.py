"""Find NaN and infinite values after a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.data.batches import Batch


def find_nonfinite(
    loss: Tensor, batches: Sequence[Batch], model: nn.Module, *, gradients: bool
) -> str | None:
    """Describe the NaN and infinite values after a step: loss, batch, first gradient, first weight.

    Args:
        loss: loss of the step, 0-d.
        batches: batches of the step.
        model: model after the update, with the gradients of the step.
        gradients: whether to check the gradients (the float16 scaler makes them infinite on purpose).

    Returns:
        The description; None if all values are finite.
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    findings = []
    if not torch.isfinite(loss):
        findings.append(f"the loss is {loss.item()}")
    for number, batch in enumerate(batches):
        for kind, values in (("inputs", batch.inputs), ("targets", batch.targets)):
            if count := _num_nonfinite(values):
                which = f" {number + 1}" if len(batches) > 1 else ""
                findings.append(
                    f"the batch{which} has {count:,} bad values of {values.numel():,} in its {kind}"
                )
    if gradients:
        findings += _describe_first(
            "gradient", [(name, p.grad) for name, p in parameters if p.grad is not None]
        )
    findings += _describe_first("weight", parameters)
    return "; ".join(findings) if findings else None


def _describe_first(kind: str, tensors: Sequence[tuple[str, Tensor]]) -> list[str]:
    """Describe the first tensor, in model order, that has NaN or infinite values."""
    # Reduce over all tensors first: this synchronizes with the device once, not once per parameter.
    if not tensors or torch.isfinite(torch.stack(torch._foreach_norm([t for _, t in tensors]))).all():
        return []
    for name, tensor in tensors:
        if count := _num_nonfinite(tensor):
            return [f"the first bad {kind} is {name} ({count:,} of {tensor.numel():,} values)"]
    return []  # all values are finite, but a norm overflowed


def _num_nonfinite(values: Tensor) -> int:
    return int(values.numel() - torch.isfinite(values).sum())
