from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.models import Every
from trainer.training.timetable import Interval, run_length


def due_steps(rhythm: Interval, steps: int) -> list[int]:
    return [step for step in range(1, steps + 1) if rhythm.due(step)]


def test_a_rhythm_in_steps_is_every_multiple() -> None:
    assert due_steps(Interval.of(Every(steps=30), 938), 100) == [30, 60, 90]


def test_a_rhythm_in_epochs_falls_on_each_epochs_last_step() -> None:
    assert due_steps(Interval.of(Every(epochs=1), 938), 3000) == [938, 1876, 2814]


def test_a_fraction_of_an_epoch_never_misses_the_epochs_end() -> None:
    assert due_steps(Interval.of(Every(epochs=1 / 3), 10), 30)[2::3] == [10, 20, 30]


def test_a_number_of_epochs_that_overflows_is_never_reached() -> None:
    interval = Interval.of(Every(epochs=1e308), 938)
    assert due_steps(interval, 1000) == []
    assert interval.next(1000) > 10**300


@given(st.integers(1, 500), st.integers(1, 40))
def test_over_n_epochs_a_rhythm_comes_n_times(steps_per_epoch: int, epochs: int) -> None:
    assert len(due_steps(Interval.of(Every(epochs=1), steps_per_epoch), steps_per_epoch * epochs)) == epochs


@given(st.floats(0.01, 1000) | st.integers(1, 1000).map(float), st.integers(0, 10**6))
def test_the_next_step_is_the_first_one_that_is_due(period: float, step: int) -> None:
    rhythm = Interval(period)
    found = rhythm.next(step)
    assert step < found <= step + period + 1
    assert rhythm.due(found)
    assert not any(rhythm.due(between) for between in range(step + 1, found))


@given(st.integers(1, 10**15), st.integers(0, 10**6))
def test_a_long_period_is_found_at_once_and_to_the_step(period: int, step: int) -> None:
    rhythm = Interval(float(period))
    assert rhythm.next(step) == (step // period + 1) * period
    assert not rhythm.due(rhythm.next(step) - 1) or period == 1


@pytest.mark.parametrize(
    ("epochs", "steps", "length"),
    [(5, None, 4690), (0.5, None, 469), (None, 17, 17), (None, None, None), (1e-9, None, 1)],
)
def test_the_length_in_steps(epochs: float | None, steps: int | None, length: int | None) -> None:
    assert run_length(epochs=epochs, steps=steps, steps_per_epoch=938) == length


def test_a_third_of_an_epoch_rounds_up_to_whole_steps() -> None:
    assert run_length(epochs=1 / 3, steps=None, steps_per_epoch=10) == 4
    assert run_length(epochs=0.1 + 0.2, steps=None, steps_per_epoch=10) == 3
