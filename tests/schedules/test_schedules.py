"""Every schedule agrees with a hand-written torch loop and resumes exactly; invalid options are rejected."""

from __future__ import annotations

import inspect
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torchs
from torch.optim.lr_scheduler import LRScheduler

from trainer.errors import ConfigError
from trainer.schedules import (
    DERIVED,
    OWN_SCHEDULERS,
    SCHEDULES,
    Schedule,
    ScheduleSpec,
    build_schedule,
    derived_options,
    torch_schedulers,
)

LENGTH = 12
METRICS = [1.0, 1.0, 0.5, 0.499, 0.6, 0.7, 0.7, 0.4, 0.41, 0.42, 0.43, 0.44, 0.45]


def halving(t: int) -> float:
    return 1 / (1 + t)


class Table:
    """A callable with state, whose attributes torch saves."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: int) -> float:
        self.calls += 1
        return 0.9**self.calls


# What each is tried with: enough to show itself within LENGTH intervals.
OPTIONS: dict[str, dict[str, Any]] = {
    "ConstantLR": {"total_iters": 4},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": halving},
    "LinearLR": {"total_iters": 6},
    "MultiStepLR": {"milestones": [3, 3, 7]},
    "MultiplicativeLR": {"lr_lambda": halving},
    "OneCycleLR": {},
    "PolynomialLR": {"total_iters": 8, "power": 2.0},
    "ReduceLROnPlateau": {"patience": 1},
    "StepLR": {"step_size": 3},
    "inverse_time": {"decay": 0.5},
    "piecewise": {"table": {0: 0.3, 5: 0.03}},
}

CASES: dict[str, list[ScheduleSpec]] = {
    **{name: [ScheduleSpec(SCHEDULES[name], name, options)] for name, options in OPTIONS.items()},
    **{
        f"warmup+{name}": [ScheduleSpec(SCHEDULES[name], name, options, warmup=3)]
        for name, options in OPTIONS.items()
        if name not in ("CyclicLR", "OneCycleLR", "ReduceLROnPlateau")
    },
    "list": [
        ScheduleSpec(torchs.MultiStepLR, "MultiStepLR", {"milestones": [2]}, until=4, warmup=1),
        ScheduleSpec(torchs.CosineAnnealingWarmRestarts, "CosineAnnealingWarmRestarts", {"T_0": 2}, until=8),
        ScheduleSpec(OWN_SCHEDULERS["inverse_time"], "inverse_time", {"decay": 1.0}, warmup=2),
    ],
    "object": [ScheduleSpec(torchs.LambdaLR, "LambdaLR", {"lr_lambda": Table()})],
    "built-in": [ScheduleSpec(torchs.LambdaLR, "LambdaLR", {"lr_lambda": math.exp2})],
}


def sgd(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=0.1)


def grouped(parameters: list[nn.Parameter]) -> Optimizer:
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))]


def settings(optimizer: Optimizer) -> list[tuple[Any, ...]]:
    """What a schedule may change, of every group: lr, momentum, betas."""
    return [(g["lr"], g.get("momentum"), g.get("betas")) for g in optimizer.param_groups]


def update(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = parameter.detach().clone()
    optimizer.step()


def run(optimizer: Optimizer, schedule: Schedule, intervals: range) -> list[list[tuple[Any, ...]]]:
    """A minimal training loop: update, step, observe; return the settings of every update."""
    seen = []
    for interval in intervals:
        seen.append(settings(optimizer))
        update(optimizer)
        schedule.step()
        if schedule.monitor is not None:
            schedule.observe(METRICS[interval])
    return seen


def run_by_hand(optimizer: Optimizer, scheduler: LRScheduler) -> list[list[tuple[Any, ...]]]:
    seen = []
    for interval in range(LENGTH):
        seen.append(settings(optimizer))
        update(optimizer)
        if isinstance(scheduler, torchs.ReduceLROnPlateau):
            scheduler.step(METRICS[interval])
        else:
            scheduler.step()
    return seen


def lrs(name: str, options: Mapping[str, Any], **more: Any) -> list[float]:
    optimizer = sgd(parameters())
    schedule = build_schedule(
        optimizer, [ScheduleSpec(SCHEDULES[name], name, options, **more)], length=LENGTH
    )
    return [groups[0][0] for groups in run(optimizer, schedule, range(LENGTH))]


@pytest.fixture(autouse=True)
def _no_warning_is_overlooked() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_schedule_that_torch_exports_is_tried_here() -> None:
    assert set(OPTIONS) == set(SCHEDULES)
    assert set(torchs.__all__) - set(SCHEDULES) == {"LRScheduler", "SequentialLR", "ChainedScheduler"}
    assert set(DERIVED) <= set(SCHEDULES)


@pytest.mark.parametrize("make", [sgd, adam, grouped])
@pytest.mark.parametrize("name", torch_schedulers())
def test_is_torchs_own_used_by_hand(name: str, make: Callable[..., Optimizer]) -> None:
    reference = make(parameters())
    options = dict(OPTIONS[name])
    if name == "CosineAnnealingLR":
        options["T_max"] = LENGTH
    if name == "OneCycleLR":
        options["total_steps"] = LENGTH
    if name in ("CyclicLR", "OneCycleLR"):
        options["max_lr"] = [group["lr"] for group in reference.param_groups]
    expected = run_by_hand(reference, SCHEDULES[name](reference, **options))

    optimizer = make(parameters())
    schedule = build_schedule(optimizer, [ScheduleSpec(SCHEDULES[name], name, OPTIONS[name])], length=LENGTH)
    assert run(optimizer, schedule, range(LENGTH)) == expected
    assert expected[0] != expected[-1], "within the length nothing happens: the test shows nothing"


def test_a_list_is_torchs_sequential_by_hand() -> None:
    reference = sgd(parameters())
    by_hand = torchs.SequentialLR(
        reference,
        [
            torchs.StepLR(reference, 2),
            torchs.PolynomialLR(reference, 4),
            torchs.ExponentialLR(reference, 0.8),
        ],
        [4, 9],
    )
    optimizer = sgd(parameters())
    specs = [
        ScheduleSpec(torchs.StepLR, "StepLR", {"step_size": 2}, until=4),
        ScheduleSpec(torchs.PolynomialLR, "PolynomialLR", {"total_iters": 4}, until=9),
        ScheduleSpec(torchs.ExponentialLR, "ExponentialLR", {"gamma": 0.8}),
    ]
    schedule = build_schedule(optimizer, specs, length=LENGTH)
    assert run(optimizer, schedule, range(LENGTH)) == run_by_hand(reference, by_hand)


def test_warmup_rises_in_equal_parts_and_reaches_the_lr_when_the_main_one_starts() -> None:
    found = lrs("CosineAnnealingLR", {}, warmup=4)
    cosine = [0.05 * (1 + math.cos(math.pi * t / (LENGTH - 4))) for t in range(LENGTH - 4)]
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.08, *cosine])


def test_after_warmup_factors_start_from_the_lr_too() -> None:
    def half(t: int) -> float:
        return 0.5

    found = lrs("MultiplicativeLR", {"lr_lambda": half}, warmup=2)
    assert found == pytest.approx([0.1 / 3, 0.2 / 3, *(0.1 * 0.5**t for t in range(LENGTH - 2))])


def test_inverse_time_has_its_closed_form() -> None:
    assert lrs("inverse_time", {"decay": 0.3}) == [0.1 / (1 + 0.3 * t) for t in range(LENGTH)]


def test_a_table_says_the_lr_from_each_interval_on() -> None:
    found = lrs("piecewise", {"table": {8: 0.001, 3: 0.5}})
    assert found == [0.1] * 3 + [0.5] * 5 + [0.001] * 4


@pytest.mark.parametrize("cut", [0, *(pytest.param(cut, marks=pytest.mark.nightly) for cut in (1, 3, 8)), 5])
@pytest.mark.parametrize("make", [sgd, pytest.param(adam, marks=pytest.mark.nightly), grouped])
@pytest.mark.parametrize("case", CASES)
def test_goes_on_from_its_saved_state_bit_for_bit(
    case: str, make: Callable[..., Optimizer], cut: int
) -> None:
    if make is grouped and "piecewise" in case:
        with pytest.raises(ConfigError, match="different learning rates"):
            build_schedule(grouped(parameters()), CASES[case], length=LENGTH)
        return

    def fresh() -> tuple[list[nn.Parameter], Optimizer, Schedule]:
        weights = parameters()
        optimizer = make(weights)
        for spec in CASES[case]:
            if isinstance(table := spec.options.get("lr_lambda"), Table):
                table.calls = 0
        return weights, optimizer, build_schedule(optimizer, CASES[case], length=LENGTH)

    weights, optimizer, schedule = fresh()
    whole = run(optimizer, schedule, range(LENGTH))

    first_weights, first_optimizer, first = fresh()
    begun = run(first_optimizer, first, range(cut))
    file = io.BytesIO()
    torch.save([first_weights, first_optimizer.state_dict(), first.state_dict()], file)
    file.seek(0)
    saved_weights, saved_optimizer, saved_schedule = torch.load(file, weights_only=True)

    later_weights, later_optimizer, later = fresh()
    for weight, saved in zip(later_weights, saved_weights, strict=True):
        weight.data.copy_(saved)
    later_optimizer.load_state_dict(saved_optimizer)
    later.load_state_dict(saved_schedule)
    assert settings(later_optimizer) == whole[cut]
    assert begun + run(later_optimizer, later, range(cut, LENGTH)) == whole
    assert all(map(torch.equal, later_weights, weights))


def test_a_state_is_a_snapshot() -> None:
    optimizer = sgd(parameters())
    schedule = build_schedule(optimizer, CASES["list"], length=LENGTH)
    state = schedule.state_dict()
    before = repr(state)
    run(optimizer, schedule, range(LENGTH))
    schedule.load_state_dict(state)
    run(optimizer, schedule, range(5))
    assert repr(state) == before


# Another value for every option of every schedule (and what else is set in both runs for it to matter).
CHANGED: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("ConstantLR", "factor"): (0.5, {}),
    ("ConstantLR", "total_iters"): (7, {}),
    ("CosineAnnealingLR", "T_max"): (5, {}),
    ("CosineAnnealingLR", "eta_min"): (0.01, {}),
    ("CosineAnnealingWarmRestarts", "T_0"): (5, {}),
    ("CosineAnnealingWarmRestarts", "T_mult"): (1, {}),
    ("CosineAnnealingWarmRestarts", "eta_min"): (0.01, {}),
    ("CyclicLR", "base_lr"): (0.02, {}),
    ("CyclicLR", "base_momentum"): (0.5, {}),
    ("CyclicLR", "cycle_momentum"): (False, {}),
    ("CyclicLR", "gamma"): (0.5, {"mode": "exp_range"}),
    ("CyclicLR", "max_lr"): (0.5, {}),
    ("CyclicLR", "max_momentum"): (0.99, {}),
    ("CyclicLR", "mode"): ("triangular2", {}),
    ("CyclicLR", "scale_fn"): (halving, {}),
    ("CyclicLR", "scale_mode"): ("iterations", {"scale_fn": halving}),
    ("CyclicLR", "step_size_down"): (5, {}),
    ("CyclicLR", "step_size_up"): (2, {}),
    ("ExponentialLR", "gamma"): (0.5, {}),
    ("LambdaLR", "lr_lambda"): (math.exp2, {}),
    ("LinearLR", "end_factor"): (0.5, {}),
    ("LinearLR", "start_factor"): (0.5, {}),
    ("LinearLR", "total_iters"): (3, {}),
    ("MultiStepLR", "gamma"): (0.5, {}),
    ("MultiStepLR", "milestones"): ([5], {}),
    ("MultiplicativeLR", "lr_lambda"): (math.exp2, {}),
    ("OneCycleLR", "anneal_strategy"): ("linear", {}),
    ("OneCycleLR", "base_momentum"): (0.5, {}),
    ("OneCycleLR", "cycle_momentum"): (False, {}),
    ("OneCycleLR", "div_factor"): (5.0, {}),
    ("OneCycleLR", "epochs"): (7, {"steps_per_epoch": 3}),
    ("OneCycleLR", "final_div_factor"): (10.0, {}),
    ("OneCycleLR", "max_lr"): (0.5, {}),
    ("OneCycleLR", "max_momentum"): (0.99, {}),
    ("OneCycleLR", "pct_start"): (0.6, {}),
    ("OneCycleLR", "steps_per_epoch"): (7, {"epochs": 3}),
    ("OneCycleLR", "three_phase"): (True, {}),
    ("OneCycleLR", "total_steps"): (20, {}),
    ("PolynomialLR", "power"): (1.0, {}),
    ("PolynomialLR", "total_iters"): (5, {}),
    ("ReduceLROnPlateau", "cooldown"): (3, {"patience": 0}),
    ("ReduceLROnPlateau", "eps"): (1.0, {}),
    ("ReduceLROnPlateau", "factor"): (0.5, {}),
    ("ReduceLROnPlateau", "min_lr"): (0.05, {}),
    ("ReduceLROnPlateau", "mode"): ("max", {}),
    ("ReduceLROnPlateau", "patience"): (3, {}),
    ("ReduceLROnPlateau", "threshold"): (0.5, {}),
    ("ReduceLROnPlateau", "threshold_mode"): ("abs", {"threshold": 0.15}),
    ("StepLR", "gamma"): (0.5, {}),
    ("StepLR", "step_size"): (2, {}),
    ("inverse_time", "decay"): (2.0, {}),
    ("piecewise", "table"): ({0: 0.2}, {}),
}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name, cls in SCHEDULES.items()
        for option in inspect.signature(cls).parameters
        if option not in ("optimizer", "last_epoch")  # given by optlab; torch's way to resume, not ours
    ],
)
def test_every_option_changes_the_numbers(name: str, option: str) -> None:
    value, besides = CHANGED[name, option]

    def numbers(options: Mapping[str, Any]) -> list[list[tuple[Any, ...]]]:
        optimizer = sgd(parameters())
        schedule = build_schedule(optimizer, [ScheduleSpec(SCHEDULES[name], name, options)], length=LENGTH)
        return run(optimizer, schedule, range(LENGTH))

    base = {**OPTIONS[name], **besides}
    assert numbers(base) != numbers({**base, option: value})


def test_a_plateau_schedule_follows_its_metric_and_nothing_else() -> None:
    optimizer = sgd(parameters())
    spec = ScheduleSpec(torchs.ReduceLROnPlateau, "ReduceLROnPlateau", {"patience": 0}, monitor="val_loss")
    schedule = build_schedule(optimizer, [spec], length=LENGTH)
    assert schedule.monitor == "val_loss"
    for _ in range(5):
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.1
    schedule.observe(1.0)
    schedule.observe(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_plateau_schedule_without_a_metric_takes_the_default_and_others_have_none() -> None:
    plateau = ScheduleSpec(torchs.ReduceLROnPlateau, "ReduceLROnPlateau", {})
    built = build_schedule(sgd(parameters()), [plateau], length=5, default_monitor="train_loss")
    assert built.monitor == "train_loss"
    step = ScheduleSpec(torchs.StepLR, "StepLR", {"step_size": 1}, interval="step")
    built = build_schedule(sgd(parameters()), [step], length=5)
    assert (built.monitor, built.interval) == (None, "step")


def test_an_update_outside_optimizer_step_is_not_warned_about() -> None:
    schedule = build_schedule(sgd(parameters()), CASES["StepLR"], length=LENGTH)
    schedule.step()  # a compiled step, or a scaler that skipped: torch would warn; warnings are errors here
    schedule.step()


def test_works_with_lbfgs() -> None:
    weights = parameters()
    optimizer = torch.optim.LBFGS(weights, lr=0.5, max_iter=2)
    schedule = build_schedule(optimizer, CASES["StepLR"], length=LENGTH)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(((weight - 1) ** 2).sum() for weight in weights)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_lengths_come_from_what_is_left_of_the_run() -> None:
    optimizer = grouped(parameters())
    cosine = ScheduleSpec(torchs.CosineAnnealingLR, "CosineAnnealingLR", {"T_max": None})
    assert derived_options(optimizer, cosine, 7) == {"T_max": 7}
    given = ScheduleSpec(torchs.CosineAnnealingLR, "CosineAnnealingLR", {"T_max": 3})
    assert derived_options(optimizer, given, 7) == {}
    one = ScheduleSpec(torchs.OneCycleLR, "OneCycleLR", {})
    assert derived_options(optimizer, one, 7) == {"max_lr": [0.1, 0.02], "total_steps": 7}
    counted = ScheduleSpec(
        torchs.OneCycleLR, "OneCycleLR", {"epochs": 2, "steps_per_epoch": 5, "max_lr": 1.0}
    )
    assert derived_options(optimizer, counted, 7) == {}


def spec(name: str, options: Mapping[str, Any] = {}, **more: Any) -> ScheduleSpec:
    return ScheduleSpec(SCHEDULES[name], name, options, **more)


STEP = {"step_size": 2}


def no_momentum(weights: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(weights, lr=0.1)


def adagrad(weights: list[nn.Parameter]) -> Optimizer:
    return torch.optim.Adagrad(weights, lr=0.1)


@pytest.mark.parametrize(
    ("make", "specs", "length", "key", "words"),
    [
        (adagrad, [spec("OneCycleLR")], 9, "cycle_momentum", "Adagrad has neither momentum nor betas"),
        (adagrad, [spec("CyclicLR", {"base_lr": 0.1})], 9, "cycle_momentum", "neither momentum nor betas"),
        (no_momentum, [spec("OneCycleLR")], 9, "cycle_momentum", "momentum is 0"),
        (sgd, [spec("OneCycleLR", {"total_steps": 5})], 9, "total_steps", "the run after 9"),
        (sgd, [spec("OneCycleLR", {"epochs": 2, "steps_per_epoch": 4})], 9, "total_steps", "the run after 9"),
        (sgd, [spec("OneCycleLR", warmup=2)], 9, "name", "after warm-up"),
        (sgd, [spec("ReduceLROnPlateau", warmup=2)], 9, "name", "follows a metric"),
        (sgd, [spec("StepLR", STEP, until=3), spec("ReduceLROnPlateau")], 9, "1.name", "in a list"),
        (sgd, [spec("CyclicLR", {"base_lr": 0.1}, until=3), spec("StepLR", STEP)], 9, "0.name", "momenta"),
        (sgd, [spec("StepLR", STEP, warmup=9)], 9, "warmup", "run ends after 9 epochs"),
        (sgd, [spec("StepLR", STEP, warmup=-1)], 9, "warmup", "warmup is -1"),
        (sgd, [spec("StepLR", STEP, until=9), spec("StepLR", STEP)], 9, "0.until", "would start at 9"),
        (sgd, [spec("StepLR", STEP), spec("StepLR", STEP)], 9, "0.until", "does not state when"),
        (sgd, [spec("StepLR", STEP, until=3)], 9, "until", "no schedule follows"),
        (
            sgd,
            [spec("StepLR", STEP, until=5), spec("StepLR", STEP, until=4), spec("StepLR", STEP)],
            9,
            "1.until",
            "ends at 4 and starts at 5",
        ),
        (
            sgd,
            [spec("StepLR", STEP, until=5, interval="step"), spec("StepLR", STEP)],
            9,
            "1.interval",
            "counts epochs",
        ),
        (sgd, [spec("StepLR", STEP, monitor="val_loss")], 9, "monitor", "does not use a metric"),
        (
            sgd,
            [spec("ReduceLROnPlateau", monitor="val_accuracy", higher_is_better=True)],
            9,
            "mode",
            "improves",
        ),
        (sgd, [spec("CosineAnnealingLR")], None, "T_max", "length is unknown"),
        (sgd, [spec("StepLR")], 9, "step_size", "StepLR: "),
        (sgd, [spec("StepLR", {"step_size": 0})], 9, "name", "ZeroDivisionError"),
        (
            sgd,
            [spec("StepLR", STEP, until=4), spec("ConstantLR", {"factor": 0.0})],
            12,
            "1.name",
            "at epoch 9",
        ),
        (sgd, [spec("ConstantLR", {"factor": 2.0})], 9, "factor", "ConstantLR: "),
        (sgd, [spec("LambdaLR", {"lr_lambda": lambda t: 2 - t})], 9, "name", "-0.1 at epoch 3"),
        (sgd, [spec("LambdaLR", {"lr_lambda": lambda t: [1.0, 0.5][t]})], 9, "name", "IndexError"),
        (sgd, [spec("inverse_time", {"decay": -1.0})], 9, "decay", "decay is -1.0"),
        (sgd, [spec("piecewise", {"table": {}})], 9, "table", "empty"),
        (sgd, [spec("piecewise", {"table": {3: -0.1}})], 9, "table", "3: -0.1"),
        (grouped, [spec("piecewise", {"table": {3: 0.1}})], 9, "table", "[0.1, 0.02]"),
    ],
)
def test_what_cannot_work_is_told_before_the_run(
    make: Callable[..., Optimizer], specs: list[ScheduleSpec], length: int | None, key: str, words: str
) -> None:
    optimizer = make(parameters())
    before = repr(optimizer.param_groups)
    with pytest.raises(ConfigError) as caught:
        build_schedule(optimizer, specs, length=length)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert words in str(caught.value)
    assert repr(optimizer.param_groups) == before


def test_a_builder_that_makes_something_else_is_told() -> None:
    with pytest.raises(ConfigError, match="returned a int"):
        build_schedule(sgd(parameters()), [ScheduleSpec(lambda optimizer: 3, "mine.py:f", {})], length=5)


def test_trying_a_schedule_out_does_not_call_the_users_own_object() -> None:
    table = Table()
    build_schedule(sgd(parameters()), [spec("LambdaLR", {"lr_lambda": table})], length=LENGTH)
    assert table.calls == 1  # once, when the real schedule is made
