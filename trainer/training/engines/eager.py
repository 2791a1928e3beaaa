"""The standard training step in plain torch: forward, loss, zero_grad, backward, step.

The engine updates the parameters once from the given batches. Epochs, schedules, logging and devices are
handled elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.config.models import StepMode
from trainer.seeding import random_state, set_random_state
from trainer.training.forward import ForwardPass

MicroBatch = tuple[Tensor, Tensor]


@dataclass(slots=True)
class StepOutput:
    """Result of one step. Its tensors stay on the device.

    Args:
        loss: mean loss over the samples of the step before the update, 0-d, without penalties.
        outputs: the model's outputs for each micro-batch, detached, each [n, K].
        grad_evals: number of backward passes.
        grad_norms: Euclidean norm of each parameter's gradient before clipping, [parameters], or None.
        penalty: the penalty added to the loss, 0-d, or None.
    """

    loss: Tensor
    outputs: list[Tensor]
    grad_evals: int
    grad_norms: Tensor | None = None
    penalty: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds per step of both engines.

    Attributes:
        eager: of an eager step.
        compiled: of a compiled step; None if the step was never compiled on this machine.
    """

    eager: float
    compiled: float | None


class EagerEngine:
    """Trains a model with one or more optimizers, one update per step.

    Args:
        model: the model in train mode, on its device.
        forward: computes the loss and the prediction of a batch.
        optimizers: optimizers of disjoint parameters; one that needs a closure (LBFGS) must be the only one.
        autocast: the context of every forward pass.
        step_mode: what the optimizers' `step` needs; see `StepMode`.
        scaler: scales the loss for float16, or None.
        penalty: () -> a 0-d tensor added to the loss, or None.
        clip_grad_norm, clip_grad_value: largest total norm / element of the gradient, or None.
        zero_grad: whether gradients are reset at each step; False accumulates them over all steps.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: ForwardPass,
        optimizers: Sequence[Optimizer],
        *,
        autocast: AbstractContextManager[object],
        step_mode: StepMode = "plain",
        scaler: GradScaler | None = None,
        penalty: Callable[[], Tensor] | None = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        zero_grad: bool = True,
    ) -> None:
        self.needs_closure = "closure" in step_mode
        assert not self.needs_closure or (len(optimizers) == 1 and scaler is None)
        self.model = model
        self.forward = forward
        self.optimizers = tuple(optimizers)
        self.autocast = autocast
        self.step_mode = step_mode
        self._backward = _backward_with_graph if step_mode == "create_graph" else torch.autograd.backward
        self.scaler = scaler
        self.penalty = penalty
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value
        self.zero_grad = zero_grad
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    @property
    def ready(self) -> bool:
        """Whether the steps run compiled."""
        return False

    @property
    def was_kept(self) -> bool:
        """Whether the steps run as a program that an earlier run compiled."""
        return False

    @property
    def compared_steps(self) -> int:
        """Number of compiled steps that were compared with eager steps."""
        return 0

    @property
    def checked(self) -> str:
        """Description of the comparison with eager steps; empty for an eager engine."""
        return ""

    def compile(
        self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
    ) -> str | None:
        """Prepare for steps like the given ones. An eager engine has nothing to prepare.

        Returns:
            The reason why a compiled engine's steps will run eager; None if they will run compiled.
        """
        return None

    def step_times(
        self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
    ) -> StepTimes | str:
        """Return the times of steps, or why they cannot run compiled; see `compile` for the arguments."""
        return "the engine cannot compile steps"

    def check(self, batches: Sequence[MicroBatch] | None = None) -> str | None:
        """Check that compiled steps are still correct. An eager engine has nothing to check.

        Returns:
            The reason why a compiled engine's steps will run eager from now on; None if nothing changes.
        """
        return None

    def step(self, batches: Sequence[MicroBatch], *, measure: bool = False) -> StepOutput:
        """Update the parameters once from the mean gradient over all samples of `batches`.

        Args:
            batches: one (inputs, targets), or several whose gradients are accumulated.
            measure: whether to return the norms of the gradients.
        """
        if self.needs_closure:
            return self._closure_step(batches, measure=measure)
        output = self._gradients(batches, measure=measure)
        if self.scaler is not None:
            self._step_scaled(self.scaler)
            return output
        for optimizer in self.optimizers:
            optimizer.step()
        return output

    def _step_scaled(self, scaler: GradScaler) -> None:
        for optimizer in self.optimizers:
            scaler.step(optimizer)
        scaler.update()

    def _gradients(self, batches: Sequence[MicroBatch], *, measure: bool) -> StepOutput:
        """Compute the gradients for `optimizer.step()`: forward, loss, zero_grad, backward, clip."""
        losses: list[Tensor] = []
        all_outputs: list[Tensor] = []
        for inputs, targets in batches:
            share = 1.0  # weight in the mean over all samples
            if len(batches) > 1:
                share = len(targets) / sum(len(others) for _, others in batches)
            loss, outputs = self._forward_backward(inputs, targets, share, first=not losses)
            losses.append(loss)
            all_outputs.append(outputs)
        penalty = None if self.penalty is None else self._add_penalty(self.penalty())
        if self.scaler is not None:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        norms = self._gradient_norms() if measure else None
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)
        if self.clip_grad_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.clip_grad_value)
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return StepOutput(total, all_outputs, len(batches), norms, penalty)

    def _forward_backward(
        self, inputs: Tensor, targets: Tensor, share: float, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of `share` times the loss; return that loss and the outputs, detached.

        `first` marks the first micro-batch of a step: the gradients of the previous step are reset.
        """
        with self.autocast:
            loss, outputs = self.forward(self.model, inputs, targets)
        if share != 1.0:
            loss = loss * share
        if first:
            self._zero_gradients()
        self._backward(self._scaled(loss))
        return loss.detach(), outputs.detach()

    def _losses(self, batches: Sequence[MicroBatch], *, measure: bool) -> StepOutput:
        """Compute the loss with its graph, for an optimizer that differentiates it; reset the gradients."""
        assert not measure, "the gradients are not known before the optimizer computes them"
        total, all_outputs = sum(len(targets) for _, targets in batches), []
        losses = []
        for inputs, targets in batches:
            with self.autocast:
                loss, outputs = self.forward(self.model, inputs, targets)
            losses.append(loss * (len(targets) / total))
            all_outputs.append(outputs.detach())
        self._zero_gradients()
        penalty = None if self.penalty is None else self.penalty()
        return StepOutput(torch.stack(losses).sum(), all_outputs, len(batches), None, penalty)

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers if self.zero_grad else ():
            optimizer.zero_grad()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _add_penalty(self, penalty: Tensor) -> Tensor:
        self._backward(self._scaled(penalty))
        return penalty.detach()

    def _gradient_norms(self) -> Tensor:
        gradients = [p.grad.detach() if p.grad is not None else p.new_zeros(()) for p in self.parameters]
        return torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])

    def _closure_step(self, batches: Sequence[MicroBatch], *, measure: bool) -> StepOutput:
        """Let the optimizer evaluate the loss several times with the same batches and random numbers."""
        (optimizer,) = self.optimizers
        first: list[StepOutput] = []
        evaluations = 0
        device = self.parameters[0].device
        before = random_state(device)
        compute = self._losses if self.step_mode == "loss_closure" else self._gradients

        def closure() -> Tensor:
            nonlocal evaluations
            set_random_state(before, device)
            with torch.enable_grad():
                output = compute(batches, measure=measure and not first)
            evaluations += output.grad_evals
            if not first:
                penalty = None if output.penalty is None else output.penalty.detach()
                first.append(replace(output, loss=output.loss.detach(), penalty=penalty))
            return output.loss if output.penalty is None else output.loss + output.penalty

        if self.step_mode == "gradients_and_closure":
            closure()
        step: Callable[..., object] = (
            optimizer.step
        )  # torch's annotation asks for a closure that returns a float
        step(closure)
        if not first:
            raise RuntimeError(f"{type(optimizer).__name__}.step(closure) did not call its closure")
        output = first[0]
        output.grad_evals = evaluations
        return output


def _backward_with_graph(loss: Tensor) -> None:
    """Compute gradients that can be differentiated; the next `zero_grad` frees their graph."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        torch.autograd.backward(loss, create_graph=True)
