"""Tasks: what follows from the targets of a data set, and what a config can state."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from command import TINY, optlab, train, write_tiny

from trainer.catalog import _TASKS, DATASETS, LOSSES, METRICS, load_config
from trainer.data.dataset import Split, make_dataset
from trainer.errors import ConfigError
from trainer.metrics import BUILT_IN
from trainer.tasks import TASKS, task_of
from trainer.training.building import set_up_run


def test_every_task_has_a_loss_and_metrics_that_exist() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert name in task.of
        assert task.loss in LOSSES
        assert set(task.metrics) <= set(METRICS)
        assert task.select in {"loss", *task.metrics}


def test_the_targets_say_what_the_task_is() -> None:
    values = torch.zeros(4, 3)
    classes = Split(values, torch.zeros(4, dtype=torch.int64))
    real = Split(values, values)
    tokens = Split(values.long(), values.long())
    assert make_dataset(classes, classes, ["a"]).task == "classification"
    assert make_dataset(real, real, None).task == "regression"
    assert make_dataset(tokens, tokens, ["a"]).task == "next_token"
    assert make_dataset(real, real, None, task="objective").task == "objective"


@pytest.mark.parametrize("name", ["diabetes", "wine", "digits", "mnist1d", "quadratic"])
def test_the_catalog_knows_the_tasks_of_its_data_sets(name: str) -> None:
    assert DATASETS[name]().task == _TASKS.get(name, "classification")


def test_a_task_is_stated_only_for_data_that_have_its_targets() -> None:
    assert task_of(None, "regression").name == "regression"
    assert task_of("reconstruction", "classification").name == "reconstruction"
    with pytest.raises(ConfigError, match="is for classification, not for regression"):
        task_of("regression", "classification")


@pytest.mark.parametrize(
    ("data", "task", "loss"),
    [
        ("diabetes", "null", "mse"),
        ("digits", "null", "cross_entropy"),
        ("digits", "reconstruction", "mse"),
        ("tiny_shakespeare", "null", "cross_entropy"),
    ],
)
def test_the_loss_follows_from_the_task(tmp_path: Path, data: str, task: str, loss: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"data: {{name: {data}}}\ntask: {task}\nmodel: mlp\noptimizer: {{name: SGD}}\ntrain: {{epochs: 1}}\n"
    )
    assert load_config(path).config.loss.name == loss


def test_reconstruction_trains_a_model_to_return_its_inputs(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, TINY.replace("loss: cross_entropy\n", "task: reconstruction\n"))
    result = train(config, "data.normalize=dataset", run_dir=tmp_path / "run")
    assert set(result["test"]) >= {"loss", "mse"}
    assert "accuracy" not in result["test"]
    experiment = set_up_run(load_config(config, ["data.normalize=dataset"])).experiment
    inputs, targets = next(experiment.batches.epoch(0))
    assert torch.equal(inputs.flatten(1), targets)
    assert inputs.data_ptr() != targets.data_ptr()
    outputs = experiment.model(inputs)
    assert outputs.shape == targets.shape
    mse = float(experiment.forward.loss(outputs, targets).detach())
    assert BUILT_IN["mse"](outputs.detach(), targets) == pytest.approx(mse, rel=1e-5)


def test_a_task_that_does_not_fit_gets_one_message_with_its_line(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, f"{TINY}task: regression\n")
    done = optlab("validate", config)
    assert done.code == 2
    assert f"{config}:" in done.err
    assert "expected  classification or reconstruction" in done.err
    done = optlab("validate", write_tiny(tmp_path, f"{TINY}task: guessing\n"))
    assert (done.code, "next_token" in done.err) == (2, True)


def test_metrics_of_tokens_are_means_over_windows() -> None:
    outputs, targets = torch.randn(6, 5, 7), torch.randint(7, (6, 5))
    logs = outputs.double().log_softmax(-1).gather(-1, targets.unsqueeze(-1))
    nats = -float(logs.mean())
    assert BUILT_IN["perplexity"](outputs, targets) == pytest.approx(math.exp(nats), rel=1e-5)
    assert BUILT_IN["bits_per_char"](outputs, targets) == pytest.approx(nats / math.log(2), rel=1e-5)
    right = (outputs.argmax(-1) == targets).double().mean()
    assert BUILT_IN["accuracy"](outputs, targets) == pytest.approx(float(right))
    assert BUILT_IN["error_rate"](outputs, targets) == pytest.approx(1 - float(right))
    best = outputs.topk(5, dim=-1).indices
    assert BUILT_IN["top5_accuracy"](outputs, targets) == pytest.approx(
        float((best == targets.unsqueeze(-1)).any(-1).double().mean())
    )
    for name in ("cross_entropy", "nll"):
        assert float(LOSSES[name]()(outputs, targets)) == pytest.approx(nats, rel=1e-5)


def test_suboptimality_is_the_loss_minus_the_minimum() -> None:
    outputs, minimum = torch.rand(9, 1), torch.rand(9, 1)
    expected = float(LOSSES["objective"]()(outputs, minimum)) - float(minimum.mean())
    assert BUILT_IN["suboptimality"](outputs, minimum) == pytest.approx(expected, abs=1e-6)
