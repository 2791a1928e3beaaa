"""The forward pass of a step and of an evaluation: the model, its prediction and the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainer.losses import Loss
from trainer.models.outputs import prediction


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Computes the prediction and the loss of a batch.

    Args:
        loss: (prediction, targets) -> mean over the samples, 0-d.
        output: which entry of what the model returns is the prediction; see `models.outputs.prediction`.
        context: further arguments of the loss, by name: `model`; `inputs`, the batch; `outputs`, what the
            model returned.
    """

    loss: Loss
    output: str | int | None = None
    context: tuple[str, ...] = ()

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the prediction."""
        return self.score(model, inputs, model(inputs), targets)

    def score(
        self, model: nn.Module, inputs: Tensor, outputs: object, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the prediction, given what the model returned."""
        predicted = prediction(outputs, self.output)
        if not self.context:
            return self.loss(predicted, targets), predicted
        known = {"model": model, "inputs": inputs, "outputs": outputs}
        return self.loss(predicted, targets, **{name: known[name] for name in self.context}), predicted
