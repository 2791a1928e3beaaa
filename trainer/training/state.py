"""The state of a run: everything that changes during training and that a checkpoint saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.device import Clock
from trainer.optimizers import snapshot
from trainer.optimizers.modes import evaluation_weights, has_modes
from trainer.schedules import Schedule
from trainer.seeding import global_stream, random_state, saved_random_state, set_random_state
from trainer.training.evaluation import RunningMean


@dataclass(slots=True)
class Progress:
    """Progress of a run.

    Args:
        step: completed updates.
        epoch: completed epochs.
        batch: completed batches of the current epoch.
        samples: training samples seen.
        grad_evals: backward passes made.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    grad_evals: int = 0


@dataclass(slots=True)
class TrainingState:
    """The state of a run. A run that continues from a saved state equals an uninterrupted one bit for bit.

    The random generators belong to the state as well; they are global.

    Args:
        device: device of the model.
        model, optimizers, schedules, scaler: the trained objects; optimizers by label.
        keeps_gradients: whether gradients accumulate over all steps and therefore belong to the state.
        mean: loss and metrics of the training batches since the last evaluation.
        clock: training time.
        derived: options of optimizers that are derived from the run, by dotted key.
        ended: whether the run has reached its length.
        evaluated_at: step of the last evaluation.
        saved_seconds: training seconds when a checkpoint was last due by training time.
        nonfinite: the NaN and infinite values of the last step, if they are checked; they end the run.
        eager_from: step at which a compiled run changed to eager steps; None = it did not.
        suspended: the states of the global generators and the settings of torch that the run continues with;
            None while it trains, when they are those of the process.
    """

    device: torch.device
    model: nn.Module
    optimizers: Mapping[str, Optimizer]
    schedules: Sequence[Schedule]
    scaler: GradScaler | None
    keeps_gradients: bool
    mean: RunningMean
    clock: Clock
    derived: Mapping[str, int | None] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    ended: bool = False
    evaluated_at: int | None = None
    saved_seconds: float = 0.0
    nonfinite: str | None = None
    eager_from: int | None = None
    suspended: Mapping[str, Any] | None = None

    def suspend(self) -> None:
        """Keep the process-wide states that the run uses, because the caller may train another run next."""
        self.suspended = {
            "random": random_state(self.device),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }

    def resume(self) -> None:
        """Set the process-wide states to those that `suspend` kept."""
        if self.suspended is not None:
            set_random_state(self.suspended["random"], self.device)
            torch.set_num_threads(self.suspended["threads"])
            torch.use_deterministic_algorithms(self.suspended["deterministic"])
            self.suspended = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, from which another process can resume."""
        named = list(self.model.named_parameters())
        parameters = [parameter for _, parameter in named]
        optimizers = {label: snapshot.save(one, parameters) for label, one in self.optimizers.items()}
        return {
            "progress": asdict(self.progress),
            "train_seconds": self.clock.read(),
            "evaluated_at": self.evaluated_at,
            "ended": self.ended,
            "anomaly": self.nonfinite,
            "eager_from": self.eager_from,
            "model": self.model.state_dict(),
            "optimizers": optimizers,
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "mean": self.mean.state_dict(),
            "gradients": {name: p.grad for name, p in named if p.grad is not None and self.keeps_gradients},
            "random": saved_random_state(
                self.suspended["random"] if self.suspended else random_state(self.device)
            ),
            **({"derived": dict(self.derived)} if self.derived else {}),
            **self._evaluation_model(),
        }

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Set the weights to those to evaluate for the block, if an optimizer trains at other ones."""
        return evaluation_weights(self.optimizers.values(), list(self.model.parameters()))

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Set the weights to evaluate and the random numbers of an evaluation for the block.

        A model that draws in eval mode, as a variational autoencoder does, draws the same numbers in every
        evaluation, and evaluations do not change the numbers of training.
        """
        with self.evaluation_weights(), global_stream("evaluation", 0, self.device):
            yield

    def _evaluation_model(self) -> dict[str, Any]:
        """Return the weights to evaluate, if an optimizer trains at other ones than these."""
        if not any(map(has_modes, self.optimizers.values())):
            return {}
        with self.evaluation_weights():
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return {"evaluation_model": weights}

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """Load the weights of a saved state, and what the optimizers compute the weights to evaluate from."""
        self.model.load_state_dict(state["model"])
        for label, optimizer in self.optimizers.items():
            if has_modes(optimizer):
                snapshot.restore(optimizer, state["optimizers"][label], list(self.model.parameters()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict` of a run with the same config."""
        self.progress = Progress(**state["progress"])
        self.clock.elapsed = self.saved_seconds = state["train_seconds"]
        self.evaluated_at = state["evaluated_at"]
        self.ended = state["ended"]
        self.nonfinite = state["anomaly"]
        self.eager_from = state.get("eager_from")  # absent from checkpoints of earlier releases
        self.model.load_state_dict(state["model"])
        for label, optimizer in self.optimizers.items():
            snapshot.restore(optimizer, state["optimizers"][label], list(self.model.parameters()))
        for schedule, schedule_state in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(schedule_state)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.mean.load_state_dict(state["mean"])
        for parameter in self.model.parameters():
            parameter.grad = None
        for name, gradient in state["gradients"].items():
            self.model.get_parameter(name).grad = gradient.to(self.device, copy=True)
        set_random_state(state["random"], self.device)
        self.suspend()
