from __future__ import annotations

import math

from trainer.config.structure import EarlyStopping
from trainer.records import EvalRecord
from trainer.selection import Best, Patience, better_direction, improves


def record(step: int, **values: float | None) -> EvalRecord:
    return EvalRecord(step, float(step), step, step, 0.0, values)


def test_accuracies_are_to_grow_and_losses_to_shrink() -> None:
    assert better_direction("val_accuracy") == "max"
    assert better_direction("train_eval_loss") == "min"


def test_a_tie_nan_and_nothing_are_no_improvement() -> None:
    assert improves(0.9, None, "max")
    assert not improves(0.9, 0.9, "max")
    assert not improves(math.nan, None, "min")
    assert not improves(None, 1.0, "min")
    assert not improves(0.95, 1.0, "min", min_delta=0.1)


def test_the_best_is_the_first_of_equals_and_never_the_one_before_training() -> None:
    best = Best("val_accuracy")
    taken = [
        best.update(record(step, val_accuracy=value)) for step, value in enumerate([0.99, 0.5, 0.8, 0.8, 0.7])
    ]
    assert taken == [False, True, True, False, False]
    assert best.moment is not None
    assert best.moment.step == 2


def test_patience_counts_evaluations_without_improvement() -> None:
    patience = Patience(EarlyStopping(metric="val_loss", patience=2))
    losses = [2.0, 1.0, 1.1, 0.9, 0.95, math.nan]
    assert [patience.update(record(step, val_loss=loss)) for step, loss in enumerate(losses)] == [
        False
    ] * 5 + [True]


def test_both_go_on_from_their_state() -> None:
    rule = EarlyStopping(metric="val_loss", patience=3)
    best, patience = Best("val_loss"), Patience(rule)
    for step, loss in enumerate([2.0, 1.0, 1.5]):
        best.update(record(step, val_loss=loss))
        patience.update(record(step, val_loss=loss))
    best2, patience2 = Best("val_loss"), Patience(rule)
    best2.load_state_dict(best.state_dict())
    patience2.load_state_dict(patience.state_dict())
    assert (best2, patience2) == (best, patience)
