"""Sends runs to Weights & Biases, or writes them to its offline folder."""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from pathlib import Path

from trainer.trackers.exported_run import ExportedRun, Values, missing


def wandb(
    run: ExportedRun,
    *,
    project: str | None = None,
    entity: str | None = None,
    mode: str | None = None,
    folder: Path = Path("."),
) -> None:
    """Send a run to Weights & Biases: config, environment, rows, results, tags and figures.

    Offline, a run is written anew by every export; `wandb sync` sends it. Online, only rows after the last
    step of the run there are sent, because Weights & Biases cannot take rows back: a resumed run repeats
    these steps with the same values.

    Args:
        run: the run.
        project: the project; null = the name in the run's config.
        entity: the user or team; null = that of the login.
        mode: `online` or `offline`; null = WANDB_MODE, else online if the user is logged in.
        folder: where `wandb/` is written.
    """
    try:
        import wandb as client
    except ImportError as error:
        raise missing("wandb", "wandb") from error

    mode = mode or os.environ.get("WANDB_MODE") or ("online" if client.login(prompt=False) else "offline")
    if mode == "offline":
        for old in (Path(folder) / "wandb").glob(f"offline-run-*-{run.id}"):
            shutil.rmtree(old)
    live = client.init(
        project=project or run.project.replace("/", "-"),
        entity=entity,
        id=run.id,
        name=run.name,
        group=run.group[:128],
        tags=[f"{key}={value}"[:64] for key, value in run.tags.items()],
        config={**run.config, "optlab_environment": run.environment, "optlab_folder": str(run.folder)},
        dir=str(folder),
        mode="offline" if mode == "offline" else "online",
        resume=None if mode == "offline" else "allow",
        allow_val_change=True,
        save_code=False,
        settings=client.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True),
    )
    try:
        for step, values in _by_step(run).items():
            if step >= live.step:
                live.log(values, step=step)
        results = run.results() | {f"figures/{path.stem}": client.Image(str(path)) for path in run.figures}
        live.summary.update(results | {"status": run.status, "message": run.message})
    finally:
        live.finish(exit_code=1 if run.status in ("failed", "diverged") else 0)


def _by_step(run: ExportedRun) -> dict[int, dict[str, float | str]]:
    """Return the values of both tables by step, in order: Weights & Biases has one row per step."""
    rows: dict[int, Values] = defaultdict(dict)
    for row in [*run.step_rows(), *run.epoch_rows()]:
        rows[row.step] |= row.values | {"train_seconds": row.seconds}
    return {
        step: {name: value if math.isfinite(value) else str(value) for name, value in rows[step].items()}
        for step in sorted(rows)
    }
