"""Tasks: what the targets of a data set are, and the loss and the metrics that follow from that.

A data set states its task (`Dataset.task`); `task` in a config states another one for the same data. This
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Task:
    """What a model learns to return, and how this is measured by default.

    Args:
        name: name in configs.
        loss: name of the default loss.
        metrics: names of the metrics that every run measures.
        select: name of the metric that selects the best checkpoint by default.
        of: the tasks of the data sets that can be used for this task.
        scales_inputs: whether inputs are measurements, which can be normalized and augmented.
    """

    name: str
    loss: str
    metrics: tuple[str, ...] = ()
    select: str = "loss"
    of: tuple[str, ...] = ()
    scales_inputs: bool = True


CLASSIFICATION = Task(
    "classification", "cross_entropy", ("accuracy",), select="accuracy", of=("classification",)
)
REGRESSION = Task("regression", "mse", of=("regression",))
RECONSTRUCTION = Task(
    "reconstruction", "mse", ("mse",), of=("classification", "regression", "reconstruction")
)
NEXT_TOKEN = Task(
    "next_token",
    "cross_entropy",
    ("perplexity", "bits_per_char"),
    of=("next_token",),
    scales_inputs=False,
)
OBJECTIVE = Task(
    "objective", "objective", ("suboptimality",), of=("objective", "regression"), scales_inputs=False
)

TASKS: Mapping[str, Task] = {
    task.name: task for task in (CLASSIFICATION, REGRESSION, RECONSTRUCTION, NEXT_TOKEN, OBJECTIVE)
}


def task_of(stated: str | None, of_data: str) -> Task:
    """Return the task of a run.

    Args:
        stated: the task in the config; None = that of the data set.
        of_data: the task that the data set states.

    Raises:
        ConfigError: the data set cannot be used for the stated task; `key` is "task".
    """
    if stated is None:
        return TASKS[of_data]
    task = TASKS[stated]
    if of_data not in task.of:
        possible = [name for name, other in TASKS.items() if of_data in other.of]
        raise ConfigError(
            f"the data set is for {of_data}, not for {stated}",
            key="task",
            expected=" or ".join(possible),
            fix="leave out `task`, or choose another data set",
        )
    return task
