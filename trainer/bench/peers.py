"""The loops that optlab is compared with, each written as its own documentation recommends.

Each function takes a task and returns `run(steps)`, which trains `steps` steps on newly shuffled batches and
returns the seconds they took.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from trainer.bench.task import LOG_EVERY, MEAN, MLP_SIZES, OPTIONS, STD, Task

Run = Callable[[int], float]


def timed(steps_of: Callable[[int], None]) -> Run:
    """Return a loop that also returns the seconds it took."""

    def run(steps: int) -> float:
        began = time.perf_counter()
        steps_of(steps)
        return time.perf_counter() - began

    return run


def tutorial(task: Task, root: Path) -> Run:
    """Return a tutorial's loop: torchvision, one transform per image, DataLoader, `.item()` every step."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = datasets.MNIST(str(root), train=True, transform=transform)
    loader = DataLoader(data, batch_size=task.batch_size, shuffle=True, drop_last=True)
    network, criterion = task.network(), torch.nn.CrossEntropyLoss()
    optimizer = task.torch_optimizer(network.parameters())

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

    return timed(run)


def bare(task: Task) -> Run:
    """Return the best hand-written eager loop: data in memory, normalised and shuffled once, fused optimizer.

    It uses only public names of torch, which cannot avoid the profiler annotation of `optimizer.step()`
    (40 us).
    """
    inputs, labels, size = task.normalised(), task.targets, task.batch_size
    loss_of = task.loss if task.model == "transformer" else functional.cross_entropy
    network: Any = task.network()
    if task.model in MLP_SIZES:
        inputs, network = inputs.flatten(1), network[1:]
    parameters = list(network.parameters())
    optimizer = task.torch_optimizer(parameters, fused=True)

    def run(steps: int) -> None:
        order = torch.randperm(len(inputs))[: steps * size]
        for block in torch.split(order, 16 * size):
            batches = torch.split(inputs[block], size), torch.split(labels[block], size)
            for x, y in zip(*batches, strict=True):
                loss: Any = loss_of(network(x), y)
                for parameter in parameters:  # optimizer.zero_grad() without its profiler annotation
                    parameter.grad = None
                loss.backward()
                optimizer.step()

    return timed(run)


def products(task: Task) -> Run:
    """Return only the five matrix products of the mlp, by torch.mm: a lower bound for the time of a step."""
    num_inputs, width = MLP_SIZES[task.model]
    x, w1, w2 = (
        torch.randn(task.batch_size, num_inputs),
        torch.randn(width, num_inputs),
        torch.randn(10, width),
    )
    hidden, back = torch.randn(task.batch_size, width), torch.randn(task.batch_size, 10)

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.mm(x, w1.t())
            torch.mm(hidden, w2.t())
            torch.mm(back.t(), hidden)
            torch.mm(back, w2)
            torch.mm(hidden.t(), x)

    return timed(run)


def jax_scan(task: Task) -> Run:
    """Return a JAX loop with optax on the mlp: one jitted `lax.scan` per call, buffers donated."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax

    size = task.batch_size
    num_inputs, width = MLP_SIZES[task.model]
    inputs = jnp.asarray(task.inputs.flatten(1).numpy())
    targets = jnp.asarray(task.targets.numpy().astype("int32"))
    options = OPTIONS[task.optimizer]
    makers: dict[str, Callable[..., Any]] = {
        "SGD": lambda lr, momentum=0.0, weight_decay=0.0: optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum=momentum)
        ),
        "Adam": lambda lr: optax.adam(lr),
        "AdamW": lambda lr, weight_decay: optax.adamw(lr, weight_decay=weight_decay),
    }
    optimizer = makers[task.optimizer](**options)
    first, second, key = jax.random.split(jax.random.PRNGKey(0), 3)
    parameters = {
        "w1": jax.random.uniform(first, (num_inputs, width), minval=-1, maxval=1) / num_inputs**0.5,
        "b1": jnp.zeros(width),
        "w2": jax.random.uniform(second, (width, 10), minval=-1, maxval=1) / width**0.5,
        "b2": jnp.zeros(10),
    }
    state = optimizer.init(parameters)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ parameters["w1"] + parameters["b1"])
        logits = hidden @ parameters["w2"] + parameters["b2"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @partial(jax.jit, static_argnums=3, donate_argnums=(0, 1))
    def train(parameters: Any, state: Any, key: Any, steps: int) -> Any:
        order = jax.random.permutation(key, len(inputs))[: steps * size].reshape(steps, size)

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

    return timed(run)


def lightning_fit(task: Task, folder: Path) -> Run:
    """Return a Lightning loop: TensorDataset in memory, CSV logger; the startup is not timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = task.network()

        def training_step(self, batch: Any, _number: int) -> Any:
            inputs, targets = batch
            loss = task.loss(self.network(inputs), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return task.torch_optimizer(self.parameters())

    class Stopwatch(lightning.Callback):  # type: ignore[misc]
        began = seconds = 0.0

        def on_train_start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: object) -> None:
            self.seconds = time.perf_counter() - self.began

    module = Classifier()
    data = TensorDataset(task.normalised(), task.targets)
    loader = DataLoader(data, batch_size=task.batch_size, shuffle=True, drop_last=True)

    def run(steps: int) -> float:
        watch = Stopwatch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                max_steps=steps,
                accelerator="cpu",
                logger=CSVLogger(str(folder)),
                log_every_n_steps=LOG_EVERY,
                callbacks=[watch],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, loader)
        return watch.seconds

    return run


def keras_fit(task: Task, backend: str) -> Run:
    """Return a Keras 3 loop on the mlp: `model.fit` on arrays in memory.

    Keras decouples weight decay for every optimizer, including SGD: the results differ, the work does not.

    Args:
        task: the task to train.
        backend: `jax` or `torch`. Keras uses the first backend selected in a process.
    """
    os.environ["KERAS_BACKEND"] = backend
    import keras

    options: dict[str, Any] = dict(OPTIONS[task.optimizer])
    options["learning_rate"] = options.pop("lr")
    model = keras.Sequential([keras.layers.Dense(200, activation="relu"), keras.layers.Dense(10)])
    model.compile(
        optimizer=getattr(keras.optimizers, task.optimizer)(**options),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    inputs, labels = task.normalised().flatten(1).numpy(), task.targets.numpy()

    def run(steps: int) -> None:
        count = steps * task.batch_size
        model.fit(inputs[:count], labels[:count], batch_size=task.batch_size, verbose=0, shuffle=True)

    return timed(run)
