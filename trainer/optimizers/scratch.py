"""Teaching implementations of optimizers: each update rule in a few lines of tensor arithmetic.

Each class implements the rule of its paper, with operations in the same order as in torch, so that it agrees
with the corresponding class of torch.optim. For speed, use torch.optim: these classes are not fused.

In the equations, w is the parameter and g its gradient (plus `weight_decay * w` for an L2 penalty).
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
    """Base class of the optimizers here: `update` implements the rule for one parameter."""

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        for name, value in defaults.items():
            for number in value if isinstance(value, tuple) else (value,):
                if not number >= 0:
                    raise ValueError(f"Invalid {name}: {value} (expected at least 0)")
                if name in ("momentum", "alpha", "rho", "betas") and not number < 1:
                    raise ValueError(f"Invalid {name}: {value} (expected at least 0 and below 1)")
        super().__init__(params, defaults)

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update `param` in place.

        Args:
            param: the parameter, any shape.
            grad: its gradient, same shape.
            state: optimizer state of this parameter; empty before the first update.
            group: options of its parameter group (lr, ...).
        """
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update each parameter that has a gradient. The closure, if given, first computes the loss."""
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
        textbook: compute `w - lr * g`, which rounds twice; torch rounds once.

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
        """Step in the direction of the negative gradient."""
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
        """Step along the decayed sum of the gradients."""
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
        """Step along the gradient plus the next momentum step."""
        velocity = state.setdefault("velocity", torch.zeros_like(param))
        grad = with_l2(grad, param, group)
        velocity.mul_(group["momentum"]).add_(grad)
        param.sub_(grad.add(velocity, alpha=group["momentum"]), alpha=group["lr"])


class Adagrad(Rule):
    """Adaptive learning rate per weight: s <- s + g^2, w <- w - lr * g / (sqrt(s) + eps).

    Args:
        lr: learning rate, at least 0.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.
        eps_inside_root: divide by sqrt(s + eps), as in older tutorials.

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
        """Step by the gradient divided by the root of the sum of all squared gradients."""
        grad = with_l2(grad, param, group)
        total = state.setdefault("sum", torch.zeros_like(param)).addcmul_(grad, grad)
        inside = group["eps_inside_root"]
        root = total.add(group["eps"]).sqrt_() if inside else total.sqrt().add_(group["eps"])
        param.addcdiv_(grad, root, value=-group["lr"])


class RMSprop(Rule):
    """Adagrad with a moving average: s <- alpha * s + (1 - alpha) * g^2, w <- w - lr * g / (sqrt(s) + eps).

    Args:
        lr: learning rate, at least 0.
        alpha: how much of the mean square is kept at each step, from 0 to below 1.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: L2 penalty, added to the gradient, at least 0.
        centered: subtract the squared mean gradient from s, to divide by the standard deviation.

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
        """Step by the gradient divided by its running root mean square."""
        grad, alpha = with_l2(grad, param, group), group["alpha"]
        square = state.setdefault("square", torch.zeros_like(param))
        square.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        if group["centered"]:
            mean = state.setdefault("mean", torch.zeros_like(param)).lerp_(grad, 1 - alpha)
            square = square.addcmul(mean, mean, value=-1)
        param.addcdiv_(grad, square.sqrt().add_(group["eps"]), value=-group["lr"])


class Adadelta(Rule):
    """Adagrad with steps scaled by past steps: d = g * sqrt(u + eps) / sqrt(s + eps), w <- w - lr * d.

    Args:
        lr: learning rate, at least 0.
        rho: how much of the mean squares of g (s) and d (u) is kept at each step, from 0 to below 1.
        eps: added to the denominator for numerical stability, at least 0.
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
        """Step by the gradient, scaled by the ratio of past steps to past gradients."""
        grad, rho, eps = with_l2(grad, param, group), group["rho"], group["eps"]
        square = state.setdefault("square", torch.zeros_like(param))
        moved = state.setdefault("moved", torch.zeros_like(param))
        square.mul_(rho).addcmul_(grad, grad, value=1 - rho)
        delta = moved.add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(grad)
        moved.mul_(rho).addcmul_(delta, delta, value=1 - rho)
        param.sub_(delta, alpha=group["lr"])


def adam_step(param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Apply Adam's step without weight decay (Adam and AdamW differ only in the decay)."""
    (beta1, beta2), t = group["betas"], state.get("step", 0) + 1
    state["step"] = t
    mean = state.setdefault("mean", torch.zeros_like(param)).lerp_(grad, 1 - beta1)
    square = state.setdefault("square", torch.zeros_like(param))
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (square.sqrt() / math.sqrt(1 - beta2**t)).add_(group["eps"])
    param.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**t))


class Adam(Rule):
    """Momentum and RMSprop with bias correction: w <- w - lr * m' / (sqrt(s') + eps).

    Args:
        lr: learning rate, at least 0.
        betas: how much of the mean gradient m and of the mean square s is kept, each from 0 to below 1.
        eps: added to the denominator for numerical stability, at least 0.
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
        """Step by the bias-corrected mean divided by the bias-corrected root mean square."""
        adam_step(param, with_l2(grad, param, group), state, group)


class AdamW(Rule):
    """Adam with decoupled weight decay: w <- w - lr * weight_decay * w, then Adam's step.

    Args:
        lr: learning rate, at least 0.
        betas: how much of the mean gradient m and of the mean square s is kept, each from 0 to below 1.
        eps: added to the denominator for numerical stability, at least 0.
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
        """Decay the weights, then apply Adam's step."""
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
