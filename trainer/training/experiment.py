"""The experiment that the training loop runs: its objects, its state, and what is due at each step.

`building.build_experiment` creates it. It writes no files and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

from torch import nn

from trainer.data.batches import Batch, Batches
from trainer.data.dataset import Splits
from trainer.errors import ConfigError
from trainer.metrics import Metric
from trainer.records import EvalRecord
from trainer.training.check_finite import find_nonfinite
from trainer.training.compilation import Compilation
from trainer.training.engines.eager import EagerEngine, StepOutput, StepTimes
from trainer.training.evaluation import evaluate_split
from trainer.training.forward import ForwardPass
from trainer.training.record_maker import RecordMaker
from trainer.training.state import Progress, TrainingState
from trainer.training.timetable import Due, Plan
from trainer.training.values import layout, layout_change

_NOTHING = Due()


@dataclass(slots=True, repr=False)
class Experiment:
    """The objects that the training loop uses.

    Args:
        splits: the data.
        batches: the training batches.
        evaluate_on: returns the evaluation batches of a split (`val`, `train`, `test`).
        forward: computes the loss and the prediction of a batch.
        autocast: the context of every forward pass.
        metrics: what is measured beside the loss.
        engine: computes a step.
        compilation: compiles the steps, if requested.
        plan: the length of the run and its intervals.
        check_finite: whether to check for NaN and infinite values after every step.
        eval_train: whether to evaluate the training split as well.
        state: the model, the optimizers, the progress, and everything else that a checkpoint saves.
        records: makes the records.
        stop_requested: set by the caller (a signal handler) to end the run after the current step.
    """

    splits: Splits
    batches: Batches
    evaluate_on: Callable[[str], Iterator[Batch]]
    forward: ForwardPass
    autocast: AbstractContextManager[object]
    metrics: Sequence[Metric]
    engine: EagerEngine
    compilation: Compilation
    plan: Plan
    check_finite: bool
    eval_train: bool
    state: TrainingState
    records: RecordMaker
    stop_requested: bool = False
    _next_due: int = 0  # no action is due before this step
    _layout: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the layout of the parameters, which no component may change."""
        self._layout = layout(self.model, self.state.optimizers.values())

    def __repr__(self) -> str:
        """Return a summary: data, model, optimizers, length and progress."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        splits = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        sizes = [f"{name} {len(one.inputs):,}" for name, one in splits.items() if one is not None]
        length = [] if self.plan.steps is None else [f"{self.plan.steps:,} steps"]
        length += [] if self.plan.seconds is None else [f"{self.plan.seconds:g} s"]
        optimizers = [
            f"{label}: {type(optimizer).__name__}" for label, optimizer in self.state.optimizers.items()
        ]
        lines = {
            "data": ", ".join(sizes),
            "model": f"{type(self.model).__name__}, {parameters:,} parameters",
            "optimizers": ", ".join(optimizers),
            "metrics": ", ".join(metric.name for metric in self.metrics) or "none",
            "length": " or ".join(length),
            "progress": f"step {self.progress.step:,}",
        }
        return "\n".join(["Experiment", *(f"  {name:10} {text}" for name, text in lines.items())])

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.state.model

    @property
    def progress(self) -> Progress:
        """The progress of the run."""
        return self.state.progress

    # ---- steps

    def compile(self) -> str | None:
        """Compile the step if this is requested and not done yet; see `Compilation.compile`."""
        return self.compilation.compile(
            self._all_steps(), also_restore={"augmentations": self.batches.augmentations}
        )

    def step_times(self) -> StepTimes | str:
        """Return the seconds per step of both engines, or why the steps cannot be compiled."""
        return self.engine.step_times(
            self._all_steps(), also_restore={"augmentations": self.batches.augmentations}
        )

    def _all_steps(self) -> Iterator[Sequence[Batch]]:
        return chain.from_iterable(self._steps_of(epoch, 0) for epoch in count())

    def finished(self) -> bool:
        """Return whether the run has reached its length or was asked to stop."""
        return self.stop_requested or self.state.ended

    def _at_end(self) -> bool:
        plan, state = self.plan, self.state
        if plan.steps is not None and state.progress.step >= plan.steps:
            return True
        return plan.seconds is not None and state.clock.read() >= plan.seconds

    def remaining_batches(self) -> Iterator[Sequence[Batch]]:
        """Iterate over the remaining steps of the current epoch; each item holds the batches of one step."""
        return self._steps_of(self.progress.epoch, self.progress.batch)

    def _steps_of(self, epoch: int, start: int) -> Iterator[Sequence[Batch]]:
        batches = self.batches.epoch(epoch, start=start)
        if self.plan.accumulate == 1:
            return zip(batches)  # 1-tuples; at batch size 1, each Python call of the loop is measurable
        return iter(lambda: tuple(islice(batches, self.plan.accumulate)), ())

    def advance(self, batches: Sequence[Batch], output: StepOutput) -> Due:
        """Count a completed update; return the actions that are due after it."""
        state = self.state
        now = state.progress
        state.clock.tick()
        if batches[0][1].shape[0] == self.batches.batch_size:  # the last batch of an epoch may be smaller
            self.compilation.last_batches = batches
        now.step += 1
        now.batch += len(batches)
        now.samples += state.mean.add(output.loss, [targets for _, targets in batches], output.outputs)
        now.grad_evals += output.grad_evals
        if now.batch >= self.batches.batches_per_epoch:
            now.epoch, now.batch = now.epoch + 1, 0
        if self.check_finite:
            state.nonfinite = find_nonfinite(
                output.loss, batches, state.model, gradients=state.scaler is None
            )
        state.ended = self._at_end()  # once per step, so that all later calls agree for this step
        return self._due() if now.step >= self._next_due or state.nonfinite is not None else _NOTHING

    def _due(self) -> Due:
        """Return the actions that are due now, and compute the next step at which one is due."""
        plan, step = self.plan, self.progress.step
        log, evaluation = self._logs(step), self.evaluation_due()
        if plan.checkpoint_seconds is not None:  # the clock is checked at every step
            return Due(log, evaluation, self._saves_by(plan.checkpoint_seconds))
        saves = plan.checkpoint or plan.evaluate
        self._next_due = min(interval.next(step) for interval in (plan.log, plan.evaluate, saves))
        return Due(log, evaluation, saves.due(step))

    def _saves_by(self, period: float) -> bool:
        now = self.state.clock.read()
        if now - self.state.saved_seconds < period:
            return False
        self.state.saved_seconds = now
        return True

    def step_schedules(self) -> None:
        """Step each schedule whose interval (step or epoch) the last update completed."""
        for schedule in self.state.schedules:
            if schedule.interval == "step" or self.progress.batch == 0:
                schedule.step()

    def measures_next(self) -> bool:
        """Return whether the next step measures the norms of the gradients."""
        return self.records.gradients and self._logs(self.progress.step + 1)

    def _logs(self, step: int) -> bool:
        return step == 1 or self.plan.log.due(step) or self.state.nonfinite is not None

    # ---- evaluations

    def evaluation_due(self) -> bool:
        """Return whether an evaluation is scheduled after the last update."""
        return self.plan.evaluate.due(self.progress.step)

    def last_evaluation_due(self) -> bool:
        """Return whether the run has ended and the model was not evaluated at this step."""
        return self.state.ended and self.state.evaluated_at != self.progress.step

    def evaluate(self) -> EvalRecord:
        """Evaluate the splits, pass the metric to plateau schedules, and reset the running mean.

        Before the evaluation, compiled steps are checked against eager steps if the number of steps has
        passed a power of 2 since the last evaluation, and at the end: a check takes as long as tens of
        compiled steps. Python state is checked every time, and again afterwards, because evaluating a model
        may change it too.

        Raises:
            ConfigError: a component replaced, added or removed parameters.
        """
        state = self.state
        self._check_layout()
        passed = state.progress.step.bit_length() > (state.evaluated_at or 0).bit_length()
        self.compilation.check(self.compilation.last_batches if passed or state.ended else None)
        values = state.mean.values()
        state.mean.reset()
        if self.eval_train:
            values |= {f"train_eval_{name}": value for name, value in self.measure("train").items()}
        if self.splits.val is not None:
            values |= {f"val_{name}": value for name, value in self.measure("val").items()}
        for schedule in state.schedules:
            if schedule.monitor is not None and state.progress.step > 0:
                metric = values[schedule.monitor]
                assert metric is not None
                schedule.observe(metric)
        state.evaluated_at = state.progress.step
        self._check_layout()
        self.compilation.check()
        return self.records.make(EvalRecord, values)

    def _check_layout(self) -> None:
        change = layout_change(self._layout, layout(self.model, self.state.optimizers.values()))
        if change is not None:
            raise ConfigError(
                f"step {self.progress.step}: the model or an optimizer {change}",
                expected="the parameters of the start of the run, changed in place",
            )

    def measure(self, split: str) -> dict[str, float]:
        """Return the loss and the metrics of the model on a whole split, in eval mode."""
        batches = self.evaluate_on(split)
        with self.state.evaluation():
            return evaluate_split(
                self.model, self.forward, batches, autocast=self.autocast, metrics=self.metrics
            )

    def eval_columns(self) -> list[str]:
        """Return the column names of an evaluation record."""
        kinds = ["train"]
        kinds += ["train_eval"] if self.eval_train else []
        kinds += ["val"] if self.splits.val is not None else []
        names = ["loss", *(metric.name for metric in self.metrics)]
        return [f"{kind}_{name}" for kind in kinds for name in names]

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which another process can resume: only tensors and plain values."""
        return self.state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict` of an experiment with the same config."""
        self.compilation.keep_initial_state()
        self.state.load_state_dict(state)
        # An extended run continues; a run that its time budget ends still needs its last evaluation.
        self.state.ended = self.state.ended and self._at_end()
        self._next_due = 0
