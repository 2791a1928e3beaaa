"""The contract of every optimizer: it learns, is deterministic, resumes and uses its options."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from sampling import one_in
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optimizers.build import (
    NOT_PER_GROUP,
    Kind,
    build_optimizer,
    needs_closure,
    option_names,
    resolve_implementation,
    state_bytes,
    torch_optimizers,
)
from trainer.optimizers.groups import GroupSpec, assign_groups
from trainer.optimizers.rules import REFUSED
from trainer.optimizers.scratch import SCRATCH

OPTIMIZERS = {name: cls for name, cls in {**torch_optimizers(), **SCRATCH}.items() if name not in REFUSED}

# A learning rate at which each learns the small problem within its steps, where its default is no such.
LEARNS = {
    "ASGD": {"lr": 0.5},
    "Adadelta": {"lr": 5.0},
    "Adagrad": {"lr": 0.1},
    "Adafactor": {"lr": 0.1},
    "LBFGS": {"lr": 0.1, "max_iter": 5},
    "RAdam": {"lr": 0.1},
    "SGD": {"lr": 0.5},
    "scratch.adadelta": {"lr": 5.0},
    "scratch.adagrad": {"lr": 0.1},
    "scratch.momentum": {"lr": 0.1},
    "scratch.nesterov": {"lr": 0.1},
    "scratch.sgd": {"lr": 0.5},
}
ADAM_LIKE = {"lr": 0.02}

# Another value for every option, and what else must be set for it to matter.
CHANGED: dict[str, Any] = {
    "adjust_lr_fn": "match_rms_adamw",
    "alpha": 0.5,
    "amsgrad": True,
    "beta2_decay": -0.3,
    "betas": [0.5, 0.9],
    "centered": True,
    "d": 5.0,
    "dampening": 0.3,
    "decoupled_weight_decay": True,
    "eps": 1e-2,
    "eps_inside_root": True,
    "etas": [0.3, 1.5],
    "history_size": 1,
    "initial_accumulator_value": 0.5,
    "lambd": 0.1,
    "line_search_fn": "strong_wolfe",
    "lr": 0.007,
    "lr_decay": 0.5,
    "max_eval": 2,
    "max_iter": 3,
    "maximize": True,
    "momentum": 0.5,
    "momentum_decay": 0.5,
    "nesterov": True,
    "ns_coefficients": [3.0, -4.0, 2.0],
    "ns_steps": 2,
    "rho": 0.5,
    "step_sizes": [1e-3, 0.02],
    "textbook": True,
    "tolerance_change": 0.5,
    "tolerance_grad": 0.5,
    "weight_decay": 0.3,
}
CHANGED_OF = {("Adafactor", "eps"): [1e-2, 1e-1], ("Muon", "nesterov"): False, ("Muon", "eps"): 1.0}
NEEDED = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.3},
    "textbook": {"lr": 0.3},
}
NO_NEW_NUMBERS = {
    "foreach": "another implementation of the same rule (compared in test_optimizer_build)",
    "fused": "another implementation of the same rule (compared in test_optimizer_build)",
    "capturable": "for CUDA graphs; refused on the CPU",
    "differentiable": "refused: it updates leaves in place",
}
ONLY_IN_STATE = {("ASGD", "t0"): "when averaging starts; the average lies in the state, the weights walk on"}


class Problem:
    """Ten noisy batches of a small classification task, and a small network for it."""

    def __init__(self, *, matrices_only: bool) -> None:
        draw = torch.Generator().manual_seed(0)
        teacher = torch.randn(4, 3, generator=draw)
        self.images = torch.randn(10, 16, 4, generator=draw)
        self.targets = (self.images @ teacher).argmax(-1)
        self.model = nn.Sequential(
            nn.Linear(4, 8, bias=not matrices_only), nn.Tanh(), nn.Linear(8, 3, bias=not matrices_only)
        )
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, std=0.5, generator=draw)

    def loss(self, step: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.images[step % 10]), self.targets[step % 10])

    def train(self, optimizer: Optimizer, steps: range) -> None:
        for step in steps:

            def closure(step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = self.loss(step)
                loss.backward()
                return loss

            if needs_closure(optimizer):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()

    def mean_loss(self) -> float:
        with torch.no_grad():
            return sum(self.loss(step).item() for step in range(10)) / 10

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def prepared(
    name: str, options: Mapping[str, Any] = {}, group: Mapping[str, Any] | None = None
) -> tuple[Problem, Optimizer]:
    cls = OPTIMIZERS[name]
    problem = Problem(matrices_only=cls is torch.optim.Muon)
    specs = [] if group is None else [GroupSpec({"name": "*"}, "all", group)]
    names = [name for name, _ in problem.model.named_parameters()]
    groups = assign_groups(problem.model, names, specs)
    return problem, build_optimizer(cls, problem.model, groups, options)


def trained(name: str, options: Mapping[str, Any] = {}, steps: int = 12, **more: Any) -> list[Tensor]:
    problem, optimizer = prepared(name, options, **more)
    problem.train(optimizer, range(steps))
    return problem.weights()


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def settings(name: str) -> dict[str, Any]:
    return LEARNS.get(name, ADAM_LIKE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learns(name: str) -> None:
    problem, optimizer = prepared(name, settings(name))
    before = problem.mean_loss()
    problem.train(optimizer, range(60))
    assert problem.mean_loss() < 0.5 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_repeats_itself_bit_for_bit(name: str) -> None:
    assert same(trained(name, settings(name)), trained(name, settings(name)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_from_its_saved_state_bit_for_bit(name: str) -> None:
    options = settings(name)
    problem, optimizer = prepared(name, options)
    problem.train(optimizer, range(7))
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    later, fresh = prepared(name, options)
    later.model.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    later.train(fresh, range(7, 12))
    assert same(later.weights(), trained(name, options, steps=12))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_is_the_class_used_by_hand(name: str) -> None:
    """Bit-identical results with the same implementation."""
    cls = OPTIMIZERS[name]
    options = settings(name)
    problem = Problem(matrices_only=cls is torch.optim.Muon)
    chosen = resolve_implementation(cls, options)
    by_hand = cls(problem.model.parameters(), **options, **chosen)
    problem.train(by_hand, range(12))
    assert same(problem.weights(), trained(name, options))


def options_of(keep: Callable[[str, str], bool]) -> list[tuple[str, str]]:
    return [
        (name, option)
        for name, cls in OPTIMIZERS.items()
        for option in option_names(cls)
        if keep(name, option)
    ]


def changed(name: str, option: str) -> tuple[dict[str, Any], Any]:
    """Return further settings for training, and the alternative value."""
    if (name, option) in ONLY_IN_STATE:
        return {}, 2.0
    cls = OPTIMIZERS[name]
    needed = {key: value for key, value in NEEDED.get(option, {}).items() if key in option_names(cls)}
    return needed, CHANGED_OF.get((name, option), CHANGED[option])


@pytest.mark.parametrize(
    ("name", "option"),
    one_in(
        3,
        options_of(lambda name, option: option not in NO_NEW_NUMBERS and (name, option) not in ONLY_IN_STATE),
    ),
)
def test_every_option_changes_the_numbers(name: str, option: str) -> None:
    needed, value = changed(name, option)
    assert not same(trained(name, needed, 16), trained(name, {**needed, option: value}, 16))


@pytest.mark.parametrize(("name", "option"), ONLY_IN_STATE)
def test_some_options_change_the_state_alone(name: str, option: str) -> None:
    def state(options: Mapping[str, Any]) -> list[Tensor]:
        problem, optimizer = prepared(name, options)
        problem.train(optimizer, range(12))
        entries = (optimizer.state[parameter] for parameter in problem.model.parameters())
        return [tensor for entry in entries for tensor in entry.values()]

    needed, value = changed(name, option)
    assert same(trained(name, needed), trained(name, {**needed, option: value}))
    assert not same(state(needed), state({**needed, option: value}))


@pytest.mark.parametrize(
    ("name", "option"),
    one_in(
        4,
        options_of(
            lambda name, option: (
                name != "LBFGS"  # it has no groups (rules.refuse)
                and option not in NO_NEW_NUMBERS
                and option not in NOT_PER_GROUP
                and (name, option) not in ONLY_IN_STATE
            )
        ),
    ),
)
def test_every_option_of_a_group_is_as_good_as_the_optimizers(name: str, option: str) -> None:
    needed, value = changed(name, option)
    of_group = trained(name, needed, 16, group={option: value})
    assert same(of_group, trained(name, {**needed, option: value}, 16))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_bytes_counts_the_moments(name: str) -> None:
    problem, optimizer = prepared(name, settings(name))
    assert (
        state_bytes([optimizer]) == 0 or name == "Adagrad"
    )  # torch's Adagrad fills its sums when it is made
    problem.train(optimizer, range(2))
    weights = sum(parameter.numel() * 4 for parameter in problem.model.parameters())
    counted = state_bytes([optimizer])
    if name in ("SGD", "scratch.sgd"):
        assert counted == 0
    elif name == "Adafactor":
        assert 0 < counted < weights  # rows and columns, not matrices: what it is for
    elif name in ("scratch.adam", "scratch.adamw"):
        assert counted == 2 * weights
    else:
        assert counted >= weights


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_gpu_the_fastest_is_chosen_and_the_rule_is_the_same(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    cls = OPTIMIZERS[name]
    chosen = resolve_implementation(cls, settings(name), [Kind(torch.device("cuda"))])
    assert sum(chosen.values()) == bool(chosen), "torch has no fast implementation of a known switch"
    problem = Problem(matrices_only=cls is torch.optim.Muon)
    problem.model.cuda()
    problem.images, problem.targets = problem.images.cuda(), problem.targets.cuda()
    groups = assign_groups(problem.model, [n for n, _ in problem.model.named_parameters()], [])
    problem.train(build_optimizer(cls, problem.model, groups, settings(name)), range(5))
    # Muon orthogonalises in bfloat16, which the two machines round differently.
    tolerance = 3e-2 if name == "Muon" else 1e-3
    for ours, cpu in zip(problem.weights(), trained(name, settings(name), 5), strict=True):
        torch.testing.assert_close(ours.cpu(), cpu, rtol=tolerance, atol=tolerance)
