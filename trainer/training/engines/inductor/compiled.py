"""The compiled training step: the arithmetic of the eager engine, traced once and run as one program.

`compile` traces forward, loss and gradients (and the update, if `updates` supports the optimizer) with
make_fx over fake tensors, and compiles the graph with Inductor (`tracing`). There are no guards and no Python
between operations, so models are rejected if their Python code depends on more than parameters, buffers and
batches, or changes more than these (`python_state`). `compile` then checks a few steps against the eager
engine and restores the state. Steps that the program does not support run eager: batches of another shape,
and steps that measure gradient norms. `check` repeats the check later in the run.

The program is kept on disk with the result of the check, for all runs with the same step (`kept_programs`).
"""

from __future__ import annotations

import operator
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer import kernel_cache
from trainer.training.engines.compiler import compiler
from trainer.training.engines.eager import EagerEngine, MicroBatch, StepOutput, StepTimes
from trainer.training.engines.inductor import kept_programs
from trainer.training.engines.inductor.agreement import EXACT, ROUGH, Agreement, Evidence, deviation
from trainer.training.engines.inductor.kept_programs import KeptProgram, Program, Verdict
from trainer.training.engines.inductor.program_key import program_key
from trainer.training.engines.inductor.python_state import PythonState, is_own
from trainer.training.engines.inductor.snapshot import Snapshot
from trainer.training.engines.inductor.step_hooks import has_hooks, has_own_step
from trainer.training.engines.inductor.tracing import StepFunction, compile_step
from trainer.training.engines.inductor.updates import Update, update_of

_MIN_LR = 1e-30
"""Steps with a smaller learning rate run eager: torch's capturable Adam divides by it, which may give NaN."""

_MAX_STEPS = 32
"""Maximum number of steps to check; the check stops once each value agreed in at least one of them."""

_PERTURBATION = 2.0**-18
"""Relative perturbation of inputs, as large as rounding errors: outputs of residual networks vary by 5e-6."""

_MIN_LOSS = 1e-3
"""Smallest loss at which later steps are compared: below it, gradients may be only rounding errors."""

_LATER_BOUND = 0.5
"""Largest relative difference of a gradient in a later step, if rounding changes the eager one as much."""

_TIMED_STEPS, _TIMED_SECONDS = 20, 0.2
"""Largest number of steps and largest time for measuring an engine."""

_numpy_random: Any = numpy.random  # its global generator


class CompiledEngine(EagerEngine):
    """An eager engine whose steps run as one compiled program once `compile` has succeeded.

    Attributes:
        whole_step: whether the program includes the optimizers' updates (`update_of` supports them all);
            otherwise it computes the gradients, and the optimizers step eagerly.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take the same arguments as `EagerEngine`."""
        super().__init__(*args, **options)
        self._program: Program | None = None
        self._layout: object = None
        self._named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._constants = {
            **{name: p for name, p in self.model.named_parameters() if not p.requires_grad},
            **dict(self.model.named_buffers()),
        }
        clips = self.clip_grad_norm is not None or self.clip_grad_value is not None
        plain = self.zero_grad and self.penalty is None and not clips
        updates = [update_of(optimizer) for optimizer in self.optimizers]
        self._updates = [update for update in updates if update is not None]
        self.whole_step = plain and len(self._updates) == len(updates)
        self._kept: list[Tensor] = []
        self._known: Sequence[object] | None = None  # the state dictionaries that `_kept` was read from
        self._known_groups: list[tuple[Update, dict[str, Any]]] = []
        self._options: list[tuple[Any, ...]] | None = None  # of these groups, when `_numbers` was made
        self._numbers: list[Tensor] | None = None  # None = the program does not support the options
        self._traced_structure: list[tuple[bool, ...]] = []
        self._values: list[Tensor] = []
        self._watched = PythonState()
        # Other objects that a step may change; restored after a check.
        self._other_state: dict[str, object] = {}
        self._draws = False  # whether a forward or backward pass drew from Python's or numpy's generator
        self._compared, self._deviation = 0, 0.0
        self._checking = False
        self._was_kept = False

    @property
    def was_kept(self) -> bool:
        """Whether the program was compiled and checked by an earlier run."""
        return self._was_kept

    @property
    def ready(self) -> bool:
        """Whether the steps run compiled: `compile` has succeeded."""
        return self._program is not None

    @property
    def compared_steps(self) -> int:
        """Number of compiled steps that were compared with eager steps."""
        return self._compared

    @property
    def checked(self) -> str:
        """Description of the comparison with eager steps, with the largest deviation."""
        parts = ["loss", "outputs", *(["buffers"] if self._constants else []), "gradients"]
        if self.whole_step:
            parts[-1:] = ["optimizer state", "updates"]
        steps = f"{self._compared} step{'' if self._compared == 1 else 's'}"
        message = f"{', '.join(parts[:-1])} and {parts[-1]} of {steps} against eager"
        return f"{message}: largest relative deviation {self._deviation:.1g}"

    def compile(
        self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
    ) -> str | None:
        """Trace and compile the step, and check it against eager steps; the state is restored afterwards.

        Args:
            steps: the micro-batches of each step. Those of the first step must have the usual shape. The
                iterable may be infinite; only a few steps are taken.
            also_restore: name -> object that iterating over `steps` may change; it is restored as well.

        Returns:
            The reason why the steps will run eager; None if they will run compiled.
        """
        if unsuitable := self._why_not_compilable(also_restore or {}):
            return unsuitable
        reason: str | None = None
        try:
            with self._restored():
                steps = iter(steps)
                first = self._first_of(steps)
                key = self._key(first)
                with kept_programs.exclusive(key):
                    kept = kept_programs.load(key) if key else None
                    self._was_kept = kept is not None
                    reason = kept.verdict.reason if kept else self._changes_in_a_step(first)
                    if kept is None and reason is None:
                        kept = self._make(key, first, steps)
        except Exception as error:  # the model cannot be traced
            return _cannot(error)
        if kept is None:
            return reason
        self._compared, self._deviation = kept.verdict.compared, kept.verdict.deviation
        if kept.verdict.reason is None:
            self._use(kept.program, *first[0])
        return kept.verdict.reason

    def step_times(
        self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
    ) -> StepTimes | str:
        """Return the times that were measured when the step was compiled, or else measure eager steps."""
        if unsuitable := self._why_not_compilable(also_restore or {}):
            return unsuitable
        try:
            with self._restored():
                first = self._first_of(iter(steps))
                key = self._key(first)
                verdict = kept_programs.read_verdict(key) if key else None
                if verdict is None:
                    reason = self._changes_in_a_step(first)
                    return reason or StepTimes(self._time_steps(first), None)
        except Exception as error:  # of users' code
            return _cannot(error)
        return verdict.reason or StepTimes(verdict.seconds["eager"], verdict.seconds["compiled"])

    def _first_of(self, steps: Iterator[Sequence[MicroBatch]]) -> Sequence[MicroBatch]:
        first = next(steps)
        self.whole_step = self.whole_step and len(first) == 1
        return first

    def _why_not_compilable(self, also_restore: Mapping[str, object]) -> str | None:
        """Return why the steps cannot be compiled, or record the state of Python for later checks."""
        if self.scaler is not None or self.parameters[0].device.type != "cpu":
            return "compiled steps require a CPU and float32 or bfloat16"
        if self.step_mode in ("create_graph", "loss_closure"):
            return "the optimizer differentiates losses or gradients, which compiled steps do not support"
        if compiler() is None:
            return "there is no C++ compiler (g++, clang++ or the one in the environment variable CXX)"
        if (problem := kernel_cache.unwritable()) is not None:
            return problem
        own = {type(one).__name__: one for one in self.optimizers if is_own(one)}
        self._other_state = {**own, **also_restore}
        if reason := self._why_code_not_compilable():
            return reason
        self.whole_step = (
            self.whole_step and not any(map(has_own_step, self.optimizers)) and not self._have_hooks()
        )
        return None

    def _key(self, batches: Sequence[MicroBatch]) -> str | None:
        """Return the key of the program; None if it depends on something that has no description."""
        state = self._watched.fingerprint()
        if state is None:
            return None
        values = (self._named | self._constants).items()
        positions = {id(p): number for number, p in enumerate(self._named.values())}
        autocast = self.autocast
        updates = [
            (update.structure(group), update.state(group), [positions.get(id(p)) for p in group["params"]])
            for update, _, group in (self._groups() if self.whole_step else ())
        ]
        return program_key(
            state,
            [(name, v.shape, v.stride(), v.dtype, v.requires_grad) for name, v in values],
            _layout(*batches[0]),
            (self.forward.output, self.forward.context),
            (type(autocast).__qualname__, getattr(autocast, "fast_dtype", None)),
            [type(optimizer).__qualname__ for optimizer in self.optimizers if self.whole_step],
            updates,
        )

    def _changes_in_a_step(self, batches: Sequence[MicroBatch]) -> str | None:
        """Run one step, which initializes the states of the optimizers; return what it changes in Python."""
        self._raise_tiny_lrs()
        super().step(batches)
        return self._python_changed()

    def _make(
        self, key: str | None, first: Sequence[MicroBatch], others: Iterable[Sequence[MicroBatch]]
    ) -> KeptProgram:
        """Compile the program and check it against eager steps; keep both."""
        began = time.perf_counter()
        raw, constants = self._traced(*first[0])
        program: Program = (lambda values: raw([*constants, *values])) if constants else raw
        seconds = {"compile": time.perf_counter() - began}
        reason = self._disagreement(program, first, others)
        if reason is None:
            seconds["eager"] = self._time_steps(first)
            self._use(program, *first[0])
            seconds["compiled"] = self._time_steps(first)
            self._program = None
        verdict = Verdict(reason, self._compared, self._deviation, seconds)
        if key is not None:
            kept_programs.save(key, None if reason else raw, constants, verdict)
        return KeptProgram(program, verdict)

    def _time_steps(self, batches: Sequence[MicroBatch]) -> float:
        """Return the median time of a step, in seconds."""
        seconds: list[float] = []
        self._checking = False  # which takes time
        began = time.perf_counter()
        while len(seconds) < _TIMED_STEPS and time.perf_counter() - began < _TIMED_SECONDS:
            start = time.perf_counter()
            self.step(batches)
            seconds.append(time.perf_counter() - start)
        self._checking = True
        return statistics.median(seconds)

    def check(self, batches: Sequence[MicroBatch] | None = None) -> str | None:
        """Check the compiled step again from the current state; the state is restored afterwards.

        Args:
            batches: the micro-batches of a step; None = check only whether Python state has changed.

        Returns:
            The reason why the steps will run eager from now on; None if nothing changes.
        """
        program = self._program
        if program is None:
            return None
        reason = self._python_changed()
        if reason is None and batches is not None and self._fits(*batches[0]) and self._is_finite():
            layout = self._layout
            with self._restored():
                self._raise_tiny_lrs()
                agreement = Agreement(bound=_LATER_BOUND, single=True)
                reason = self._compare(agreement, program, batches, least_loss=_MIN_LOSS)
                reason = reason or self._python_changed()
            self._program, self._layout = program, layout
        if reason is not None:
            self._program = None
        return reason

    def _why_code_not_compilable(self) -> str | None:
        """Return why the model's Python code cannot be compiled, or record its state for later checks."""
        values = [*self._named.values(), *self._constants.values()]
        roots = {"model": self.model, "loss": self.forward.loss, "penalty": self.penalty}
        self._watched = PythonState.of(roots, known=values)
        if self._watched.outside:
            return f"the model's code depends on {self._watched.outside}"
        if self._watched.opaque:
            return f"the model's code can reach {self._watched.opaque}, whose changes cannot be detected"
        if opaque := PythonState.of(self._other_state, known=values).opaque:
            return f"a check cannot restore {opaque}"
        return None

    def _python_changed(self) -> str | None:
        if self._draws:
            return "the model draws from Python's or numpy's random generator"
        change = self._watched.change()
        return (
            None if change is None else f"the model's code changes {change}, which a compiled step would not"
        )

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters)

    def _have_hooks(self) -> bool:
        return any(map(has_hooks, self.optimizers))

    def _raise_tiny_lrs(self) -> None:
        """Raise tiny learning rates for the check: their updates would be lost in rounding, or run eager."""
        for _, _, group in self._groups() if self.whole_step else ():
            group["lr"] = max(float(group["lr"]), 1e-3)

    def _use(self, program: Program | None, inputs: Tensor, targets: Tensor) -> None:
        # Detached views: they share memory with the parameters, and the program records no gradients.
        self._values = [value.detach() for value in (self._named | self._constants).values()]
        self._traced_structure = self._structure()
        self._program = program
        self._layout = _layout(inputs, targets)

    def _fits(self, inputs: Tensor, targets: Tensor) -> bool:
        return self._program is not None and self._layout == _layout(inputs, targets)

    # ---- steps

    def step(self, batches: Sequence[MicroBatch], *, measure: bool = False) -> StepOutput:
        """Update the parameters once; see `EagerEngine.step`."""
        if not self.whole_step or measure or len(batches) != 1 or not self._fits(*batches[0]):
            return super().step(batches, measure=measure)
        assert self._program is not None
        # The first step initializes the state.
        if not self._knows_state() or self._have_hooks() or (numbers := self._current_numbers()) is None:
            return super().step(batches)
        loss, outputs = self._program([*self._values, *numbers, *self._kept, *batches[0]])
        return StepOutput(loss, [outputs], 1)

    def _forward_backward(
        self, inputs: Tensor, targets: Tensor, share: float, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients with the program if the batch has the compiled shape, otherwise eagerly."""
        if self.whole_step or not self._fits(inputs, targets):
            return self._watched_pass(inputs, targets, share, first=first)
        assert self._program is not None
        if first:
            self._zero_gradients()
        loss, outputs, *gradients = self._program([*self._values, inputs, targets])
        for parameter, gradient in zip(self._named.values(), gradients, strict=True):
            if share != 1.0:
                gradient.mul_(share)
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.add_(gradient)
        return loss * share if share != 1.0 else loss, outputs

    def _watched_pass(
        self, inputs: Tensor, targets: Tensor, share: float, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients eagerly; in a check, detect draws from Python's or numpy's generator."""
        if not self._checking:
            return super()._forward_backward(inputs, targets, share, first=first)
        before = _python_random_state()
        result = super()._forward_backward(inputs, targets, share, first=first)
        self._draws = self._draws or before != _python_random_state()
        return result

    def _groups(self) -> Iterator[tuple[Update, Optimizer, dict[str, Any]]]:
        for update, optimizer in zip(self._updates, self.optimizers, strict=True):
            for group in optimizer.param_groups:
                yield update, optimizer, group

    def _knows_state(self) -> bool:
        """Update `_kept` to the current optimizer state; return False if the state is not yet initialized.

        Optimizers update their state in place; loading a state replaces the dictionary.
        """
        states = [optimizer.state for optimizer in self.optimizers]
        if self._known is not None and all(map(operator.is_, states, self._known)):
            return True
        values = self._state()
        self._kept = [value for value in values if value is not None]
        self._known_groups, self._options = [(update, group) for update, _, group in self._groups()], None
        self._known = states if len(self._kept) == len(values) else None
        return self._known is not None

    def _state(self) -> list[Tensor | None]:
        """Return the optimizer state, ordered by group, kind and parameter; None = not yet initialized."""
        return [
            optimizer.state[parameter].get(name) if parameter in optimizer.state else None
            for update, optimizer, group in self._groups()
            for name in update.state(group)
            for parameter in group["params"]
        ]

    def _current_numbers(self) -> list[Tensor] | None:
        """Return the numbers of the options as inputs of the program; None if it does not support them."""
        options = [update.options(group) for update, group in self._known_groups]
        if options != self._options:
            self._options, self._numbers = options, None
            numbers = [update.numbers(group) for update, group in self._known_groups]
            if self._structure() == self._traced_structure and min(lr for lr, *_ in numbers) >= _MIN_LR:
                self._numbers = [torch.tensor(n, dtype=torch.float64) for n in chain.from_iterable(numbers)]
        return self._numbers

    def _structure(self) -> list[tuple[bool, ...]]:
        return [update.structure(group) for update, _, group in self._groups()] if self.whole_step else []

    def _traced(self, inputs: Tensor, targets: Tensor) -> tuple[Program, list[Tensor]]:
        """Return the compiled program of one step for batches with these shapes, and its first arguments.

        These are tensors that the model or the loss creates from numbers.
        """
        groups = [(update, group) for update, _, group in self._groups()] if self.whole_step else None
        arguments = [value.detach() for value in (self._named | self._constants).values()]
        if groups is not None:
            state = [value for value in self._state() if value is not None]
            assert len(state) == len(self._state())
            # Separate tensors: two equal numbers must not share an input.
            numbers = [number for update, group in groups for number in update.numbers(group)]
            arguments += [torch.tensor(number, dtype=torch.float64) for number in numbers]
            arguments += state
        function = StepFunction(
            self.model, self.forward, self.autocast, self._named, list(self._constants), groups
        )
        return compile_step(function, [*arguments, inputs, targets])

    # ---- the check

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Restore the state of model, optimizers, gradients and random generators after the block."""
        snapshot, other_state = self._snapshot(), PythonState.of(self._other_state, known=self._watched.known)
        self._checking, self._draws = True, False
        try:
            yield
        finally:
            self._checking = False
            self._watched.restore()
            other_state.restore()
            self._restore(snapshot)

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._named | self._constants, self.parameters, self.optimizers)

    def _restore(self, snapshot: Snapshot) -> None:
        self._known = None
        snapshot.restore(self.model, self._named | self._constants, self.parameters, self.optimizers)

    def _disagreement(
        self, program: Program, first: Sequence[MicroBatch], others: Iterable[Sequence[MicroBatch]]
    ) -> str | None:
        """Return how the compiled steps differ from eager steps; None if only by rounding."""
        agreement = Agreement()
        self._compared, self._deviation = 0, 0.0
        usual = _layout(*first[0])
        for batches in islice(chain([first], others), _MAX_STEPS):
            if _layout(*batches[0]) != usual:  # this step runs eager
                continue
            reason = self._compare(agreement, program, batches) or self._python_changed()
            if reason is not None or agreement.is_sure():
                return reason
        return agreement.never_agreed()

    def _compare(
        self,
        agreement: Agreement,
        program: Program,
        batches: Sequence[MicroBatch],
        *,
        least_loss: float = 0.0,
    ) -> str | None:
        """Run one step eagerly and compiled; return how they differ beyond rounding, or None.

        The step is not compared if the eager loss is closer to 0 than `least_loss`.
        """
        self._program = None
        self._reset_running_sums()
        start = self._snapshot()
        output = super().step(batches)
        if abs(float(output.loss)) < least_loss:
            return None
        expected = self._evidence(output, start.values)
        drawn = torch.get_rng_state()
        if any(self._constants[name] is not value for name, value in self.model.named_buffers()):
            return "the model replaces its buffers instead of writing into them"
        self._restore(start)
        self._use(program, *batches[0])
        try:
            actual = self._evidence(self.step(batches), start.values)
        finally:
            self._program = None
        if not torch.equal(drawn, torch.get_rng_state()):
            return "the compiled step draws other random numbers than the eager step"
        self._compared += 1
        self._deviation = max(self._deviation, deviation(actual, expected))
        return agreement.compare(actual, expected, partial(self._moved, batches, start, expected))

    def _moved(
        self, batches: Sequence[MicroBatch], start: Snapshot, expected: dict[str, Evidence]
    ) -> dict[str, Evidence]:
        """Return the values of the eager step with perturbed inputs; `expected` if the model rejects them."""
        now = self._snapshot()
        self._restore(start)
        try:
            return self._evidence(super().step(_perturbed(batches)), start.values)
        except Exception:
            return expected
        finally:
            self._restore(now)

    def _reset_running_sums(self) -> None:
        """Reset all running sums of gradients, which would hide an error in one step."""
        for parameter in self.parameters:
            parameter.grad = None
        for update, optimizer, group in self._groups() if self.whole_step else ():
            for parameter in group["params"]:
                for kind in update.state(group):
                    if kind != "step":
                        optimizer.state[parameter][kind].zero_()

    def _evidence(self, output: StepOutput, before: Mapping[str, Tensor]) -> dict[str, Evidence]:
        """Return the values after a step: loss, outputs, buffers, and gradients or updates.

        If the program includes the updates, these are the optimizer state and the change of each parameter
        since `before`; otherwise they are the gradients.
        """
        forward = {"the loss": output.loss, "the output": torch.cat(output.outputs), **self._constants}
        all_evidence = {name: Evidence.of(name, v, limit=EXACT, rounding=1e-5) for name, v in forward.items()}
        if self.whole_step:
            all_evidence |= self._updates_made(before)
        else:
            for name, parameter in self._named.items():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                all_evidence[f"the gradient of {name}"] = Evidence.of("gradient", gradient, limit=ROUGH)
        return {name: evidence for name, evidence in all_evidence.items() if evidence.value.numel()}

    def _updates_made(self, before: Mapping[str, Tensor]) -> dict[str, Evidence]:
        names = {id(parameter): name for name, parameter in self._named.items()}
        updates = {}
        for update, optimizer, group in self._groups():
            for parameter in filter(Tensor.numel, group["params"]):
                name, state = names[id(parameter)], optimizer.state[parameter]
                for kind in update.state(group):
                    updates[f"the {kind} of {name}"] = Evidence.of(kind, state[kind], limit=ROUGH)
                kind = f"update by {type(optimizer).__name__}"
                step = parameter.detach() - before[name]
                rounding = torch.finfo(step.dtype).eps * before[name].nan_to_num(nan=0.0).abs().max().item()
                if update.direction is not None:  # weighted by how certain its direction is
                    sure = state[update.direction].abs()
                    step, rounding = step * sure, rounding * sure.max().item()
                updates[f"the update of {name}"] = Evidence.of(kind, step, limit=ROUGH, rounding=rounding)
        return updates


def _python_random_state() -> tuple[object, ...]:
    name, keys, *others = _numpy_random.get_state()
    return random.getstate(), name, keys.tobytes(), others


def _cannot(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"the step cannot be compiled: {type(error).__name__}: {lines[0]}"


def _layout(inputs: Tensor, targets: Tensor) -> tuple[object, ...]:
    return inputs.shape, inputs.stride(), inputs.dtype, targets.shape, targets.dtype


def _perturbed(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Return the batches with every real input perturbed slightly, deterministically."""
    draw = torch.Generator().manual_seed(0)

    def move(inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return inputs
        return inputs + inputs * (_PERTURBATION * torch.randn(inputs.shape, generator=draw)).to(inputs.dtype)

    return [(move(inputs), targets) for inputs, targets in batches]
