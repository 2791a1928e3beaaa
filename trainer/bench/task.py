"""The task of `optlab bench`, identical for all loops: network, optimizer, and samples in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.transformer import transformer

ModelName = Literal["mlp", "tiny", "cnn", "transformer"]
MLP_SIZES = {"mlp": (784, 200), "tiny": (64, 64)}
"""Numbers of inputs and of hidden units of the networks with one hidden layer; both have 10 outputs."""

OptimizerName = Literal["SGD", "Adam", "AdamW"]

MEAN, STD = 0.1307, 0.3081
CONTEXT, VOCABULARY = 64, 65
"""Tokens of a window and kinds of tokens of the transformer, as in `configs/shakespeare_transformer.yaml`."""

OPTIONS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-2},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings of a benchmark.

    Args:
        model: see `Task`.
        optimizer: see `Task`.
        batch_size: samples per step.
        steps: steps per loop and round; at most one epoch.
        rounds: number of measured rounds, after one warm-up round.
        threads: cores for each loop and number of torch's threads; None = all usable cores, and the number of
            threads that `train.threads: auto` chooses.
    """

    model: ModelName
    optimizer: OptimizerName
    batch_size: int
    steps: int
    rounds: int
    threads: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A training task.

    Args:
        model: `mlp` = 784-200-10 with ReLU; `tiny` = 64-64-10 with ReLU; `cnn` = three 5x5 convolutions with
            pooling, then 64-10; `transformer` = 4 layers, 4 heads, width 128.
        optimizer: name of the optimizer; its options are in `OPTIONS`.
        batch_size: samples per step.
        inputs: uint8 [N, C, H, W]; int64 [N, T] of the transformer.
        targets: int64 [N], 0 to 9; int64 [N, T] of the transformer.
    """

    model: ModelName
    optimizer: OptimizerName
    batch_size: int
    inputs: Tensor
    targets: Tensor

    def normalised(self) -> Tensor:
        """Return all images as float32 [N, C, H, W] with about zero mean and unit variance; tokens as is."""
        if self.model == "transformer":
            return self.inputs
        return (self.inputs.float() / 255 - MEAN) / STD

    def network(self) -> nn.Module:
        """Return the network in plain torch. The mlp and the tiny network flatten their inputs."""
        if self.model in MLP_SIZES:
            num_inputs, hidden = MLP_SIZES[self.model]
            return nn.Sequential(
                nn.Flatten(), nn.Linear(num_inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10)
            )
        if self.model == "transformer":  # the network of optlab: the loops are compared
            return transformer((CONTEXT,), VOCABULARY)
        layers: list[nn.Module] = []
        depth = self.inputs.shape[1]
        for channels in (32, 32, 64):
            layers += [nn.Conv2d(depth, channels, 5, padding=2), nn.MaxPool2d(2)]
            depth = channels
        inner = depth * (self.inputs.shape[2] // 8) ** 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, 64), nn.Linear(64, 10))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        if self.model == "transformer":
            outputs, targets = outputs.flatten(0, 1), targets.flatten()
        return functional.cross_entropy(outputs, targets)

    def torch_optimizer(self, parameters: Iterable[Tensor], *, fused: bool | None = None) -> Any:
        """Return the optimizer, from torch.optim."""
        options: dict[str, Any] = OPTIONS[self.optimizer]
        return getattr(torch.optim, self.optimizer)(parameters, fused=fused, **options)

    def config(self, root: str) -> str:
        """Return the task as a config for optlab.

        Args:
            root: the MNIST folder for the mlp, a text file for the transformer, else an npz file.
        """
        path = json.dumps(root)  # a JSON string is valid YAML, whatever characters it contains
        depth = self.inputs.shape[1]
        normalize = f"normalize: {{mean: {[MEAN] * depth}, std: {[STD] * depth}}}"
        data = {
            "mlp": f"name: mnist, root: {path}, {normalize}",
            "tiny": f"name: npz, path: {path}, {normalize}",
            "cnn": f"name: npz, path: {path}, {normalize}",
            "transformer": f"name: text, path: {path}, context: {CONTEXT}, parts: {list(TEXT_PARTS)}",
        }[self.model]
        is_mlp = self.model in MLP_SIZES
        hidden = f", hidden: [{MLP_SIZES[self.model][1]}], activation: relu" if is_mlp else ""
        options = ", ".join(f"{key}: {value}" for key, value in OPTIONS[self.optimizer].items())
        return (
            "name: bench\n"
            f"data: {{{data}, batch_size: {self.batch_size}}}\n"
            f"model: {{name: {'mlp' if is_mlp else self.model}{hidden}}}\n"
            f"optimizer: {{name: {self.optimizer}, {options}}}\n"
            "train: {steps: 1000000000, eval_every: {steps: 1000000000}, test: never}\n"
            f"log: {{every: {LOG_EVERY}}}\n"
        )


LOG_EVERY = 30
TEXT_PARTS = (0.8, 0.1, 0.1)
