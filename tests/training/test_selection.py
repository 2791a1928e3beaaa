from __future__ import annotations

import math

from trainer.config.models import EarlyStopping
from trainer.records import EvalRecord
from trainer.training.selection import (
    Best,
    Patience,
    SelectionRule,
    best_setting,
    improves,
    setting_value,
)


def record(step: int, **values: float | None) -> EvalRecord:
    return EvalRecord(step, float(step), step, step, 0.0, values)


def test_a_tie_nan_and_nothing_are_no_improvement() -> None:
    assert improves(0.9, None, "max")
    assert not improves(0.9, 0.9, "max")
    assert not improves(math.nan, None, "min")
    assert not improves(None, 1.0, "min")
    assert not improves(0.95, 1.0, "min", min_delta=0.1)


def test_the_best_is_the_first_of_equals_and_never_the_one_before_training() -> None:
    best = Best("val_accuracy", "max")
    taken = [
        best.update(record(step, val_accuracy=value)) for step, value in enumerate([0.99, 0.5, 0.8, 0.8, 0.7])
    ]
    assert taken == [False, True, True, False, False]
    assert best.result is not None
    assert best.result.step == 2


def test_patience_counts_evaluations_without_improvement() -> None:
    patience = Patience(EarlyStopping(metric="val_loss", patience=2), "min")
    losses = [2.0, 1.0, 1.1, 0.9, 0.95, math.nan]
    assert [patience.update(record(step, val_loss=loss)) for step, loss in enumerate(losses)] == [
        False
    ] * 5 + [True]


def test_both_go_on_from_their_state() -> None:
    rule = EarlyStopping(metric="val_loss", patience=3)
    best, patience = Best("val_loss", "min"), Patience(rule, "min")
    for step, loss in enumerate([2.0, 1.0, 1.5]):
        best.update(record(step, val_loss=loss))
        patience.update(record(step, val_loss=loss))
    best2, patience2 = Best("val_loss", "min"), Patience(rule, "min")
    best2.load_state_dict(best.state_dict())
    patience2.load_state_dict(patience.state_dict())
    assert (best2, patience2) == (best, patience)


def test_a_setting_is_worth_the_mean_or_median_of_its_runs_and_nothing_when_one_diverged() -> None:
    mean, median = SelectionRule("val_loss", "min"), SelectionRule("val_loss", "min", "median")
    assert setting_value([1.0, 2.0, 6.0], mean) == 3.0
    assert setting_value([1.0, 2.0, 6.0], median) == 2.0
    assert setting_value([1.0, math.nan, 6.0], median) == math.inf
    assert setting_value([math.inf, 1.0], SelectionRule("val_accuracy", "max")) == -math.inf
    assert setting_value([], mean) is None
    assert str(median) == "lowest median over seeds of val_loss at the best checkpoint"


def test_of_equal_settings_the_smallest_is_the_best_in_whichever_order_they_are_listed() -> None:
    settings = [
        ({"lr": 0.1, "kind": "b"}, 0.9), ({"kind": "a", "lr": 1}, 0.9), ({"lr": 0.01, "kind": "b"}, 0.9),
        ({"lr": 1e-9, "kind": "a"}, 0.8), ({"lr": 1e-9, "kind": "b"}, math.inf),
        ({"lr": 0, "kind": "a"}, None),
    ]  # fmt: skip
    assert best_setting(settings, "max") == 1, "by kind first, as its name comes first"
    assert best_setting(settings[::-1], "max") == 4
    assert best_setting(settings, "min") == 3
    assert best_setting([({"lr": 1}, None), ({"lr": 2}, -math.inf)], "max") is None
    assert best_setting([({"lr": 2}, 0.5), ({"lr": None}, 0.5), ({"lr": "x"}, 0.5)], "max") == 0
