"""Try an optimizer on a copy of the model before a run: how to step it, and whether its run can be resumed.

The state after three steps is saved as in a checkpoint, loaded into a new copy, and trained for three more
steps. The result must equal that of six steps without interruption, bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.config.models import StepMode
from trainer.errors import ConfigError, OptlabError
from trainer.models.describe import copy_model, temporary_copy
from trainer.optimizers import snapshot
from trainer.optimizers.external import OptimizerSpec, failure, group_numbers, rate_holder
from trainer.optimizers.modes import evaluation_weights, train_mode
from trainer.process_state import settings_preserved
from trainer.seeding import random_state, saved_random_state, set_random_state
from trainer.training.engines.eager import EagerEngine, MicroBatch
from trainer.training.forward import ForwardPass
from trainer.training.values import (
    Values,
    copies,
    first_difference,
    layout,
    layout_change,
    require_same,
)
from trainer.user_code import cited_definition, code_location

STEPS = 3
"""Number of steps before the state is saved, and after it is loaded."""

SAMPLES = 8
"""Maximum number of samples of a step of the rehearsal, to limit its cost for large models."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rehearsal of an optimizer found out.

    Args:
        mode: how to step it.
        changing: the numbers in its parameter groups that its steps change, see `group_numbers`.
    """

    mode: StepMode
    changing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the rehearsal of an optimizer uses.

    Args:
        spec: the optimizer, for messages.
        build: builds it for a copy of the model.
        model: the model, on its device; not changed.
        forward: computes the loss and the prediction of a batch.
        autocast: the context of every forward pass.
        batches: batches of the run.
        clip_grad_norm, clip_grad_value: see `EagerEngine`.
    """

    spec: OptimizerSpec
    build: Callable[[nn.Module], Optimizer]
    model: nn.Module
    forward: ForwardPass
    autocast: AbstractContextManager[object]
    batches: Sequence[MicroBatch]
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None

    def run(self, requested: str) -> Outcome:
        """Find out how to step the optimizer, and check that its run can be resumed.

        Args:
            requested: a step mode, or `auto` = the first one in which the optimizer works.

        Raises:
            ConfigError: the optimizer fails, or a resumed run would differ; with the line of its code.
        """
        modes: Sequence[StepMode] = get_args(StepMode)
        device = next(self.model.parameters()).device
        start = random_state(device)
        results: dict[StepMode, _Result] = {}
        failures: list[BaseException] = []
        try:
            for mode in modes if requested == "auto" else (mode for mode in modes if mode == requested):
                try:
                    results[mode] = self._train(mode, start)
                except _StepError as error:
                    failures.append(error.cause)
                    continue
                if results[mode].changed:
                    break
                if mode == "loss_closure" and failures:
                    del results[mode]  # without gradients, an optimizer that fails with them does nothing
            if not results:
                # Without a required closure, the call fails, and not the optimizer's code.
                raise failure(self.spec, failures[0] if code_location(failures[0]) else failures[-1])
            working = next((mode for mode in results if results[mode].changed), next(iter(results)))
            result = results[working]
            if working == "closure" and requested == "auto":
                # An optimizer that takes a closure may also read the gradients that it finds, as SAM does.
                with suppress(_StepError):
                    other = self._train("gradients_and_closure", start)
                    if first_difference(result.values, other.values) is not None:
                        working, result = "gradients_and_closure", other
            self._check_resumes(working, result, start)
        finally:
            set_random_state(start, device)
        return Outcome(working, result.changing)

    def _train(
        self,
        mode: StepMode,
        start: Mapping[str, Any],
        *,
        resume: _Result | None = None,
        steps: int = 2 * STEPS,
    ) -> _Result:
        """Train a copy of the model; save its state after `STEPS` steps.

        Args:
            mode: how to step.
            start: the state of the random generators at the first step.
            resume: an earlier result, to continue from its saved state; None = start anew.
            steps: number of steps.
        """
        device = next(self.model.parameters()).device
        set_random_state(start, device)
        # Python attributes of the model are not in its state; a resumed step must not depend on them here.
        original = self.model if resume is None else resume.model or self.model
        # A part may change settings of torch, such as its default type; every try starts with the same ones.
        with settings_preserved(), temporary_copy(original) as model:
            optimizer = self.build(model)
            parameters = list(model.parameters())
            layout_before = layout(model, [optimizer])
            before = [parameter.detach().clone() for parameter in parameters]
            engine = EagerEngine(
                model,
                self.forward,
                [optimizer],
                autocast=self.autocast,
                step_mode=mode,
                clip_grad_norm=self.clip_grad_norm,
                clip_grad_value=self.clip_grad_value,
            )
            model.train()
            first = 0
            saved = b""
            middle: Values = {}
            model_at_save: nn.Module | None = None
            numbers = _numbers(optimizer)
            changing: dict[tuple[int, str], None] = {}
            try:
                train_mode([optimizer])
                if resume is not None:
                    state = torch.load(io.BytesIO(resume.saved), map_location="cpu", weights_only=True)
                    model.zero_grad()
                    model.load_state_dict(state["model"])
                    snapshot.restore(optimizer, state["optimizer"], parameters)
                    set_random_state(state["random"], device)
                    first = steps
                for step in range(first, first + steps):
                    if step == STEPS and resume is None:
                        saved = self._save(model, optimizer, parameters, device)
                        middle = copies(model.state_dict())
                        with suppress(Exception):  # some models cannot be copied
                            model_at_save = copy_model(model)
                    engine.step([self._batch(step)])
                    former, numbers = numbers, _numbers(optimizer)
                    changing |= dict.fromkeys(key for key in numbers if numbers[key] != former.get(key))
                    self._check_layout(layout_before, layout(model, [optimizer]))
                values = copies(model.state_dict())
                with evaluation_weights([optimizer], parameters):
                    values |= {
                        f"{name} in eval mode": p.detach().clone() for name, p in model.named_parameters()
                    }
            except (OptlabError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a user's class may raise anything
                raise _StepError(error) from error
            changed = any(not torch.equal(p, was) for p, was in zip(parameters, before, strict=True))
        names = dict.fromkeys(name for _, name in changing)
        return _Result(values, middle, saved, model_at_save, changed, tuple(names))

    def _check_layout(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        change = layout_change(before, now)
        if change is not None:
            name = self.spec.name.rpartition(":")[2]
            raise ConfigError(
                f"{name} {change} in a step{cited_definition(self.spec.name)}",
                key="name",
                expected="an optimizer that changes the values of parameters in place",
            )

    def _save(
        self, model: nn.Module, optimizer: Optimizer, parameters: Sequence[Tensor], device: torch.device
    ) -> bytes:
        state = {
            "model": model.state_dict(),
            "optimizer": snapshot.save(optimizer, parameters),
            "random": saved_random_state(random_state(device)),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def _batch(self, step: int) -> MicroBatch:
        inputs, targets = self.batches[step % len(self.batches)]
        return inputs[:SAMPLES], targets[:SAMPLES]

    def _check_resumes(self, mode: StepMode, whole: _Result, start: Mapping[str, Any]) -> None:
        name = self.spec.name.rpartition(":")[2]
        try:
            repeated = self._train(mode, start, steps=STEPS)
        except _StepError as error:
            raise failure(self.spec, error.cause) from error
        require_same(whole.middle, repeated.values, self.spec.name)
        try:
            again = self._train(mode, start, resume=whole, steps=STEPS)
        except _StepError as error:
            problem = failure(self.spec, error.cause).problems[0]
            raise ConfigError(
                f"the state of {name} cannot be restored, so a run cannot be resumed: {problem.what}",
                key="name",
            ) from error
        different = first_difference(whole.values, again.values)
        if different is None:
            return
        raise ConfigError(
            f"{name} does not resume: {STEPS} steps, a checkpoint and {STEPS} more steps give other values "
            f"of {different} than {2 * STEPS} steps",
            key="name",
            fix="keep its state in self.state, parameter groups or attributes, as tensors and plain values",
        )


@dataclass(frozen=True, slots=True)
class _Result:
    values: Values
    middle: Values  # when the state was saved
    saved: bytes
    model: nn.Module | None  # a copy from then, with its Python attributes
    changed: bool
    changing: tuple[str, ...]


class _StepError(Exception):
    """An exception of the optimizer, the model or the loss in a step of the rehearsal."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(type(cause)))
        self.cause = cause


def _numbers(optimizer: Optimizer) -> dict[tuple[int, str], float]:
    groups = enumerate(rate_holder(optimizer).param_groups)
    return {(index, name): value for index, group in groups for name, value in group_numbers(group).items()}
