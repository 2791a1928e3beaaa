"""Outputs of a trained model, for figures and reports: reconstructions, samples, text, decision boundary.

Never reads the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.batches import eval_batches
from trainer.data.dataset import Split
from trainer.data.text import Unit, decode
from trainer.errors import RunError
from trainer.models.outputs import prediction
from trainer.models.sampling import sample_tokens
from trainer.seeding import generator
from trainer.tasks import CLASSIFICATION, RECONSTRUCTION, Task
from trainer.training.experiment import Experiment

NUM_RECONSTRUCTIONS = 10
NUM_SAMPLES = 32
NUM_TOKENS = 200
"""Length of a sampled text: 0.2 to 0.6 s of training time."""
GRID = 100
"""Points per side of the grid on which a classifier of points in the plane is evaluated."""

MAX_POINTS = 1000


def make_examples(
    experiment: Experiment, task: Task, vocabulary: Sequence[str] | None = None, unit: Unit = "characters"
) -> dict[str, Any]:
    """Return plain values for the figures of a run; empty if its task and data have none.

    Of the task reconstruction: `shape`, that of a sample; `inputs` of the validation split, else of the
    training split, and their `reconstructions`, each [n, D]; and `samples` [n, D], if the model has a method
    `sample(count)`. Of classes of points in the plane, `boundary`: see `_boundary`. Of characters or bytes,
    `text` that the model has drawn, beginning with the first token of the training split.

    Args:
        experiment: the trained model and its data.
        task: its task.
        vocabulary: the text of every token; None = draw no text.
        unit: what a token is.
    """
    with _evaluated(experiment) as model:
        if vocabulary is not None and all(len(token) == 1 for token in vocabulary):
            return {"text": _text(experiment, model, vocabulary, unit)}
        if task == RECONSTRUCTION:
            return _reconstructions(experiment, model)
        if task == CLASSIFICATION and experiment.splits.train.inputs.shape[1:] == (2,):
            return {"boundary": _boundary(experiment, model)}
    return {}


@contextmanager
def _evaluated(experiment: Experiment) -> Iterator[nn.Module]:
    """Provide the model as in an evaluation."""
    model, was_training = experiment.model, experiment.model.training
    with experiment.state.evaluation(), torch.no_grad(), experiment.autocast:
        model.eval()
        try:
            yield model
        finally:
            model.train(was_training)


def _reconstructions(experiment: Experiment, model: nn.Module) -> dict[str, Any]:
    split = experiment.splits.val or experiment.splits.train
    inputs = _prepared(
        experiment, Split(split.inputs[:NUM_RECONSTRUCTIONS], split.targets[:NUM_RECONSTRUCTIONS])
    )
    predicted = prediction(model(inputs), experiment.forward.output)
    examples = {
        "shape": list(inputs.shape[1:]),
        "inputs": _numbers(inputs.flatten(1)),
        "reconstructions": _numbers(predicted),
    }
    draw: Any = getattr(model, "sample", None)
    if callable(draw):
        samples = draw(NUM_SAMPLES)
        if not isinstance(samples, Tensor) or samples.shape != (NUM_SAMPLES, predicted.shape[1]):
            found = f" of shape {list(samples.shape)}" if isinstance(samples, Tensor) else ""
            raise RunError(
                f"the model's sample({NUM_SAMPLES}) returned a {type(samples).__name__}{found}",
                expected=f"a tensor [{NUM_SAMPLES}, {predicted.shape[1]}]",
            )
        examples["samples"] = _numbers(samples)
    return examples


def _text(experiment: Experiment, model: nn.Module, vocabulary: Sequence[str], unit: Unit) -> str:
    windows = experiment.splits.train.inputs
    tokens = sample_tokens(
        model,
        windows[0, :1].to(experiment.state.device),
        count=NUM_TOKENS,
        context=windows.shape[1],
        temperature=1.0,
        generator=generator("sample", 0),
        output=experiment.forward.output,
    )
    return decode(tokens.tolist(), vocabulary, unit)


def _boundary(experiment: Experiment, model: nn.Module) -> dict[str, Any]:
    """Return the classes on a grid around the training samples, and some of these samples.

    `x` and `y` [GRID] are the coordinates in the units of the data; `classes` and `probabilities`, of shape
    [GRID, GRID] (y, then x), are the most probable class and its probability; `points` is [n, 2] and `labels`
    [n].
    """
    train = experiment.splits.train
    low, high = train.inputs.amin(0), train.inputs.amax(0)
    margin = 0.1 * (high - low)
    steps = torch.linspace(0, 1, GRID)
    sides = [(low[i] - margin[i]) + steps * (high[i] - low[i] + 2 * margin[i]) for i in range(2)]
    y, x = torch.meshgrid(sides[1], sides[0], indexing="ij")
    grid = torch.stack([x.flatten(), y.flatten()], dim=1)
    inputs = _prepared(experiment, Split(grid, torch.zeros(len(grid), dtype=torch.int64)))
    outputs = prediction(model(inputs), experiment.forward.output)
    probabilities, classes = outputs.float().softmax(1).max(1)
    return {
        "x": _numbers(sides[0]),
        "y": _numbers(sides[1]),
        "classes": classes.reshape(GRID, GRID).tolist(),
        "probabilities": _numbers(probabilities.reshape(GRID, GRID)),
        "points": _numbers(train.inputs[:MAX_POINTS]),
        "labels": train.targets[:MAX_POINTS].tolist(),
    }


def _prepared(experiment: Experiment, split: Split) -> Tensor:
    prepare, device = experiment.batches.prepare, experiment.state.device
    return next(eval_batches(split, batch_size=len(split), prepare=prepare, device=device)).inputs


def _numbers(values: Tensor) -> Any:
    """Return numbers with four digits, as nested lists."""
    rounded = torch.tensor(
        [float(f"{value:.4g}") for value in values.flatten().tolist()], dtype=torch.float64
    )
    return rounded.reshape(values.shape).tolist()
