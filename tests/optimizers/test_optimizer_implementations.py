"""`fused: false, foreach: false` is bit-identical to torch's CPU default, and the log names what ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import optlab, train, write_tiny
from torch import nn
from torch.nn import functional

from trainer import build_experiment, load_config
from trainer.optimizers.build import IMPLEMENTATIONS, describe_implementation, option_names, torch_optimizers
from trainer.optimizers.rules import REFUSED
from trainer.runs.checkpoint import load_checkpoint
from trainer.seeding import seed_dropout

PLAIN = {
    "SGD": "{name: SGD, lr: 0.05, momentum: 0.9, fused: false, foreach: false}",
    "Adam": "{name: Adam, lr: 0.003, fused: false, foreach: false}",
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_without_fused_and_foreach_is_a_loop_by_hand_with_torchs_defaults(
    name: str, tmp_path: Path
) -> None:
    config = write_tiny(tmp_path)
    overrides = [f"optimizer={PLAIN[name]}", "model.dropout=0.2", "train.epochs=3"]
    train(config, *overrides, run_dir=tmp_path / "run")
    ours = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["experiment"]["model"]

    built = build_experiment(load_config(config, overrides))
    model = built.model
    optimizer: torch.optim.Optimizer
    if name == "SGD":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    seed_dropout(0)
    model.train()
    for epoch in range(3):
        for images, targets in built.batches.epoch(epoch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def implementations() -> list[str]:
    return [
        name
        for name, cls in torch_optimizers().items()
        if name not in REFUSED and set(IMPLEMENTATIONS) & set(option_names(cls))
    ]


@pytest.mark.parametrize("name", implementations())
def test_torchs_default_on_a_cpu_is_neither_fused_nor_foreach(name: str) -> None:
    cls: Any = torch_optimizers()[name]
    known = [option for option in IMPLEMENTATIONS if option in option_names(cls)]
    found = []
    for options in ({}, dict.fromkeys(known, False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        optimizer = cls(model.parameters(), **options)
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(model(torch.randn(8, 6)), torch.randint(3, (8,))).backward()
            optimizer.step()
        found.append([*model.parameters()])
        words = describe_implementation(optimizer)
        assert words is not None
        assert "default implementation (a loop over the parameters)" in words
    assert all(map(torch.equal, *found))


def test_the_log_says_once_which_implementation_ran(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    train(config, "optimizer=Adam", run_dir=tmp_path / "run")
    words = "Adam: torch's fused implementation; `fused: false, foreach: false` gives torch's default"
    assert (tmp_path / "run" / "train.log").read_text().count(words) == 1
    assert words in optlab("train", config, "optimizer=Adam", "--dry-run").out
    told = optlab("train", config, "optimizer={name: Adam, foreach: false, fused: false}", "--dry-run").out
    assert "Adam: torch's default implementation (a loop over the parameters)" in told
    assert "implementation" not in optlab("train", config, "optimizer=scratch.sgd", "--dry-run").out
