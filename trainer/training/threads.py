"""Choose the number of threads of a run (`train.threads: auto`) by timing passes of a copy of its model.

On a busy machine, two threads can be many times slower than one, because each operation waits for both. How
much a model gains from several threads depends on its size and its batches, so both are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from trainer.device import usable_threads
from trainer.models.describe import copy_model
from trainer.models.outputs import prediction
from trainer.seeding import preserved

_ROUNDS = 2
_BLOCK_SECONDS = 0.02  # per number of threads and round
_BLOCK_PASSES = 50
_MAX_SECONDS = 0.3  # no further round after this time

_MIN_GAIN = 0.9
"""Relative time below which all threads are used; above it, noise would decide and runs would differ."""


def choose_threads(
    model: nn.Module,
    inputs: Tensor,
    autocast: AbstractContextManager[object],
    output: str | int | None = None,
) -> tuple[int, str]:
    """Return one or all usable threads, whichever is faster, and a line for the log.

    The line is empty if only one thread is usable.

    Times forward and backward passes. The optimizer is left out, so that runs with different optimizers get
    the same number. The model and the global random generators do not change; the number of threads of the
    process does.

    Args:
        model: the model in train mode, on the CPU.
        inputs: a training batch, [B, C, H, W] or [B, D].
        autocast: the context of the forward pass.
        output: which entry of what the model returns is the prediction.
    """
    most = usable_threads()
    if most == 1:
        return 1, ""
    try:
        model_copy, inputs = copy_model(model), inputs.clone()

        def run_pass() -> None:
            with autocast:
                outputs = prediction(model_copy(inputs), output)
            torch.autograd.backward(outputs.real.sum())

        with preserved(), torch.enable_grad():
            seconds = _measure(run_pass, most)
    except KeyboardInterrupt:
        raise
    except BaseException:  # of users' code; if training has the same error, the run reports it
        return 1, "threads: 1 (not measured, because a copy of the model cannot be trained)"
    threads = most if seconds[most] < _MIN_GAIN * seconds[1] else 1
    other = 1 if threads == most else most
    return threads, (
        f"threads: {threads} ({_milliseconds(seconds[threads])} per forward and backward pass; "
        f"{other} thread{'s' if other > 1 else ''}: {_milliseconds(seconds[other])})"
    )


def _measure(run_pass: Callable[[], None], most: int) -> dict[int, float]:
    """Return the mean seconds of a pass with one and with `most` threads, measured in turn."""
    seconds, passes = {most: 0.0, 1: 0.0}, {most: 0, 1: 0}
    torch.set_num_threads(most)
    run_pass()  # includes one-time costs
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        for threads in seconds:
            torch.set_num_threads(threads)
            count, block_began, elapsed = 0, time.perf_counter(), 0.0
            while count < _BLOCK_PASSES and elapsed < _BLOCK_SECONDS:
                run_pass()
                count, elapsed = count + 1, time.perf_counter() - block_began
            seconds[threads] += elapsed
            passes[threads] += count
        if time.perf_counter() - began > _MAX_SECONDS:
            break
    return {threads: seconds[threads] / passes[threads] for threads in seconds}


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"
