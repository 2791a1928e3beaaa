"""Optimizers that want to be stepped in every way, as users and other packages write them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Closure = Callable[[], Tensor]


class Plain(Optimizer):
    """SGD with momentum, all of whose state is where torch's is."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                p.sub_(group["lr"] * buffer)


class Closing(Plain):
    """Computes its gradients itself and remembers the loss, as AliG."""

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        if closure is None:
            raise RuntimeError("give a closure")
        self.state["global"]["loss"] = closure().item()
        super().step()


class Sharpness(Optimizer):
    """SAM: moves up the gradient that it finds, computes another one there, and steps from where it was."""

    def __init__(
        self, params: Any, base_optimizer: type[Optimizer], rho: float = 0.05, **kwargs: Any
    ) -> None:
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        if closure is None:
            raise RuntimeError("give a closure")
        before = [(p, p.clone()) for group in self.param_groups for p in group["params"]]
        for p, _ in before:
            if p.grad is not None:
                p.add_(0.05 * p.grad)
        closure()
        for p, value in before:
            p.copy_(value)
        self.base_optimizer.step()


class Curvature(Optimizer):
    """Divides by the diagonal of the Hessian, as AdaHessian: needs gradients with a graph."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Closure | None = None) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        signs = [torch.randint_like(p, 2) * 2 - 1 for p in params]
        products = torch.autograd.grad([p.grad for p in params], params, grad_outputs=signs)
        with torch.no_grad():
            for p, product, sign in zip(params, products, signs, strict=True):
                p.sub_(self.param_groups[0]["lr"] * p.grad / ((product * sign).abs() + 1))


class Differentiating(Plain):
    """Differentiates the loss that its closure returns, and evaluates it twice."""

    def step(self, closure: Closure | None = None) -> None:
        assert closure is not None, "give a closure"
        for group in self.param_groups:
            gradients = torch.autograd.grad(closure(), group["params"])
            with torch.no_grad():
                for p, gradient in zip(group["params"], gradients, strict=True):
                    p.sub_(group["lr"] * gradient)
        closure().backward()


class Averaging(Plain):
    """Schedule-free: trains at y between z and their average x, which is to be evaluated."""

    def __init__(self, params: Any, lr: float = 0.3) -> None:
        super().__init__(params, lr, momentum=0.0)
        self.training, self.count = False, 0

    @torch.no_grad()
    def eval(self) -> None:
        for p, state in self.state.items() if self.training else ():
            p.lerp_(state["z"], weight=1 - 1 / 0.9)
        self.training = False

    @torch.no_grad()
    def train(self) -> None:
        for p, state in self.state.items() if not self.training else ():
            p.lerp_(state["z"], weight=1 - 0.9)
        self.training = True

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        if not self.training:
            raise RuntimeError("call train() first")
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, weight=1 / self.count)
                p.sub_(group["lr"] * (1 - 0.9 * (1 - 1 / self.count)) * p.grad)
                z.sub_(group["lr"] * p.grad)


class Slow(Optimizer):
    """Lookahead: every second step, goes back half way to slow weights, which it keeps by itself."""

    def __init__(self, optimizer: Optimizer, k: int = 2, history: int = 3) -> None:
        self.optimizer, self.k, self.count = optimizer, k, 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.recent: deque[int] = deque(maxlen=history)
        self.defaults, self.state = optimizer.defaults, optimizer.state

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        self.optimizer.step(closure)
        self.count += 1
        self.recent.append(self.count)
        if sum(self.recent) % self.k == 0:
            for p, slow in zip((p for g in self.param_groups for p in g["params"]), self.slow, strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)


class Odd(Plain):
    """Keeps a set, a generator, a data type, an object and a count in unusual places."""

    class Helper:
        """Counts."""

        def __init__(self) -> None:
            self.calls = 0

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.random, self.helper, self.callback = random.Random(3), self.Helper(), lambda: None
        self.generator = torch.Generator().manual_seed(1)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        super().step()
        self.helper.calls += 1
        for group in self.param_groups:
            group["seen"] = {*group.get("seen", ()), self.helper.calls}
            for p in group["params"]:
                counts = self.state[p].setdefault("counts", torch.zeros(p.shape, dtype=torch.int8))
                counts += len(group["seen"])
                noise = torch.rand(p.shape, generator=self.generator) + self.random.random()
                p.sub_(1e-3 * noise * counts)


class Forgetful(Plain):
    """Keeps the count that its step size depends on where no checkpoint can reach it."""

    counts: dict[int, int] = {}  # noqa: RUF012

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        count = self.counts[id(self)] = self.counts.get(id(self), 0) + 1
        for group in self.param_groups:
            group["lr"] = 0.1 / count
        super().step()


class Unsteady(Plain):
    """Draws from a generator of its own, whose seed is another one every time."""

    seeds = iter(range(100))

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.draw = torch.Generator().manual_seed(next(self.seeds))

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(torch.rand(p.shape, generator=self.draw))


class Broken(Plain):
    """Fails at every gradient, and does nothing without gradients."""

    def step(self, closure: Closure | None = None) -> None:
        if closure is not None:
            closure()
        for group in self.param_groups:
            assert all(p.grad is None for p in group["params"]), "cannot take gradients"


class Failing(Plain):
    """Fails in its third step."""

    def step(self, closure: Closure | None = None) -> None:
        super().step()
        count = self.state["global"]["count"] = self.state["global"].get("count", 0) + 1
        assert count < 3, "no third step"


def sgd(named_parameters: Any, model: nn.Module, num_data: int, lr: float = 0.1) -> Optimizer:
    """Return SGD: a function that takes names, the model and the number of samples."""
    assert all(model.get_parameter(name) is p for name, p in named_parameters)
    return torch.optim.SGD([p for _, p in named_parameters], lr / num_data)


class Signed(Plain):
    """Uses the sign of the gradient in the groups that say so."""

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"] if group.get("use_sign") else ():
                p.grad.sign_()
        super().step()


class Estimating(Optimizer):
    """Multiplies its rate by an estimate that it keeps in its groups, as Prodigy."""

    def __init__(self, params: Any, lr: float = 1.0, growth: float = 1.5) -> None:
        super().__init__(params, {"lr": lr, "growth": growth, "d": 1e-3, "nesterov": False})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for group in self.param_groups:
            group["d"] *= group["growth"]
            for p in group["params"]:
                p.sub_(group["d"] * group["lr"] * p.grad)
