"""`train.engine: auto` compares the time that compiling saves with the time that it costs."""

from __future__ import annotations

from trainer.training.engines.choice import COMPILE_SECONDS, choose_engine
from trainer.training.engines.eager import StepTimes

KEPT = StepTimes(eager=4e-4, compiled=1e-4)
NEW = StepTimes(eager=4e-4, compiled=None)


def test_a_kept_program_is_used_if_it_saves_more_than_loading_it_costs() -> None:
    assert choose_engine([(KEPT, 500)]).engine == "eager"
    choice = choose_engine([(KEPT, 5_000)])
    assert choice.engine == "compiled"
    assert "0.4 ms per eager step, 0.1 ms compiled" in choice.note
    assert choose_engine([(StepTimes(1e-4, 2e-4), 1_000_000)]).engine == "eager"  # compiled steps are slower


def test_a_new_step_is_compiled_if_the_plan_is_long() -> None:
    half = COMPILE_SECONDS / NEW.eager
    assert choose_engine([(NEW, half)]).engine == "eager"
    assert choose_engine([(NEW, 3 * half)]).engine == "compiled"
    assert choose_engine([(NEW, float("inf"))]).engine == "compiled"


def test_all_variants_get_the_same_engine() -> None:
    choice = choose_engine([(KEPT, 1_000_000), ("its optimizer evaluates a closure", 1_000_000)])
    assert choice.engine == "eager"
    assert "its optimizer evaluates a closure" in choice.note
