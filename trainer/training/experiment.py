"""An experiment and its state: batches, model, engine, optimizers, schedules, progress and clock.

`building.build_experiment` makes it. It writes no files and prints nothing.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.config.identity import Code
from trainer.config.models import Config
from trainer.data.batches import Batch, Batches
from trainer.data.dataset import Splits
from trainer.device import Clock
from trainer.losses import Loss
from trainer.optimizers.build import describe_implementation
from trainer.optimizers.groups import Group
from trainer.records import EvalRecord, Record, StepRecord
from trainer.schedules import Schedule, learning_rate
from trainer.seeding import random_state, set_random_state
from trainer.training.anomaly import find_anomaly
from trainer.training.engines.eager import EagerEngine, StepOutput
from trainer.training.evaluation import RunningMean, evaluate_split
from trainer.training.timetable import Interval


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of plain JSON types, as every default that a config can state."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


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


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run and the intervals of its actions, in steps.

    Args:
        steps: length; None if only `seconds` ends the run.
        seconds: budget of training time; None = no budget.
        accumulate: batches per step.
        log, evaluate: intervals of the rows in steps.csv and epochs.csv.
        checkpoint: interval of checkpoints; None = at every evaluation, unless checkpoint_seconds is set.
        checkpoint_seconds: training seconds between checkpoints; None = use `checkpoint`.
    """

    steps: int | None
    seconds: float | None
    accumulate: int
    log: Interval
    evaluate: Interval
    checkpoint: Interval | None
    checkpoint_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """The actions that are due after a step.

    Args:
        log: log the step.
        evaluation: evaluate the model.
        checkpoint: save the state.
    """

    log: bool = False
    evaluation: bool = False
    checkpoint: bool = False


_NOTHING = Due()


@dataclass(slots=True)
class Experiment:
    """The objects that the training loop uses, and the state of a run.

    Args:
        config: the resolved config, saved with the run.
        data_digest: SHA-256 of the content of the data set.
        code: the users' files and the packages that the config's components come from.
        classes: whether the targets are classes; then accuracy is measured.
        num_classes: number of outputs of the model.
        evaluate_on: returns the evaluation batches of a split (`val`, `train`, `test`).
        groups: parameter groups by optimizer label.
        anomaly: the NaN or infinite values of the last step, if train.detect_anomaly is set; ends the run.
        stop_requested: set by the caller (a signal handler) to end the run after the current step.
        compile_seconds: time that compiling took; None = not attempted.
        messages: messages that were not yet read; the reader clears the list.
    """

    config: Config
    device: torch.device
    splits: Splits
    data_digest: str
    code: Code
    batches: Batches
    evaluate_on: Callable[[str], Iterator[Batch]]
    model: nn.Module
    loss: Loss
    classes: bool
    num_classes: int
    optimizers: Mapping[str, Optimizer]
    groups: Mapping[str, Sequence[Group]]
    schedules: Sequence[Schedule]
    engine: EagerEngine
    scaler: GradScaler | None
    autocast: AbstractContextManager[object]
    plan: Plan
    clock: Clock
    notes: Sequence[str] = ()
    progress: Progress = field(default_factory=Progress)
    stop_requested: bool = False
    compile_seconds: float | None = None
    anomaly: str | None = None
    messages: list[str] = field(default_factory=list)
    _mean: RunningMean = field(init=False)
    _ended: bool = False
    _evaluated_at: int | None = None
    _checkpoint_seconds: float = 0.0
    _next_due: int = 0  # no action is due before this step
    _initial_state: dict[str, Any] | None = None  # initial state of a resumed compiled run
    _eager_from: int | None = None  # the step at which a compiled run changed to eager steps
    _agreed_at: int = 0  # the step of the last successful check of compiled steps
    _checks: int = 0
    _last_batches: Sequence[Batch] | None = None  # batches of the last step with full batches

    def __post_init__(self) -> None:
        self._mean = RunningMean(classes=self.classes)

    # ---- used by the loop

    def compile(self) -> str | None:
        """Compile the step, once, before the clock starts. Does nothing for an eager engine.

        The state of the run does not change.

        Returns:
            The result, for the log; None if there was nothing to do.
        """
        if self.config.train.engine != "compiled" or self.compile_seconds is not None:
            return None
        if self._eager_from is not None:
            self.compile_seconds = 0.0
            return f"the steps run eager, as they did from step {self._eager_from} on"
        began = time.perf_counter()
        now = None if self._initial_state is None else copy.deepcopy(self.state_dict())
        try:
            if (
                self._initial_state is not None
            ):  # so that the check gives the same result as when the run started
                self._load(self._initial_state)
            steps = chain.from_iterable(self._steps_of(epoch, 0) for epoch in count())
            reason = self.engine.compile(steps, beside={"augmentations": self.batches.augmentations})
        finally:
            if now is not None:
                self._load(now)
        self._initial_state = None
        self.compile_seconds = round(time.perf_counter() - began, 3)
        if reason is not None:
            return f"the steps run eager: {reason}"
        self._agreed_at = self.progress.step
        return (
            f"compiled the step in {self.compile_seconds:.1f} s; compared {self.engine.checked} "
            "(rounding differs, so a long run can give different results)"
        )

    def _check_compiled(self, batches: Sequence[Batch] | None = None) -> None:
        """Check that compiled steps still agree with eager steps; if not, continue with eager steps.

        Updates since the last check are kept, and the message says so: undoing them would need a checkpoint,
        and the difference may be only the rounding of an unusual step.
        """
        if not self.engine.ready:
            return
        compared = self.engine.compared_steps
        reason, step = self.engine.check(batches), self.progress.step
        if reason is not None:
            self._eager_from = step
            self.messages.append(
                f"the steps run eager from step {step} on: {reason}. Compiled steps last agreed at "
                f"step {self._agreed_at}; to verify the later steps, train again with train.engine=eager"
            )
        elif self.engine.compared_steps > compared:
            self._agreed_at = step
            self._checks += 1

    def is_compiled(self) -> bool:
        """Return whether the steps run compiled."""
        return self.engine.ready

    def engine_used(self) -> str:
        """Return the engine of the steps: `eager`, `compiled`, or `compiled until step N`."""
        if self._eager_from is not None:
            return f"compiled until step {self._eager_from}"
        return "compiled" if self.is_compiled() else "eager"

    def describe_checks(self) -> str | None:
        """Return a summary of the checks of compiled steps during the run; None if there were none."""
        if not self._checks or not self.engine.ready:
            return None
        evaluations = f"{self._checks} evaluation{'' if self._checks == 1 else 's'}"
        return f"checked the compiled steps at {evaluations}; in all compared {self.engine.checked}"

    def finished(self) -> bool:
        """Return whether the run has reached its length or was asked to stop."""
        return self.stop_requested or self._ended

    def is_complete(self) -> bool:
        """Return whether the run has reached its length."""
        return self._ended

    def _at_end(self) -> bool:
        if self.plan.steps is not None and self.progress.step >= self.plan.steps:
            return True
        return self.plan.seconds is not None and self.clock.read() >= self.plan.seconds

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
        now = self.progress
        self.clock.tick()
        if batches[0][1].shape[0] == self.batches.batch_size:  # the last batch of an epoch may be smaller
            self._last_batches = batches
        now.step += 1
        now.batch += len(batches)
        now.samples += self._mean.add(output.loss, [targets for _, targets in batches], output.outputs)
        now.grad_evals += output.grad_evals
        if now.batch >= self.batches.batches_per_epoch:
            now.epoch, now.batch = now.epoch + 1, 0
        if self.config.train.detect_anomaly:
            self.anomaly = find_anomaly(output.loss, batches, self.model, gradients=self.scaler is None)
        self._ended = self._at_end()  # once per step, so that all later calls agree for this step
        return self._due() if now.step >= self._next_due or self.anomaly is not None else _NOTHING

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
        if self.clock.read() - self._checkpoint_seconds < period:
            return False
        self._checkpoint_seconds = self.clock.read()
        return True

    def step_schedules(self) -> None:
        """Step each schedule whose interval (step or epoch) the last update completed."""
        for schedule in self.schedules:
            if schedule.interval == "step" or self.progress.batch == 0:
                schedule.step()

    def measures_next(self) -> bool:
        """Return whether the next step measures the norms of the gradients."""
        return self.config.log.gradients and self._logs(self.progress.step + 1)

    def _logs(self, step: int) -> bool:
        return step == 1 or self.plan.log.due(step) or self.anomaly is not None

    def evaluation_due(self) -> bool:
        """Return whether an evaluation is scheduled after the last update."""
        return self.plan.evaluate.due(self.progress.step)

    def last_evaluation_due(self) -> bool:
        """Return whether the run has ended and the model was not evaluated at this step."""
        return self._ended and self._evaluated_at != self.progress.step

    def is_evaluated_off_rhythm(self) -> bool:
        """Return whether this step was evaluated only because a run ended at it."""
        step = self.progress.step
        return 0 < step == self._evaluated_at and not self.evaluation_due()

    # ---- records

    def make_record(self, kind: type[Record], values: Mapping[str, float | None] | None = None) -> Any:
        """Return a record of the given kind at the current step."""
        now = self.progress
        epoch = now.epoch + now.batch / self.batches.batches_per_epoch
        return kind(now.step, epoch, now.samples, now.grad_evals, self.clock.read(), values or {})

    def log(self, output: StepOutput) -> StepRecord:
        """Return the record of the last update; call before the schedules. Reads the loss from the device."""
        values: dict[str, float | None] = {"loss": output.loss.item()}
        values |= {name: learning_rate(group) for name, group in self._lr_columns()}
        if output.penalty is not None:
            values["penalty"] = output.penalty.item()
        if output.grad_norms is not None:
            values["grad_norm"] = output.grad_norms.norm().item()
            values |= dict(zip(self._norm_columns(), output.grad_norms.tolist(), strict=True))
        record: StepRecord = self.make_record(StepRecord, values)
        return record

    def evaluate(self) -> EvalRecord:
        """Evaluate the splits, pass the metric to plateau schedules, and reset the running mean.

        Compiled steps are checked against eager steps before the evaluation. Python state is checked again
        afterwards, because evaluating a model may change it too.
        """
        self._check_compiled(self._last_batches)
        values = self._mean.values()
        self._mean.reset()
        if self.config.train.eval_train:
            values |= {f"train_eval_{name}": value for name, value in self.measure("train").items()}
        if self.splits.val is not None:
            values |= {f"val_{name}": value for name, value in self.measure("val").items()}
        for schedule in self.schedules:
            if schedule.monitor is not None and self.progress.step > 0:
                metric = values[schedule.monitor]
                assert metric is not None
                schedule.observe(metric)
        self._evaluated_at = self.progress.step
        self._check_compiled()
        record: EvalRecord = self.make_record(EvalRecord, values)
        return record

    def measure(self, split: str) -> dict[str, float]:
        """Return the loss and, for classes, the accuracy of the model on a whole split, in eval mode."""
        return evaluate_split(
            self.model, self.loss, self.evaluate_on(split), autocast=self.autocast, classes=self.classes
        )

    def select_metric(self) -> str:
        """Return the metric that selects the best checkpoint."""
        return self.config.train.select or ("val_accuracy" if self.classes else "val_loss")

    def step_columns(self) -> list[str]:
        """Return the column names of a step record."""
        columns = ["loss", *(name for name, _ in self._lr_columns())]
        if self.engine.penalty is not None:
            columns.append("penalty")
        if self.config.log.gradients:
            columns += ["grad_norm", *self._norm_columns()]
        return columns

    def eval_columns(self) -> list[str]:
        """Return the column names of an evaluation record."""
        kinds = ["train"]
        kinds += ["train_eval"] if self.config.train.eval_train else []
        kinds += ["val"] if self.splits.val is not None else []
        metrics = ["loss", "accuracy"] if self.classes else ["loss"]
        return [f"{kind}_{metric}" for kind in kinds for metric in metrics]

    def _lr_columns(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield `lr` or `lr.<label>` with its parameter group; {} if the optimizer changed its groups."""
        several = len(self.optimizers) > 1
        for label, optimizer in self.optimizers.items():
            described, live = self.groups[label], optimizer.param_groups
            matched = live if len(live) == len(described) else [{}] * len(described)
            for group, values in zip(described, matched, strict=True):
                parts = [label] * several + [group.label] * bool(group.label)
                yield ".".join(["lr", *parts]), values

    def _norm_columns(self) -> list[str]:
        return [f"grad_norm.{name}" for name, p in self.model.named_parameters() if p.requires_grad]

    def describe_implementations(self) -> list[str]:
        """Return a line per optimizer with the torch implementation that it uses."""
        lines = map(describe_implementation, self.optimizers.values())
        return list(dict.fromkeys(line for line in lines if line is not None))

    def optimizer_defaults(self) -> dict[str, dict[str, Any]]:
        """Return each optimizer's default options by config name, so that titles can omit default values."""
        found = {}
        for config, optimizer in zip(self.config.optimizer, self.optimizers.values(), strict=True):
            parameters = inspect.signature(type(optimizer)).parameters.values()
            found[config.name] = {p.name: p.default for p in parameters if _is_plain(p.default)}
        return found

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which another process can resume: only tensors and plain values."""
        return {
            "progress": asdict(self.progress),
            "train_seconds": self.clock.read(),
            "evaluated_at": self._evaluated_at,
            "ended": self._ended,
            "anomaly": self.anomaly,
            "eager_from": self._eager_from,
            "model": self.model.state_dict(),
            "optimizers": {label: optimizer.state_dict() for label, optimizer in self.optimizers.items()},
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "mean": self._mean.state_dict(),
            "gradients": {} if self.engine.zero_grad else self._gradients(),
            "random": random_state(self.device),
        }

    def _gradients(self) -> dict[str, Tensor]:
        """Return the gradients, which accumulate over all steps."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state_dict` of an experiment with the same config."""
        compiles = self.config.train.engine == "compiled" and self.compile_seconds is None
        if compiles and self._initial_state is None:
            self._initial_state = copy.deepcopy(self.state_dict())
        self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self.clock.elapsed = self._checkpoint_seconds = state["train_seconds"]
        # An extended run continues; a run that its time budget ends still needs its last evaluation.
        self._ended = state["ended"] and self._at_end()
        self._evaluated_at = state["evaluated_at"]
        self._next_due = 0
        self.anomaly = state["anomaly"]
        self._eager_from = state.get("eager_from")  # absent from checkpoints of earlier releases
        self.model.load_state_dict(state["model"])
        for label, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][label])
        for schedule, schedule_state in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(schedule_state)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self._mean.load_state_dict(state["mean"])
        for parameter in self.model.parameters():
            parameter.grad = None
        for name, gradient in state["gradients"].items():
            self.model.get_parameter(name).grad = gradient.to(self.device, copy=True)
        set_random_state(state["random"], self.device)
