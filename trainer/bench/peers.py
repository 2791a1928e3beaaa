"""The loops that optlab is measured against, each as its own documentation would write it.

All train 784-200-10 with SGD (lr 0.01, momentum 0.9, weight decay 5e-4) on MNIST from memory, batches of one
size in an order drawn anew for every call. Each maker returns `run(steps)`, which trains so many steps and
returns when they are done. Knows nothing of optlab's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Run = Callable[[int], None]

MEAN, STD = 0.1307, 0.3081
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def _network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def _sgd(network: nn.Module, *, fused: bool | None = None) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=fused
    )


def textbook(root: Path, batch_size: int) -> Run:
    """Return the tutorials' loop: torchvision, a transform per image, a DataLoader, `.item()` every step."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = datasets.MNIST(str(root), train=True, transform=transform)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    network, criterion = _network(), nn.CrossEntropyLoss()
    optimizer = _sgd(network)

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()

    def run(steps: int) -> None:
        running_loss = 0.0
        for _ in range(steps):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss: Any = criterion(network(inputs), targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()

    return run


def bare(images: Tensor, labels: Tensor, batch_size: int) -> Run:
    """Return the best eager loop by hand: all in memory, normalised once, permuted once, fused SGD."""
    inputs = ((images.float() / 255 - MEAN) / STD).flatten(1)
    network = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
    optimizer = _sgd(network, fused=True)

    def run(steps: int) -> None:
        order = torch.randperm(len(inputs))[: steps * batch_size]
        for block in torch.split(order, 16 * batch_size):
            batches = torch.split(inputs[block], batch_size), torch.split(labels[block], batch_size)
            for x, y in zip(*batches, strict=True):
                loss: Any = functional.cross_entropy(network(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return run


def products(batch_size: int) -> Run:
    """Return the step's five matrix products alone, through torch.mm: what is left when all else is free."""
    x, w1, w2 = torch.randn(batch_size, 784), torch.randn(200, 784), torch.randn(10, 200)
    hidden, back = torch.randn(batch_size, 200), torch.randn(batch_size, 10)

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.mm(x, w1.t())
            torch.mm(hidden, w2.t())
            torch.mm(back.t(), hidden)
            torch.mm(back, w2)
            torch.mm(hidden.t(), x)

    return run


def jax_scan(images: Tensor, labels: Tensor, batch_size: int) -> Run:
    """Return JAX with optax, all steps of a call in one jitted `lax.scan`, buffers donated."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax

    inputs = jnp.asarray(images.flatten(1).numpy())
    targets = jnp.asarray(labels.numpy().astype("int32"))
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LR, momentum=MOMENTUM))
    first, second, key = jax.random.split(jax.random.PRNGKey(0), 3)
    parameters = {
        "w1": jax.random.uniform(first, (784, 200), minval=-1, maxval=1) / 28,
        "b1": jnp.zeros(200),
        "w2": jax.random.uniform(second, (200, 10), minval=-1, maxval=1) / 14,
        "b2": jnp.zeros(10),
    }
    state = optimizer.init(parameters)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ parameters["w1"] + parameters["b1"])
        logits = hidden @ parameters["w2"] + parameters["b2"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @partial(jax.jit, static_argnums=3, donate_argnums=(0, 1))
    def train(parameters: Any, state: Any, key: Any, steps: int) -> Any:
        order = jax.random.permutation(key, len(inputs))[: steps * batch_size].reshape(steps, batch_size)

        def step(carry: Any, indices: Any) -> Any:
            parameters, state = carry
            x = (inputs[indices].astype(jnp.float32) / 255 - MEAN) / STD
            loss, gradients = jax.value_and_grad(loss_of)(parameters, x, targets[indices])
            updates, state = optimizer.update(gradients, state, parameters)
            return (optax.apply_updates(parameters, updates), state), loss

        return jax.lax.scan(step, (parameters, state), order)

    def run(steps: int) -> None:
        nonlocal parameters, state, key
        key, drawn = jax.random.split(key)
        (parameters, state), losses = train(parameters, state, drawn, steps)
        losses.block_until_ready()

    return run
