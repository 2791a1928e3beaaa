"""Choice of the implementation, reporting of torch's errors, and options rejected before the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import ConfigError
from trainer.matching import trainable
from trainer.optimizers.build import (
    Kind,
    build_optimizer,
    check_options,
    needs_closure,
    option_names,
    resolve_implementation,
    state_bytes,
    torch_optimizers,
)
from trainer.optimizers.groups import Group, GroupSpec, assign_groups
from trainer.optimizers.rules import REFUSED, refuse, refuse_mode
from trainer.optimizers.scratch import SCRATCH

ALL = torch_optimizers()


class Renamed(Optimizer):
    """A user's optimizer with an option that no optimizer in torch has."""

    def __init__(self, params: Any, *, lr: float = 0.1, weights: list[float] | None = None) -> None:
        if isinstance(weights, tuple):
            raise TypeError("weights must be a list")
        super().__init__(params, {"lr": lr, "weights": weights})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                param.sub_(param.grad, alpha=group["lr"])


class Noisy(torch.optim.SGD):
    """A user's optimizer that draws random numbers and forwards options."""

    def __init__(self, params: Any, noise: float = 0.1, **options: Any) -> None:
        super().__init__(params, **options)
        self.noise = noise

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                param.grad += self.noise * torch.randn_like(param)
        super().step(closure)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def groups_of(net: nn.Module, *specs: GroupSpec) -> list[Group]:
    return assign_groups(net, list(trainable(net)), specs)


def test_every_class_that_torch_exports_is_known() -> None:
    assert set(ALL) >= {
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam"),
        *("RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam"),
    }
    assert "Optimizer" not in ALL


def test_only_lbfgs_needs_a_closure() -> None:
    every = {**ALL, **SCRATCH, "own": Renamed}
    assert [name for name, cls in every.items() if needs_closure(cls)] == ["LBFGS"]
    assert needs_closure(torch.optim.LBFGS(model().parameters()))


@pytest.mark.parametrize(
    ("cls", "options", "expected"),
    [
        (torch.optim.SGD, {}, {"fused": True, "foreach": False}),
        (torch.optim.Adam, {"fused": None, "foreach": None}, {"fused": True, "foreach": False}),
        (torch.optim.AdamW, {"fused": False}, {"fused": False, "foreach": True}),
        (torch.optim.AdamW, {"foreach": True}, {"fused": False, "foreach": True}),
        (torch.optim.AdamW, {"foreach": False}, {"fused": True, "foreach": False}),
        (torch.optim.AdamW, {"fused": False, "foreach": False}, {"fused": False, "foreach": False}),
        (torch.optim.RMSprop, {}, {"foreach": True}),
        (torch.optim.RMSprop, {"foreach": False}, {"foreach": False}),
        (torch.optim.Muon, {}, {}),
        (torch.optim.LBFGS, {}, {}),
        (SCRATCH["scratch.adam"], {}, {}),
    ],
)
def test_what_the_user_left_open_is_chosen_fastest_first(
    cls: type[Optimizer], options: dict[str, Any], expected: dict[str, bool]
) -> None:
    assert resolve_implementation(cls, options) == expected


def test_what_torch_does_not_accept_is_not_chosen() -> None:
    # torch has no fused kernel for complex numbers.
    assert not resolve_implementation(torch.optim.Adam, {}, [Kind(dtype=torch.complex64)])["fused"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "Rprop"])
def test_all_implementations_are_one_rule(name: str) -> None:
    def trained(**implementation: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = model()
        optimizer = build_optimizer(ALL[name], net, groups_of(net), {"lr": 0.01, **implementation})
        for _ in range(20):
            optimizer.zero_grad()
            net(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()
        return [p.detach() for p in net.parameters()]

    known = resolve_implementation(ALL[name], {})
    plain = trained(**dict.fromkeys(known, False))
    for switch in known:
        torch.testing.assert_close(trained(**{**dict.fromkeys(known, False), switch: True}), plain)


def test_groups_and_options_reach_torch_with_lists_as_tuples() -> None:
    net = model()
    groups = groups_of(net, GroupSpec({"name": "*.bias"}, None, {"weight_decay": 0.0, "betas": [0.5, 0.6]}))
    optimizer = build_optimizer(torch.optim.AdamW, net, groups, {"lr": 0.5, "betas": [0.8, 0.9]})
    biases, rest = optimizer.param_groups
    assert [id(p) for p in biases["params"]] == [id(net[0].bias), id(net[1].bias)]
    assert (biases["lr"], biases["weight_decay"], biases["betas"]) == (0.5, 0.0, (0.5, 0.6))
    assert (rest["lr"], rest["weight_decay"], rest["betas"]) == (0.5, 0.01, (0.8, 0.9))
    assert (rest["fused"], rest["foreach"]) == (True, False)


def test_a_users_class_that_asks_for_a_list_gets_one() -> None:
    net = model()
    optimizer = build_optimizer(Renamed, net, groups_of(net), {"weights": [1.0]})
    assert optimizer.param_groups[0]["weights"] == [1.0]


def test_a_users_class_may_pass_options_on() -> None:
    assert option_names(Noisy)[:3] == ["noise", "lr", "momentum"]
    assert option_names(Renamed) == ["lr", "weights"]
    assert resolve_implementation(Noisy, {}) == {"fused": True, "foreach": False}
    net = model()
    groups = groups_of(net, GroupSpec({"name": "*.bias"}, None, {"lr": 0.5}))
    optimizer = build_optimizer(Noisy, net, groups, {"noise": 0.0, "momentum": 0.9})
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.5, 0.9), (1e-3, 0.9)]
    with pytest.raises(ConfigError, match="does not keep it per group"):
        build_optimizer(Noisy, net, groups_of(net, GroupSpec({"ndim": 1}, None, {"noise": 0.5})), {})
    with pytest.raises(ConfigError, match="unknown option of Noisy 'nose'"):
        check_options(Noisy, {"nose": 1.0})


def test_trying_a_class_out_draws_no_random_numbers() -> None:
    net = model()
    before = torch.get_rng_state()
    build_optimizer(Noisy, net, groups_of(net), {})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("SGD", {"lr": -1.0}, "lr"),
        ("SGD", {"lr": 0.1, "nesterov": True}, "nesterov"),
        ("SGD", {"momentum": -0.5}, "momentum"),
        ("Adam", {"lr": 0.1, "betas": [0.9, 1.5]}, "betas"),
        ("Adam", {"eps": -1.0}, "eps"),
        ("AdamW", {"weight_decay": -1.0}, "weight_decay"),
        ("Adafactor", {"d": 0.5}, "d"),
        ("Muon", {"adjust_lr_fn": "none"}, "adjust_lr_fn"),
        ("LBFGS", {"line_search_fn": "golden"}, "line_search_fn"),
        ("RMSprop", {"alpha": -1.0}, "alpha"),
        ("Adam", {"fused": True, "foreach": True}, "fused"),
    ],
)
def test_torchs_own_refusals_are_told_with_the_option_to_blame(
    name: str, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(ALL[name], options)
    problem = caught.value.problems[0]
    assert problem.key == key
    assert problem.what.removeprefix(f"{name}: ") == str(caught.value.__cause__)  # whatever torch's words are
    assert f"optlab show optimizer {name}" in problem.fix


def test_an_option_that_is_not_there_gives_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'momentum'\?") as caught:
        check_options(ALL["SGD"], {"momentun": 0.9})
    assert caught.value.problems[0].key == "momentun"


def test_good_options_pass_for_every_class() -> None:
    for name, cls in {**ALL, **SCRATCH}.items():
        if name not in REFUSED:
            check_options(cls, {"lr": 0.1})


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"lr": -1.0}, "groups.1.lr", "SGD: "),
        ({"learning_rate": 1.0}, "groups.1.learning_rate", "unknown option of SGD"),
        ({"fused": True}, "groups.1.fused", "chosen for the whole optimizer"),
        ({"momentum": 0.0}, "groups.1.momentum", "SGD: "),
    ],
)
def test_a_groups_options_are_checked_too(options: dict[str, Any], key: str, words: str) -> None:
    net = model()
    groups = groups_of(net, GroupSpec({"name": "0.bias"}), GroupSpec({"name": "1.bias"}, None, options))
    with pytest.raises(ConfigError) as caught:
        build_optimizer(torch.optim.SGD, net, groups, {"momentum": 0.9, "nesterov": True})
    assert caught.value.problems[0].key == key
    assert words in str(caught.value)


def test_adagrads_initial_value_is_no_groups_option() -> None:
    """torch reads it from the optimizer only; this test fails if torch starts to use the group's value."""
    parameters = [{"params": [nn.Parameter(torch.ones(1))], "initial_accumulator_value": 0.5}]
    optimizer = torch.optim.Adagrad(parameters)
    assert optimizer.state[parameters[0]["params"][0]]["sum"].item() == 0.0
    net = model()
    groups = groups_of(net, GroupSpec({"name": "*.bias"}, None, {"initial_accumulator_value": 0.5}))
    with pytest.raises(ConfigError, match="would ignore"):
        build_optimizer(torch.optim.Adagrad, net, groups, {})


def test_state_bytes_looks_into_lists() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.LBFGS([weight], max_iter=4, lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    history = optimizer.state[weight]["old_dirs"]
    assert len(history) > 0
    assert state_bytes([optimizer]) >= len(history) * 2 * 4 * 4  # directions and steps, four float32 each
    assert state_bytes([optimizer, optimizer]) == 2 * state_bytes([optimizer])


def refused(
    cls: type[Optimizer], options: dict[str, Any], *, specs: Sequence[GroupSpec] = (), **more: Any
) -> ConfigError:
    net = model()
    groups = groups_of(net, *specs)
    with pytest.raises(ConfigError) as caught:
        refuse(cls, options, groups, trainable(net), **{"device_type": "cpu", **more})
    return caught.value


@pytest.mark.parametrize(
    ("name", "options", "more", "key", "words"),
    [
        ("SparseAdam", {}, {}, "name", "dense"),
        ("SGD", {"differentiable": True}, {}, "differentiable", "in place"),
        ("Adam", {"capturable": True}, {}, "capturable", "CUDA graphs"),
        ("Muon", {}, {}, "match", "0.bias [3], 1.bias [2]"),
        ("LBFGS", {}, {"specs": [GroupSpec({"name": "*.bias"})]}, "groups", "no parameter groups"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    name: str, options: dict[str, Any], more: dict[str, Any], key: str, words: str
) -> None:
    error = refused(ALL[name], options, **more)
    assert [problem.key for problem in error.problems] == [key]
    assert words in str(error)


@pytest.mark.parametrize(
    ("mode", "more", "words"),
    [
        ("closure", {"uses_scaler": True}, "float16"),
        ("gradients_and_closure", {"alone": False}, "must be the only optimizer"),
        ("create_graph", {"uses_scaler": True}, "float16"),
        ("create_graph", {"zero_grad": False}, "graphs of all steps"),
    ],
)
def test_what_a_step_mode_rules_out(mode: Any, more: dict[str, bool], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        refuse_mode("Some", mode, **more)
    refuse_mode("Some", "plain", **more)
    refuse_mode("Some", mode)


def test_reasons_come_together() -> None:
    error = refused(torch.optim.LBFGS, {"differentiable": True}, specs=[GroupSpec({"ndim": 1})])
    assert len(error.problems) == 2


def test_what_can_work_is_not_refused() -> None:
    net = model()
    everything = trainable(net)
    matrices = {name: value for name, value in everything.items() if value.ndim == 2}
    refuse(torch.optim.Muon, {}, groups_of(net), matrices, device_type="cpu")
    refuse(torch.optim.Adam, {"capturable": True}, groups_of(net), everything, device_type="cuda")
    refuse(torch.optim.LBFGS, {}, groups_of(net), everything, device_type="cpu")
    refuse(torch.optim.SGD, {}, groups_of(net), everything, device_type="cuda")


def test_the_reasons_are_torchs_own_limits() -> None:
    """Rejected combinations fail in torch as well; this test fails if torch starts to support them."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with pytest.raises(RuntimeError):
        torch.optim.SparseAdam([weight]).step()
    with pytest.raises(ValueError, match=r"."):
        torch.optim.Muon([weight])
    with pytest.raises(ValueError, match=r"."):
        torch.optim.LBFGS([{"params": [weight]}, {"params": [nn.Parameter(torch.ones(1))]}])
