"""`optlab check`: what holds for a component and what does not, on the command line and in a user's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import optlab

from trainer.contract import checks, kind_of
from trainer.errors import ConfigError, PartError

PARTS = """\
import math
import random
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Descent(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, {"lr": lr})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad

class NoGroups(Descent):
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"]
        super().step()

class Ascent(Descent):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = -p.grad
        super().step()

def mean(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)

def error(outputs, targets):
    return (outputs - targets).square().mean()

def total(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="sum") / 32

def right(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()

class Net(nn.Module):
    def __init__(self, input_shape, num_classes, centred: bool = False, forgets: bool = False):
        super().__init__()
        self.layer, self.centred = nn.Linear(math.prod(input_shape), num_classes), centred
        self.forgets, self.calls = forgets, 0
    def forward(self, images):
        x = images.flatten(1)
        self.calls += self.training and self.forgets
        return self.layer(x - x.mean(0) if self.centred else x) * (1 + self.calls / 1000)

def half(optimizer, steps: int = 10):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < steps else 0.5)

def small(tensor):
    return nn.init.normal_(tensor, 0, 0.1)

def shift(images):
    return images.roll(1, dims=-1)

own = torch.Generator()
own.seed()

def noise(images):
    return images + torch.randn(images.shape, generator=own)

class Late(Descent):
    count = 0
    def step(self, closure=None):
        super().step()
        self.count += 1
        weight = self.param_groups[0]["params"][0]
        if self.count > 6 and weight.ndim == 2:  # the trial before a run has six steps
            weight.data += 1e-3 * torch.randn(weight.shape, generator=own)

def data(steady: bool = True):
    generator = torch.Generator().manual_seed(0 if steady else random.SystemRandom().randrange(2**60))
    x = torch.randn(200, 5, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long()), (x, (x[:, 0] > 0).long())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts.py").write_text(PARTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "kind", "fails"),
    [
        (["Descent"], "optimizer", []),
        (["NoGroups", "lr=0.02"], "optimizer", ["respects parameter groups"]),
        (["Ascent"], "optimizer", ["learns"]),
        (["mean"], "loss", []),
        (["error", "data.name=diabetes"], "loss", []),
        (["total"], "loss", ["is a mean over the batch"]),
        (["right", "mode=max", "--kind", "metric"], "metric", []),
        (["Net"], "model", []),
        (["Net", "data.name=wine"], "model", []),
        (["Net", "centred=true"], "model", ["treats samples independently"]),
        (["Net", "forgets=true"], "model", ["resumes bit for bit"]),
        (["half"], "scheduler", []),
        (["half", "steps=1000"], "scheduler", ["changes the learning rate"]),
        (["small"], "init", []),
        (["shift"], "augmentation", []),
        (["Late"], "optimizer", ["is deterministic", "resumes bit for bit"]),
        (["data"], "dataset", []),
    ],
)
def test_what_holds_and_what_does_not(
    arguments: list[str], kind: str, fails: list[str], folder: Path
) -> None:
    done = optlab("check", f"parts.py:{arguments[0]}", *arguments[1:], "--json")
    assert done.code == (1 if fails else 0), done
    assert done.json["kind"] == kind
    assert [row["check"] for row in done.json["checks"] if not row["holds"]] == fails
    assert "ms per step" in done.json["checks"][-1]["seen"]


@pytest.mark.parametrize(
    "arguments",
    [["vae", "hidden=[16]", "loss=elbo", "--kind", "model"], ["elbo", "model=vae", "--kind", "loss"]],
    ids=["model", "loss"],
)
def test_a_model_that_draws_in_eval_mode_is_not_compared_with_itself(arguments: list[str]) -> None:
    done = optlab("check", *arguments, "task=reconstruction", "data.normalize=null", "--json")
    assert done.code == 0, done
    assert "draws random numbers" in done.json["checks"][1]["seen"]


def test_what_cannot_be_built_is_one_row(folder: Path) -> None:
    done = optlab("check", "parts.py:Descent", "lr=fast")
    assert done.code == 2
    assert "optimizer.lr" in done.err
    done = optlab("check", "parts.py:Net", "data.name=mnist1d", "data.resize=4", "--json")
    assert done.code == 1
    assert [row["check"] for row in done.json["checks"]] == ["builds"]
    done = optlab("check", "parts.py:noise", "--json")
    assert [row["check"] for row in done.json["checks"]] == ["builds"]
    assert "not deterministic" in done.json["checks"][0]["seen"]


def test_random_data_are_not_the_same_again(folder: Path) -> None:
    done = optlab("check", "parts.py:data", "steady=false")
    assert done.code == 1
    assert "two calls gave different data" in done.out


@pytest.mark.parametrize("name", ["parts.py:nothing", "parts.py:own", "parts.py"])
def test_what_is_no_component_is_refused(name: str, folder: Path) -> None:
    assert optlab("check", name).code == 2
    assert optlab("check", "parts.py:Net", "--kind", "layer").code == 2


def test_the_kind_is_that_of_the_class_or_of_the_parameters(folder: Path) -> None:
    found = {
        "torch.nn:CrossEntropyLoss": "loss",
        "torch.nn:Linear": "model",
        "torch.optim.lr_scheduler:StepLR": "scheduler",
        "torchvision.datasets:FakeData": "dataset",
        "resnet20": "model",
        "AdamW": "optimizer",
    }
    assert {name: kind_of(name) for name in found} == found
    with pytest.raises(ConfigError, match="--kind"):
        kind_of("mse")  # a loss and a metric


def test_the_settings_of_the_process_are_left_alone(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for check in checks("parts.py:NoGroups")[:1]:
        assert "plain" in check()
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(PartError, match="bias"):
        next(check for check in checks("parts.py:NoGroups") if str(check) == "respects parameter groups")()


@pytest.mark.nightly
def test_a_users_own_pytest_runs_the_same_checks(folder: Path) -> None:
    (folder / "test_own.py").write_text(
        "import pytest\nfrom trainer.contract import checks\n\n\n"
        "@pytest.mark.parametrize('check', checks('parts.py:NoGroups', options=['lr=0.1']), ids=str)\n"
        "def test_my_optimizer(check):\n    check()\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "1 failed, 5 passed" in done.stdout, done.stdout
