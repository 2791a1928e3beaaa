"""The compiled training step: the same arithmetic as the eager engine's, traced once and run as one program.

`compile` traces forward, loss and gradients (and the update, where `updates` knows it) with make_fx over fake
tensors and hands the graph to Inductor; there are no guards, and no Python between the operations. So it
refuses models whose Python code depends on more than parameters, buffers and batches, or changes more than
these (`python_state`). It then checks a few steps against the eager engine's, and restores the state. What
cannot be traced runs eager, as the parent class does it: batches of another shape, steps whose gradients are
measured. `check` repeats the check later in the run. Knows no config.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

from trainer import kernel_cache
from trainer.seeding import random_state, set_random_state
from trainer.training.engines.choice import compiler
from trainer.training.engines.eager import EagerEngine, MicroBatch, StepOutput
from trainer.training.engines.inductor import matmul as products
from trainer.training.engines.inductor import pooling
from trainer.training.engines.inductor.agreement import EXACT, ROUGH, Agreement, Evidence, deviation
from trainer.training.engines.inductor.python_state import PythonState, is_own
from trainer.training.engines.inductor.scalars import compute_once
from trainer.training.engines.inductor.step_hooks import has_hooks, has_own_step
from trainer.training.engines.inductor.updates import Update, update_of

_OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "compile_threads": 1,
    "cpp.min_chunk_size": 2**14,  # of a loop, per thread: waking another for less takes longer
    "size_asserts": False,  # the engine looks at the shapes itself
    "alignment_asserts": False,
}

_LEAST_LR = 1e-30
"""Steps with a smaller learning rate run eager: torch's Adam for compilers divides by it, 0 by 0 at worst."""

_MOST_STEPS = 32
"""How many steps the check looks at: at most, while a value has not agreed with eager's in one of them."""

_MOVED = 2.0**-18
"""By what share inputs are moved to see what rounding does: residual networks' outputs differ by 5e-6."""

_LEAST_LOSS = 1e-3
"""Loss below which no later step is compared: of nearly certain outputs gradients are all rounding."""

_LATER_BOUND = 0.5
"""By what share a gradient of a later step may differ at most, where rounding moves eager's own as far."""

Program = Callable[[list[Any]], Sequence[Tensor]]

_numpy_random: Any = numpy.random  # its global generator


class CompiledEngine(EagerEngine):
    """An eager engine whose steps run as one compiled program once `compile` has succeeded.

    Attributes:
        whole_step: whether the optimizers' updates are part of the program (`update_of` knows them all);
            otherwise the program ends at the gradients and the optimizers step as ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what `EagerEngine` takes."""
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
        self._rates: dict[float, Tensor] = {}
        self._kept: list[Tensor] = []
        self._known: Sequence[object] | None = None  # the dictionaries that `_kept` is from
        self._watched = PythonState()
        self._own: dict[str, object] = {}  # what else may change in a step, and is restored
        self._draws = False  # whether a forward or backward pass drew from Python's or numpy's generator
        self._compared, self._deviation = 0, 0.0
        self._checking = False

    @property
    def ready(self) -> bool:
        """Whether steps run compiled: `compile` has succeeded."""
        return self._program is not None

    @property
    def compared_steps(self) -> int:
        """How many steps were compared with eager ones so far."""
        return self._compared

    @property
    def checked(self) -> str:
        """What was compared with eager's in the last check, and how far apart it was."""
        parts = ["loss", "outputs", *(["buffers"] if self._constants else []), "gradients"]
        if self.whole_step:
            parts[-1:] = ["optimizer state", "updates"]
        steps = f"{self._compared} step{'' if self._compared == 1 else 's'}"
        words = f"{', '.join(parts[:-1])} and {parts[-1]} of {steps} against eager"
        return f"{words}: largest relative deviation {self._deviation:.1g}"

    def compile(
        self, steps: Iterable[Sequence[MicroBatch]], *, beside: Mapping[str, object] | None = None
    ) -> str | None:
        """Trace and compile the step, and check it against eager on `steps`; nothing has changed afterwards.

        Args:
            steps: the micro-batches of steps, with those of the first one all of the usual shape; it may be
                endless, for a few are taken.
            beside: name -> what the making of `steps` may change; it is restored.

        Returns:
            Why the steps will run eager; None when they will run compiled.
        """
        if self.scaler is not None or self.parameters[0].device.type != "cpu":
            return "compiled steps are for CPUs, in float32 or bfloat16"
        if compiler() is None:
            return "there is no C++ compiler (g++ or clang++, or the environment's CXX)"
        if (problem := kernel_cache.unwritable()) is not None:
            return problem
        own = {type(one).__name__: one for one in self.optimizers if is_own(one)}
        self._own = {**own, **(beside or {})}
        if reason := self._unfit():
            return reason
        self.whole_step = (
            self.whole_step
            and not self._momentum_is_scheduled()
            and not any(map(has_own_step, self.optimizers))
        )
        self.whole_step = self.whole_step and not self._have_hooks()
        program: Program | None = None
        try:
            with self._restored():
                steps = iter(steps)
                first = next(steps)
                self.whole_step = self.whole_step and len(first) == 1
                inputs, targets = first[0]
                self._raise_least_lrs()
                super().step(first)  # the optimizers' states are made in their first step
                reason = self._python_changed()
                if reason is None:
                    program = self._traced(inputs, targets)
                    reason = self._disagreement(program, first, steps)
        except Exception as error:  # whatever a model does that cannot be traced
            words = str(error).strip().splitlines() or [""]
            reason = f"the step cannot be compiled: {type(error).__name__}: {words[0]}"
        if reason is None:
            self._use(program, inputs, targets)
        return reason

    def check(self, batches: Sequence[MicroBatch] | None = None) -> str | None:
        """Check the compiled step once more, from the present state; it is the same afterwards.

        Args:
            batches: a step's micro-batches; None = look only whether Python state has changed.

        Returns:
            Why the steps will run eager from now on; None when they go on as they are.
        """
        program = self._program
        if program is None:
            return None
        reason = self._python_changed()
        if reason is None and batches is not None and self._fits(*batches[0]) and self._is_finite():
            layout = self._layout
            with self._restored():
                self._raise_least_lrs()
                agreement = Agreement(bound=_LATER_BOUND)
                reason = self._compare(agreement, program, batches, least_loss=_LEAST_LOSS)
                reason = reason or self._python_changed()
            self._program, self._layout = program, layout
        if reason is not None:
            self._program = None
        return reason

    def _unfit(self) -> str | None:
        """Return why the model's Python code cannot be left out of the steps; notes its state if it can."""
        values = [*self._named.values(), *self._constants.values()]
        roots = {"model": self.model, "loss": self.loss, "penalty": self.penalty}
        self._watched = PythonState.of(roots, known=values)
        if self._watched.outside:
            return f"the model's code depends on {self._watched.outside}"
        if self._watched.opaque:
            return f"the model's code can reach {self._watched.opaque}, whose changes cannot be seen"
        if opaque := PythonState.of(self._own, known=values).opaque:
            return f"a check could not restore {opaque}"
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

    def _momentum_is_scheduled(self) -> bool:
        """Whether OneCycleLR or CyclicLR changes the momentum: they leave its bounds in the groups."""
        return any("base_momentum" in group for _, _, group in self._groups())

    def _have_hooks(self) -> bool:
        return any(map(has_hooks, self.optimizers))

    def _raise_least_lrs(self) -> None:
        """Have no learning rate whose updates drown in rounding, or are left to eager; for the check."""
        for _, _, group in self._groups() if self.whole_step else ():
            group["lr"] = max(float(group["lr"]), 1e-3)

    def _use(self, program: Program | None, inputs: Tensor, targets: Tensor) -> None:
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
        rates = [float(group["lr"]) for _, _, group in self._groups()]
        # The first step makes the state; options other than lr are constants of the program.
        if not self._knows_state() or self._options() != self._traced_options or min(rates) < _LEAST_LR:
            return super().step(batches)
        if self._have_hooks():
            return super().step(batches)
        loss, outputs = self._program([*self._values, *self._lrs(rates), *self._kept, *batches[0]])
        return StepOutput(loss, [outputs], 1)

    def _forward_backward(
        self, inputs: Tensor, targets: Tensor, share: float, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Run the compiled gradients where the batch has the shape they were compiled for."""
        if self.whole_step or not self._fits(inputs, targets):
            return self._watched_pass(inputs, targets, share, first=first)
        assert self._program is not None
        if first:
            self._forget_gradients()
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
        """Run eager's gradients, and see in a check whether they draw from generators that no program has."""
        if not self._checking:
            return super()._forward_backward(inputs, targets, share, first=first)
        before = random.getstate(), _numpy_random.get_state()
        found = super()._forward_backward(inputs, targets, share, first=first)
        after = random.getstate(), _numpy_random.get_state()
        self._draws = self._draws or repr(before) != repr(after)
        return found

    def _groups(self) -> Iterator[tuple[Update, Optimizer, dict[str, Any]]]:
        for update, optimizer in zip(self._updates, self.optimizers, strict=True):
            for group in optimizer.param_groups:
                yield update, optimizer, group

    def _knows_state(self) -> bool:
        """See that `_kept` is what the optimizers keep now; False while they keep nothing yet.

        They update it in place, and a state that is loaded comes in another dictionary.
        """
        states = [optimizer.state for optimizer in self.optimizers]
        if self._known is not None and all(map(operator.is_, states, self._known)):
            return True
        found = self._state()
        self._kept = [value for value in found if value is not None]
        self._known = states if len(self._kept) == len(found) else None
        return self._known is not None

    def _state(self) -> list[Tensor | None]:
        """Return what the optimizers keep, by group, then by kind, then by parameter; None = not yet made."""
        return [
            optimizer.state[parameter].get(name) if parameter in optimizer.state else None
            for update, optimizer, group in self._groups()
            for name in update.state(group)
            for parameter in group["params"]
        ]

    def _options(self) -> list[Any]:
        return [group[name] for update, _, group in self._groups() for name in update.options]

    def _lrs(self, rates: Sequence[float]) -> list[Tensor]:
        """Return the groups' learning rates as 0-d tensors; a constant one is made once."""
        if len(self._rates) > 8:
            self._rates.clear()
        for rate in rates:
            if rate not in self._rates:
                self._rates[rate] = torch.tensor(rate, dtype=torch.float64)
        return [self._rates[rate] for rate in rates]

    # ---- tracing

    def _traced(self, inputs: Tensor, targets: Tensor) -> Program:
        """Return the compiled program of one step on batches shaped like these."""
        # Detached views: they share memory with the parameters, and the program records no gradients.
        self._values = [value.detach() for value in (self._named | self._constants).values()]
        arguments = list(self._values)
        if self.whole_step:
            self._traced_options = self._options()
            state = [value for value in self._state() if value is not None]
            assert len(state) == len(self._state())
            # Tensors of their own: two groups of one rate are not to share an input.
            arguments += [torch.ones((), dtype=torch.float64) for _ in self._groups()]
            arguments += state
        arguments += [inputs, targets]
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner
        from torch.fx.experimental.proxy_tensor import make_fx

        found: list[Any] = []

        def compile_inner(*graph: Any, **options: Any) -> Any:
            found.append(compile_fx_inner(*graph, **options))
            return found[-1]

        body = self._whole if self.whole_step else self._gradients_of
        instead = products.decompositions() | pooling.decompositions()
        graph = make_fx(body, decomposition_table=instead, tracing_mode="fake")(*arguments)
        compute_once(graph)
        with torch.no_grad():
            wrapped: Any = compile_fx(graph, arguments, inner_compile=compile_inner, config_patches=_OPTIONS)
        # Without the wrappers around it, which check and copy for 10 us; an outer cache may leave only those.
        program = found[-1].current_callable if found else lambda values: wrapped(*values)

        return program

    def _gradients_of(self, *arguments: Tensor) -> list[Tensor]:
        """Forward, loss and gradients as a function: parameters, buffers, inputs, targets -> loss, ...."""
        count = len(self._named)
        leaves = [value.detach().requires_grad_() for value in arguments[:count]]
        state = dict(zip(self._named, leaves, strict=True))
        state |= dict(zip(self._constants, arguments[count:], strict=False))
        inputs, targets = arguments[-2:]
        with self.autocast:
            outputs = functional_call(self.model, state, (inputs,))
            loss = self.loss(outputs, targets)
        gradients = [
            gradient.contiguous() if leaf.is_contiguous() else gradient  # backward() sees to it by itself
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)
        ]
        return [loss.detach(), outputs.detach(), *gradients]

    def _whole(self, *arguments: Tensor) -> list[Tensor]:
        """The gradients, then torch's own updates with them; between values and batch: lrs, state."""
        known = len(self._named) + len(self._constants)
        loss, outputs, *gradients = self._gradients_of(*arguments[:known], *arguments[-2:])
        by_parameter = {id(p): n for n, p in enumerate(self._named.values())}
        groups = list(self._groups())
        lrs = arguments[known : known + len(groups)]
        kept = iter(arguments[known + len(groups) : -2])
        with torch.no_grad(), torch.compiler._compile_session_context():
            for (update, _, group), lr in zip(groups, lrs, strict=True):
                numbers = [by_parameter[id(p)] for p in group["params"]]
                state = {name: [next(kept) for _ in numbers] for name in update.state(group)}
                parameters = [arguments[n] for n in numbers]
                update.apply(parameters, [gradients[n] for n in numbers], state, lr, group)
        return [loss, outputs]

    # ---- the check

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Give model, optimizers, gradients and random numbers their former state after the block."""
        taken, own = self._snapshot(), PythonState.of(self._own, known=self._watched.known)
        self._checking, self._draws = True, False
        try:
            yield
        finally:
            self._checking = False
            self._watched.restore()
            own.restore()
            self._restore(taken)

    def _snapshot(self) -> dict[str, Any]:
        values = {**self._named, **self._constants}
        return {
            "model": {name: value.detach().clone() for name, value in values.items()},
            "gradients": [copy.deepcopy(p.grad) for p in self.parameters],
            "optimizers": [_optimizer_state(optimizer) for optimizer in self.optimizers],
            "random": random_state(),
        }

    def _restore(self, taken: Mapping[str, Any]) -> None:
        values = {**self._named, **self._constants}
        with torch.no_grad():
            for name, value in taken["model"].items():
                values[name].copy_(value)
        for name, value in values.items():  # a model, or a trace that failed, may have left others there
            module, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(module), leaf, value)
        for parameter, gradient in zip(self.parameters, taken["gradients"], strict=True):
            parameter.grad = copy.deepcopy(gradient)
        self._known = None
        for optimizer, (state, options) in zip(self.optimizers, taken["optimizers"], strict=True):
            optimizer.state.clear()
            optimizer.state.update({p: copy.deepcopy(values) for p, values in state.items()})
            for group, former in zip(optimizer.param_groups, options, strict=True):
                for key in group.keys() - former.keys() - {"params"}:
                    del group[key]
                group.update(copy.deepcopy(former))
        set_random_state(taken["random"])

    def _disagreement(
        self, program: Program, first: Sequence[MicroBatch], others: Iterable[Sequence[MicroBatch]]
    ) -> str | None:
        """Return in what the compiled steps differ from eager's; None = in nothing but rounding."""
        agreement = Agreement()
        self._compared, self._deviation = 0, 0.0
        usual = _layout(*first[0])
        for batches in islice(chain([first], others), _MOST_STEPS):
            if _layout(*batches[0]) != usual:  # it runs eager
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
        """Make one step eager and compiled; return in what they differ by more than rounding may move it.

        Nothing is compared where eager's loss is closer to 0 than `least_loss`.
        """
        self._program = None
        self._forget_former_steps()
        start = self._snapshot()
        output = super().step(batches)
        if abs(float(output.loss)) < least_loss:
            return None
        wanted = self._evidence(output, start["model"])
        drawn = torch.get_rng_state()
        if any(self._constants[name] is not value for name, value in self.model.named_buffers()):
            return "the model replaces its buffers instead of writing into them"
        self._restore(start)
        try:
            moved = self._evidence(super().step(_moved(batches)), start["model"])
        except Exception:  # of a model that looks at its inputs
            moved = wanted
        self._restore(start)
        self._use(program, *batches[0])
        try:
            found = self._evidence(self.step(batches), start["model"])
        finally:
            self._program = None
        if not torch.equal(drawn, torch.get_rng_state()):
            return "the compiled step draws other random numbers than eager"
        self._compared += 1
        self._deviation = max(self._deviation, deviation(found, wanted))
        return agreement.compare(found, wanted, moved)

    def _forget_former_steps(self) -> None:
        """Take back all sums over gradients, for a mistake of one step is small beside them."""
        for parameter in self.parameters:
            parameter.grad = None
        for update, optimizer, group in self._groups() if self.whole_step else ():
            for parameter in group["params"]:
                for kind in update.state(group):
                    if kind != "step":
                        optimizer.state[parameter][kind].zero_()

    def _evidence(self, output: StepOutput, before: Mapping[str, Tensor]) -> dict[str, Evidence]:
        """Return what a step left behind.

        Of a program that ends at the gradients these; of another one what the optimizers keep and make of the
        parameters, which were `before`.
        """
        forward = {"the loss": output.loss, "the output": torch.cat(output.outputs), **self._constants}
        found = {name: Evidence.of(name, v, limit=EXACT, rounding=1e-5) for name, v in forward.items()}
        if self.whole_step:
            found |= self._updates_made(before)
        else:
            for name, parameter in self._named.items():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found[f"the gradient of {name}"] = Evidence.of("gradient", gradient, limit=ROUGH)
        return {name: evidence for name, evidence in found.items() if evidence.value.numel()}

    def _updates_made(self, before: Mapping[str, Tensor]) -> dict[str, Evidence]:
        names = {id(parameter): name for name, parameter in self._named.items()}
        found = {}
        for update, optimizer, group in self._groups():
            for parameter in filter(Tensor.numel, group["params"]):
                name, state = names[id(parameter)], optimizer.state[parameter]
                for kind in update.state(group):
                    found[f"the {kind} of {name}"] = Evidence.of(kind, state[kind], limit=ROUGH)
                kind = f"update by {type(optimizer).__name__}"
                step = parameter.detach() - before[name]
                rounding = torch.finfo(step.dtype).eps * before[name].nan_to_num(nan=0.0).abs().max().item()
                if update.direction is not None:  # each as much of it as its direction is sure
                    sure = state[update.direction].abs()
                    step, rounding = step * sure, rounding * sure.max().item()
                found[f"the update of {name}"] = Evidence.of(kind, step, limit=ROUGH, rounding=rounding)
        return found


def _layout(inputs: Tensor, targets: Tensor) -> tuple[object, ...]:
    return inputs.shape, inputs.stride(), inputs.dtype, targets.shape, targets.dtype


def _moved(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Return the batches with every real input moved a little up or down, in the same way each time."""
    draw = torch.Generator().manual_seed(0)

    def move(inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return inputs
        return inputs + inputs * (_MOVED * torch.randn(inputs.shape, generator=draw)).to(inputs.dtype)

    return [(move(inputs), targets) for inputs, targets in batches]


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    state = {parameter: copy.deepcopy(values) for parameter, values in optimizer.state.items()}
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return state, groups
