"""Which differences of a compiled step the check accepts as rounding, and which it does not."""

from __future__ import annotations

import pytest
import torch

from trainer.training.engines.inductor.agreement import EXACT, ROUGH, Agreement, Evidence

WANTED = {
    "the loss": Evidence.of("loss", torch.tensor(2.0), limit=EXACT),
    "a": Evidence.of("gradient", torch.tensor([1.0, -3.0]), limit=ROUGH),
    "b": Evidence.of("gradient", torch.tensor([1e-7, 1e-9]), limit=ROUGH),
    "c": Evidence.of("update", torch.tensor([2e-7, 1e-7]), limit=ROUGH, rounding=1e-8),
}


def differing(**factors: float) -> dict[str, Evidence]:
    names = {"loss": "the loss"}
    changed = {names.get(name, name): factor for name, factor in factors.items()}
    return {
        name: Evidence.of(one.kind, one.value * changed.get(name, 1.0), limit=one.limit)
        for name, one in WANTED.items()
    }


@pytest.mark.parametrize(
    ("factors", "worst"),
    [
        ({"loss": 1.0009, "a": 1.04}, None),
        ({"loss": 1.0011, "a": 1.04}, "the loss"),
        ({"a": 0.94}, "a"),
        ({"b": -100.0}, None),  # nothing but rounding beside a
        ({"c": 1.09}, None),  # the parameter's own rounding
        ({"c": 1.11}, "c"),
        ({"loss": float("nan")}, "the loss"),
    ],
)
def test_one_step(factors: dict[str, float], worst: str | None) -> None:
    reason = Agreement().compare(differing(**factors), WANTED, lambda: WANTED)
    assert reason is None if worst is None else f"in step 1 {worst} differs from eager's by" in str(reason)


def test_every_value_has_to_agree_in_one_step() -> None:
    """Occasional flips of a ReLU are accepted; differences at every step are not."""
    agreement = Agreement()
    for factor in (1.02, 1.03, 1.02):
        assert agreement.compare(differing(a=factor), WANTED, lambda: WANTED) is None
        assert not agreement.is_sure()
    assert agreement.never_agreed() == "in every step a differs from eager's, by 0.02 of it at least"
    assert agreement.compare(differing(a=1.0005), WANTED, lambda: WANTED) is None
    assert agreement.is_sure()
    assert agreement.never_agreed() is None
    assert agreement.compare(differing(a=1.03), WANTED, lambda: WANTED) is None
    assert agreement.is_sure()


@pytest.mark.parametrize(("least", "agrees"), [(1.0059, True), (1.0061, False)])
@pytest.mark.parametrize("crossed", [{}, {"loss": 1.002}, {"b": float("inf")}])
def test_where_rounding_moves_a_value_in_every_step_it_may_come_as_close_as_eagers_twice(
    least: float, agrees: bool, crossed: dict[str, float]
) -> None:
    """Not if the perturbed inputs cross a threshold of the model, which is not rounding."""
    agreement = Agreement()
    for factor, by_rounding in ((1.01, 1.003), (least, 1.02), (1.02, 1.01)):
        moved = differing(a=by_rounding, **crossed)
        assert agreement.compare(differing(a=factor), WANTED, moved.copy) is None
    assert not agreement.is_sure()
    assert (agreement.never_agreed() is None) == (agrees and not crossed)


@pytest.mark.parametrize(("factor", "agrees"), [(1.079, True), (1.081, False)])
@pytest.mark.parametrize("crossed", [{}, {"loss": 1.002}])
def test_one_step_may_be_as_far_off_as_eagers_twice(
    factor: float, agrees: bool, crossed: dict[str, float]
) -> None:
    agreement = Agreement()
    assert agreement.compare(WANTED, WANTED, lambda: differing(a=1.04, **crossed)) is None
    reason = agreement.compare(differing(a=factor), WANTED, lambda: WANTED)
    assert (reason is None) == (agrees and not crossed)
    assert agreement.compare(differing(loss=1.0011), WANTED, lambda: WANTED) is not None


@pytest.mark.parametrize("factors", [{}, {"a": 1.049}, {"a": 1.06}, {"a": 1.081}, {"loss": 1.0011}])
def test_a_single_step_measures_rounding_only_if_it_differs(factors: dict[str, float]) -> None:
    measured = 0

    def moved() -> dict[str, Evidence]:
        nonlocal measured
        measured += 1
        return differing(a=1.04)

    usual = Agreement().compare(differing(**factors), WANTED, moved)
    assert measured == 1
    assert Agreement(single=True).compare(differing(**factors), WANTED, moved) == usual
    assert measured == (1 if factors in ({}, {"a": 1.049}) else 2)
    assert (usual is None) == (factors in ({}, {"a": 1.049}, {"a": 1.06}))


def test_what_rounding_does_lets_no_value_differ_by_more_than_a_percent_in_all_steps_and_ten_in_one() -> None:
    agreement = Agreement()
    for factor in (1.0101, 1.099, 1.03):
        assert agreement.compare(differing(a=factor), WANTED, lambda: differing(a=1.4)) is None
    assert "in every step a differs" in str(agreement.never_agreed())
    assert agreement.compare(differing(a=1.0099), WANTED, lambda: differing(a=1.4)) is None
    assert agreement.never_agreed() is None
    assert agreement.compare(differing(a=1.101), WANTED, lambda: differing(a=1.4)) is not None


def test_the_evidence_is_a_copy_in_float64() -> None:
    value = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    evidence = Evidence.of("output", value, limit=EXACT)
    value.zero_()
    assert evidence.value[0] == 1.0
    assert evidence.value[1].isnan()
    assert evidence.value.dtype == torch.float64


@pytest.mark.parametrize(("found", "agrees"), [([1.0, 2.0], True), ([1.0, 3.0], False), ([2.0, 2.0], False)])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_hides_nothing(odd: float, found: list[float], agrees: bool) -> None:
    wanted = {"a": Evidence.of("gradient", torch.tensor([odd, 1.0, 2.0]), limit=ROUGH)}
    ours = {"a": Evidence.of("gradient", torch.tensor([odd, *found]), limit=ROUGH)}
    assert (Agreement().compare(ours, wanted, lambda: wanted) is None) == agrees
    finite = {"a": Evidence.of("gradient", torch.tensor([0.0, 1.0, 2.0]), limit=ROUGH)}
    assert Agreement().compare(finite, wanted, lambda: wanted) is not None
