"""Outputs of the model in examples.json, and the figures that show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, optlab, train, write_tiny

from trainer.runs.trained import load_trained

RECONSTRUCT = TINY.replace("loss: cross_entropy\n", "task: reconstruction\n").replace("[]", "[png]")
VAE = RECONSTRUCT.replace("  name: mlp\n  hidden: [16]", "  name: conv_vae\n  latent: 2")
MOONS = TINY.replace("digits", "two_moons").replace("[]", "[png]")


def examples_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "examples.json").read_text(encoding="utf-8"))
    return content


def figures(run: Path) -> set[str]:
    return {path.stem for path in (run / "plots").iterdir()}


def test_a_vae_has_reconstructions_of_validation_samples_and_new_samples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(write_tiny(tmp_path, VAE), run_dir=run)
    assert {"reconstructions", "samples"} <= figures(run)
    examples = examples_of(run)
    assert examples["shape"] == [1, 8, 8]
    assert (len(examples["samples"]), len(examples["samples"][0])) == (32, 64)
    setup = load_trained(run)
    inputs = next(setup.experiment.evaluate_on("val")).inputs[:10]
    assert torch.allclose(torch.tensor(examples["inputs"]), inputs.flatten(1), rtol=1e-3)
    with setup.experiment.state.evaluation(), torch.no_grad():
        predicted = setup.experiment.model.eval()(inputs)["output"]
    assert torch.allclose(torch.tensor(examples["reconstructions"]), predicted, rtol=1e-3, atol=1e-6)


def test_an_autoencoder_of_vectors_has_curves_and_no_samples(tmp_path: Path) -> None:
    text = RECONSTRUCT.replace("digits", "mnist1d").replace("  val_size: 100\n", "")
    run = tmp_path / "run"
    train(write_tiny(tmp_path, text), run_dir=run)
    assert "reconstructions" in figures(run)
    assert "samples" not in figures(run)
    inputs = load_trained(run).experiment.splits.train.inputs[:10]
    assert torch.allclose(torch.tensor(examples_of(run)["inputs"]), inputs, rtol=1e-3)


def test_the_decision_boundary_is_that_of_the_model_in_the_units_of_the_data(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(write_tiny(tmp_path, MOONS), "data.normalize=dataset", "train.epochs=20", run_dir=run)
    assert "decision_boundary" in figures(run)
    boundary = examples_of(run)["boundary"]
    setup = load_trained(run)
    points = torch.tensor(boundary["points"])
    assert len(points) == 200
    low, high = points.amin(0), points.amax(0)
    for side, axis in enumerate(("x", "y")):
        assert boundary[axis][0] < low[side] < high[side] < boundary[axis][-1]
    right = 0
    for (x, y), label in zip(points.tolist(), boundary["labels"], strict=True):
        column = min(range(100), key=lambda i: abs(boundary["x"][i] - x))
        row = min(range(100), key=lambda i: abs(boundary["y"][i] - y))
        right += boundary["classes"][row][column] == label
    model, prepare = setup.experiment.model.eval(), setup.experiment.batches.prepare
    labels = torch.tensor(boundary["labels"])
    accuracy = int((model(prepare(points)).argmax(1) == labels).sum())
    assert accuracy > 160
    assert abs(right - accuracy) <= 4  # the nearest point of the grid can be on the other side


@pytest.mark.parametrize("text", [VAE, MOONS], ids=["vae", "moons"])
def test_they_are_the_same_in_a_resumed_run_and_drawn_again(text: str, tmp_path: Path) -> None:
    config = write_tiny(tmp_path, text)
    train(config, "train.epochs=2", run_dir=tmp_path / "whole")
    train(config, "log.plots=[]", run_dir=tmp_path / "parts")
    assert figures(tmp_path / "parts") == set()
    assert optlab("resume", tmp_path / "parts", "train.epochs=2").code == 0
    assert examples_of(tmp_path / "parts") == examples_of(tmp_path / "whole")
    assert optlab("plot", tmp_path / "parts").code == 0
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")


def test_a_language_model_has_a_text_if_figures_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(200 * "to be or not to be, ")
    data = "{name: text, path: book.txt, context: 8, batch_size: 16}"
    text = f"name: book\ndata: {data}\nmodel: {{name: lstm, hidden: 8}}\noptimizer: {{name: SGD, lr: 0.1}}\n"
    config = write_tiny(tmp_path, f"{text}train: {{steps: 2}}\n")
    for name, plots in (("one", "[png]"), ("two", "[png]"), ("none", "[]")):
        train(config, f"log.plots={plots}", run_dir=tmp_path / name)
    drawn = examples_of(tmp_path / "one")["text"]
    assert (len(drawn), drawn[0]) == (201, "t")
    assert set(drawn) <= set("to be or not to be, ")
    assert examples_of(tmp_path / "two")["text"] == drawn
    assert not (tmp_path / "none" / "examples.json").exists()


def test_other_tasks_have_none(tmp_path: Path) -> None:
    train(write_tiny(tmp_path), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "examples.json").exists()


OWN = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, how="shape"):
        super().__init__()
        self.layer, self.how = nn.Linear(num_classes, num_classes), how

    def forward(self, images):
        return self.layer(images.flatten(1))

    def sample(self, count):
        if self.how == "fails":
            raise ValueError("no prior")
        if self.how == "exits":
            raise SystemExit(3)
        return torch.zeros(count, 3)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("shape", "sample(32) returned a Tensor of shape [32, 3]"),
        ("fails", "Net.sample failed with ValueError: no prior"),
        ("exits", "Net.sample called sys.exit(3)"),
    ],
)
def test_a_failing_sample_of_a_users_model_is_a_warning(how: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    text = RECONSTRUCT.replace("  name: mlp\n  hidden: [16]", f"  name: own.py:Net\n  how: {how}")
    result = train(write_tiny(tmp_path, text), run_dir=tmp_path / "run")
    assert result["status"] == "completed"
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert "warning: no figures of the model's outputs" in log
    assert says in log
