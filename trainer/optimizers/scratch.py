"""Update rules written out for teaching: what each optimizer does to one parameter.

Each class is its paper's rule in a few lines of plain tensor arithmetic, in the order in which torch computes
it, so that it agrees with its namesake in torch.optim. For speed use torch's: nothing here is fused.

In the equations g is the gradient (plus `weight_decay * w` where that is an L2 penalty), w the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Rule(Optimizer):
    """An optimizer whose `update` says what happens to one parameter."""

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        for name, value in defaults.items():
            for number in value if isinstance(value, tuple) else (value,):
                if not number >= 0:
                    raise ValueError(f"Invalid {name}: {value} (expected at least 0)")
                if name in ("momentum", "alpha", "rho", "betas") and not number < 1:
                    raise ValueError(f"Invalid {name}: {value} (expected at least 0 and below 1)")
        super().__init__(params, defaults)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change `param` in place.

        Args:
            param: the parameter, any shape.
            grad: its gradient, same shape.
            state: this parameter's memory; empty before its first update.
            group: its options (lr ...).
        """
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; the closure, if any, computes the loss first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(param, param.grad, self.state[param], group)
        return loss


def with_l2(grad: Tensor, param: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the gradient of the loss plus `weight_decay / 2 * |w|^2`."""
    return grad.add(param, alpha=group["weight_decay"]) if group["weight_decay"] else grad


class SGD(Rule):
    """Gradient descent: w <- w - lr * g.

    Args:
        lr: learning rate, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.
        textbook: write `w - lr * g`, which rounds twice, where torch rounds once.

    Example:
        >>> optimizer = SGD(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Robbins and Monro, A Stochastic Approximation Method, 1951.
    """

    def __init__(
        self, params: ParamsT, *, lr: float = 1e-3, weight_decay: float = 0.0, textbook: bool = False
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, textbook=textbook)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step down the gradient."""
        grad = with_l2(grad, param, group)
        if group["textbook"]:
            param.copy_(param - group["lr"] * grad)
        else:
            param.sub_(grad, alpha=group["lr"])


class Momentum(Rule):
    """Heavy ball: v <- momentum * v + g, w <- w - lr * v.

    Args:
        lr: learning rate, at least 0.
        momentum: how much of the velocity is kept at each step, from 0 to below 1.
        weight_decay: L2 penalty, added to the gradient, at least 0.

    Example:
        >>> optimizer = Momentum(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    def __init__(
        self, params: ParamsT, *, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step along the running sum of the gradients."""
        velocity = state.setdefault("velocity", torch.zeros_like(param))
        velocity.mul_(group["momentum"]).add_(with_l2(grad, param, group))
        param.sub_(velocity, alpha=group["lr"])


class Nesterov(Rule):
    """Nesterov's momentum: v <- momentum * v + g, w <- w - lr * (g + momentum * v).

    Args:
        lr: learning rate, at least 0.
        momentum: how much of the velocity is kept at each step, from 0 to below 1.
        weight_decay: L2 penalty, added to the gradient, at least 0.

    Example:
        >>> optimizer = Nesterov(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    def __init__(
        self, params: ParamsT, *, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step from where the velocity is about to lead."""
        velocity = state.setdefault("velocity", torch.zeros_like(param))
        grad = with_l2(grad, param, group)
        velocity.mul_(group["momentum"]).add_(grad)
        param.sub_(grad.add(velocity, alpha=group["momentum"]), alpha=group["lr"])


class Adagrad(Rule):
    """A rate per weight: s <- s + g^2, w <- w - lr * g / (sqrt(s) + eps).

    Args:
        lr: learning rate, at least 0.
        eps: keeps the divisor from zero, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.
        eps_inside_root: divide by sqrt(s + eps), as older tutorials have it.

    Example:
        >>> optimizer = Adagrad(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Duchi, Hazan and Singer, Adaptive Subgradient Methods, 2011.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        eps_inside_root: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, eps_inside_root=eps_inside_root)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step by the gradient over the root of all squares so far."""
        grad = with_l2(grad, param, group)
        total = state.setdefault("sum", torch.zeros_like(param)).addcmul_(grad, grad)
        inside = group["eps_inside_root"]
        root = total.add(group["eps"]).sqrt_() if inside else total.sqrt().add_(group["eps"])
        param.addcdiv_(grad, root, value=-group["lr"])


class RMSprop(Rule):
    """Adagrad that forgets: s <- alpha * s + (1 - alpha) * g^2, w <- w - lr * g / (sqrt(s) + eps).

    Args:
        lr: learning rate, at least 0.
        alpha: how much of the mean square is kept at each step, from 0 to below 1.
        eps: keeps the divisor from zero, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.
        centered: divide by the standard deviation: s less the squared mean gradient.

    Example:
        >>> optimizer = RMSprop(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Tieleman and Hinton, Lecture 6.5, Coursera, 2012; centered: Graves, arXiv:1308.0850.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, centered=centered)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step by the gradient over its running root mean square."""
        grad, alpha = with_l2(grad, param, group), group["alpha"]
        square = state.setdefault("square", torch.zeros_like(param))
        square.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        if group["centered"]:
            mean = state.setdefault("mean", torch.zeros_like(param)).lerp_(grad, 1 - alpha)
            square = square.addcmul(mean, mean, value=-1)
        param.addcdiv_(grad, square.sqrt().add_(group["eps"]), value=-group["lr"])


class Adadelta(Rule):
    """Steps in units of past steps: d = g * sqrt(u + eps) / sqrt(s + eps), w <- w - lr * d.

    Args:
        lr: learning rate, at least 0.
        rho: how much of the mean squares of g (s) and d (u) is kept at each step, from 0 to below 1.
        eps: keeps the divisor from zero, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.

    Example:
        >>> optimizer = Adadelta(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Zeiler, arXiv:1212.5701.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step by the gradient, scaled by past steps over past gradients."""
        grad, rho, eps = with_l2(grad, param, group), group["rho"], group["eps"]
        square = state.setdefault("square", torch.zeros_like(param))
        moved = state.setdefault("moved", torch.zeros_like(param))
        square.mul_(rho).addcmul_(grad, grad, value=1 - rho)
        delta = moved.add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(grad)
        moved.mul_(rho).addcmul_(delta, delta, value=1 - rho)
        param.sub_(delta, alpha=group["lr"])


def adam_step(param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Take Adam's step without any decay (Adam and AdamW differ only in theirs)."""
    (beta1, beta2), t = group["betas"], state.get("step", 0) + 1
    state["step"] = t
    mean = state.setdefault("mean", torch.zeros_like(param)).lerp_(grad, 1 - beta1)
    square = state.setdefault("square", torch.zeros_like(param))
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (square.sqrt() / math.sqrt(1 - beta2**t)).add_(group["eps"])
    param.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**t))


class Adam(Rule):
    """Momentum over RMSprop, both freed of their start at zero: w <- w - lr * m' / (sqrt(s') + eps).

    Args:
        lr: learning rate, at least 0.
        betas: how much of the mean gradient m and of the mean square s is kept, each from 0 to below 1.
        eps: keeps the divisor from zero, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.

    Example:
        >>> optimizer = Adam(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Kingma and Ba, arXiv:1412.6980; m' = m / (1 - beta1^t), s' = s / (1 - beta2^t).
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Step by the corrected mean over the corrected root mean square."""
        adam_step(param, with_l2(grad, param, group), state, group)


class AdamW(Rule):
    """Adam whose weight decay bypasses the moments: w <- w - lr * weight_decay * w, then Adam's step.

    Args:
        lr: learning rate, at least 0.
        betas: how much of the mean gradient m and of the mean square s is kept, each from 0 to below 1.
        eps: keeps the divisor from zero, at least 0.
        weight_decay: shrinks the weights by lr * weight_decay at each step, at least 0.

    Example:
        >>> optimizer = AdamW(model.parameters(), lr=0.1)
        >>> optimizer.step()

    Loshchilov and Hutter, arXiv:1711.05101.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Shrink the weights, then take Adam's step."""
        param.mul_(1 - group["lr"] * group["weight_decay"])
        adam_step(param, grad, state, group)


SCRATCH: dict[str, type[Optimizer]] = {
    "scratch.sgd": SGD,
    "scratch.momentum": Momentum,
    "scratch.nesterov": Nesterov,
    "scratch.adagrad": Adagrad,
    "scratch.rmsprop": RMSprop,
    "scratch.adadelta": Adadelta,
    "scratch.adam": Adam,
    "scratch.adamw": AdamW,
}
"""The rules by their config name."""
