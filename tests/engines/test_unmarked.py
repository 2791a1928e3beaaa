"""An optimizer's step without torch's mark does what the one with it does, and calls whoever waits for it."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainer.engines import unmarked

MARKS = {"Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"}


def parameter() -> Tensor:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    value.grad = torch.tensor([0.5, -0.5])
    return value


def marks_of(function: Callable[[], object]) -> set[str]:
    with torch.profiler.profile() as profile:
        function()
    return {event.name for event in profile.events()} & MARKS


@contextmanager
def no_marks() -> Iterator[None]:
    """Fail where torch makes a mark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch.autograd.profiler, "record_function")
        yield


def test_the_mark_is_left_out_where_no_profiler_runs_and_made_where_one_does() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1, momentum=0.9)
    with no_marks():
        with pytest.raises(AttributeError, match="record_function"):
            optimizer.step()
        unmarked.step(optimizer)
        unmarked.zero_grad(optimizer)
    assert marks_of(lambda: (unmarked.step(optimizer), unmarked.zero_grad(optimizer))) == MARKS


@pytest.mark.parametrize("make_scheduler", [None, lambda o: torch.optim.lr_scheduler.StepLR(o, 2)])
def test_steps_are_torchs_to_the_last_bit(make_scheduler: Callable[[Optimizer], Any] | None) -> None:
    ours, theirs = parameter(), parameter()
    optimizers = [torch.optim.Adam([one], lr=0.1) for one in (ours, theirs)]
    schedulers = [make_scheduler(one) for one in optimizers] if make_scheduler else []
    for count in range(5):
        with no_marks():
            unmarked.step(optimizers[0])
        optimizers[1].step()
        for scheduler in schedulers:
            scheduler.step()
        for one in (ours, theirs):
            one.grad = torch.tensor([1.0, -count])
        assert torch.equal(ours, theirs)


def test_hooks_are_called() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    called = []
    for number, register in enumerate(
        [
            optimizer.register_step_pre_hook,
            optimizer.register_step_post_hook,
            register_optimizer_step_pre_hook,
            register_optimizer_step_post_hook,
        ]
    ):
        handle = register(lambda *_, number=number: called.append(number))
        unmarked.step(optimizer)
        handle.remove()
        unmarked.step(optimizer)
    assert called == [0, 1, 2, 3]


class Own(torch.optim.SGD):
    """A step of one's own that looks like torch's from outside."""

    steps = 0

    @functools.wraps(torch.optim.SGD.step)
    def step(self, *arguments: Any, **options: Any) -> Any:
        self.steps += 1
        return super().step(*arguments, **options)


def test_a_step_of_ones_own_is_called() -> None:
    torch.optim.SGD([parameter()], lr=0.1)  # from its first instance on, torch marks the steps of a class
    for scheduled in (False, True):
        optimizer = Own([parameter()], lr=0.1)
        if scheduled:
            torch.optim.lr_scheduler.StepLR(optimizer, 2)
        unmarked.step(optimizer)
        assert optimizer.steps == 1


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_step_that_an_instance_was_given_is_called(scheduled: bool) -> None:
    ours, twin, third = parameter(), parameter(), parameter()
    optimizer, other = torch.optim.SGD([ours], lr=0.1), torch.optim.SGD([twin], lr=0.1)
    if scheduled:
        torch.optim.lr_scheduler.StepLR(other, 2)
    optimizer.step = other.step  # type: ignore[method-assign]
    unmarked.step(optimizer)
    assert torch.equal(ours, third)
    assert not torch.equal(twin, third)
    called = []
    optimizer.step = types.MethodType(lambda self: called.append(self), optimizer)  # type: ignore[method-assign]
    unmarked.step(optimizer)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    unmarked.step(optimizer)
    assert called == [optimizer, optimizer]
    mock = MagicMock()
    optimizer.step = mock  # type: ignore[method-assign]
    unmarked.step(optimizer)
    mock.assert_called_once_with()


def test_a_wrapper_around_a_scheduled_step_is_called() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    called = []

    def skipped() -> None:
        called.append(1)

    vars(skipped).update(vars(optimizer.step))  # as decorators do that copy what they find
    optimizer.step = skipped  # type: ignore[assignment, method-assign]
    unmarked.step(optimizer)
    assert called == [1]
    assert not getattr(optimizer, "_opt_called", False)


def test_a_patched_zero_grad_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(Optimizer, "zero_grad", lambda self: called.append(self))
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    unmarked.zero_grad(optimizer)
    assert called == [optimizer]


def test_schedulers_see_that_there_was_a_step() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with warnings.catch_warnings(), no_marks():
        warnings.simplefilter("error")
        unmarked.step(optimizer)
        scheduler.step()
