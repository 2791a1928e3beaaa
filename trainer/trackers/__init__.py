"""Trackers: functions that send a run to TensorBoard, MLflow, Weights & Biases or Trackio.

Each is one file and one line in `TRACKERS`; a user's own is a function with the parameter `run`. A tracker's
package is imported when its function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.trackers.mlflow import mlflow
from trainer.trackers.tensorboard import tensorboard
from trainer.trackers.trackio import trackio
from trainer.trackers.wandb import wandb

TRACKERS: Mapping[str, Callable[..., Any]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "wandb": wandb,
    "trackio": trackio,
}
