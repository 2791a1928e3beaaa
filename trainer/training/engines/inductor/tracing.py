"""Trace a training step and compile its graph with Inductor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainer.training.engines.inductor import matmul, pooling
from trainer.training.engines.inductor.instruction_set import torchs_instruction_set
from trainer.training.engines.inductor.kept_programs import Program
from trainer.training.engines.inductor.scalars import compute_once
from trainer.training.engines.inductor.updates import Update
from trainer.training.forward import ForwardPass

_OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "compile_threads": 2,  # more compilers at a time need more memory
    "cpp.min_chunk_size": 2**14,  # per thread of a loop: for less, starting a thread costs more
    "size_asserts": False,  # the engine checks the shapes itself
    "alignment_asserts": False,
}


@dataclass(frozen=True, slots=True)
class StepFunction:
    """The arithmetic of a step as a function of tensors, to be traced.

    Args:
        model: the model.
        forward: computes the loss and the prediction of a batch.
        autocast: the context of the forward pass.
        named: the trainable parameters by name.
        constants: names of the other parameters and of the buffers.
        groups: every parameter group with its update; None = the function computes only the gradients.
    """

    model: nn.Module
    forward: ForwardPass
    autocast: AbstractContextManager[object]
    named: Mapping[str, Tensor]
    constants: Sequence[str]
    groups: Sequence[tuple[Update, dict[str, Any]]] | None

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """Return the loss, the outputs and, without updates, the gradients.

        Args:
            arguments: parameters, buffers, with updates also the numbers of their options and the state of
                the optimizers (which are updated in place), inputs, targets.
        """
        return self._gradients(*arguments) if self.groups is None else self._update(self.groups, *arguments)

    def _gradients(self, *arguments: Tensor) -> list[Tensor]:
        """Compute loss, outputs and gradients from (*parameters, *buffers, inputs, targets)."""
        count = len(self.named)
        leaves = [value.detach().requires_grad_() for value in arguments[:count]]
        names = [f"model.{name}" for name in (*self.named, *self.constants)]
        state = dict(zip(names, (*leaves, *arguments[count:-2]), strict=True))
        inputs, targets = arguments[-2:]
        with self.autocast:
            loss, outputs = functional_call(_ForwardPass(self.model, self.forward), state, (inputs, targets))
        gradients = [
            gradient.contiguous() if leaf.is_contiguous() else gradient  # as backward() does
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)
        ]
        return [loss.detach(), outputs.detach(), *gradients]

    def _update(self, groups: Sequence[tuple[Update, dict[str, Any]]], *arguments: Tensor) -> list[Tensor]:
        """Compute the gradients and apply torch's updates to (*values, *numbers, *state, inputs, targets)."""
        known = len(self.named) + len(self.constants)
        loss, outputs, *gradients = self._gradients(*arguments[:known], *arguments[-2:])
        by_parameter = {id(p): n for n, p in enumerate(self.named.values())}
        remaining = iter(arguments[known:-2])
        numbers = [list(islice(remaining, len(update.numbers(group)))) for update, group in groups]
        with torch.no_grad():
            for (update, group), of_group in zip(groups, numbers, strict=True):
                indices = [by_parameter[id(p)] for p in group["params"]]
                state = {name: [next(remaining) for _ in indices] for name in update.state(group)}
                parameters = [arguments[n] for n in indices]
                update.apply(parameters, [gradients[n] for n in indices], state, of_group, group)
        return [loss, outputs]


class _ForwardPass(nn.Module):
    """The forward pass as a module: `functional_call` replaces the parameters for the loss as well."""

    def __init__(self, model: nn.Module, forward: ForwardPass) -> None:
        super().__init__()
        self.model = model
        self._forward_pass = forward

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._forward_pass(self.model, inputs, targets)


def compile_step(function: StepFunction, arguments: Sequence[Tensor]) -> tuple[Program, list[Tensor]]:
    """Trace a function with these arguments and compile it; return the program and its first arguments.

    These are tensors that the model or the loss creates from numbers.
    """
    from torch._functorch import config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch.fx.experimental.proxy_tensor import make_fx

    compiled_graphs: list[Any] = []

    def compile_inner(*graph: Any, **options: Any) -> Any:
        compiled_graphs.append(compile_fx_inner(*graph, **options))
        return compiled_graphs[-1]

    with torchs_instruction_set():
        instead = matmul.decompositions() | pooling.decompositions()
        # The model or the loss may hold tensors that are neither parameters nor buffers of the model.
        trace = make_fx(
            function, decomposition_table=instead, tracing_mode="fake", _allow_non_fake_inputs=True
        )
        graph = trace(*arguments)
        compute_once(graph)
        compile_graph: Any = compile_fx
        with torch.no_grad(), config.patch(enable_autograd_cache=False):  # whose hits skip `compile_inner`
            compile_graph(graph, arguments, inner_compile=compile_inner, config_patches=_OPTIONS)
    # The program without its wrappers, whose checks and copies take 10 us.
    program: Program = compiled_graphs[-1].current_callable
    return program, list(graph.buffers())
