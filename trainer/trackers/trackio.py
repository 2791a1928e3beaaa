"""Sends runs to Trackio, which stores them in local SQLite files."""

from __future__ import annotations

from trainer.trackers.exported_run import ExportedRun, flatten, missing


def trackio(run: ExportedRun, *, project: str | None = None) -> None:
    """Send a run to Trackio: config, environment, rows, results and figures.

    Every export writes the run anew.

    Args:
        run: the run.
        project: the project; null = the name in the run's config.
    """
    try:
        import trackio as client
    except ImportError as error:
        raise missing("trackio", "trackio") from error

    project = (project or run.project).replace("/", "-")
    name = f"{run.name} {run.id[:8]}"
    try:
        stored = list(client.Api().runs(project))
    except ValueError:  # there is no such project yet
        stored = []
    for old in stored:
        if old.name == name:
            old.delete()
    config = run.settings() | {f"tag.{key}": value for key, value in run.tags.items()}
    config |= {f"result.{key}": value for key, value in run.results().items()}
    config |= {f"environment.{key}": value for key, value in flatten(run.environment).items()}
    config |= {"status": run.status, "message": run.message, "folder": str(run.folder)}
    client.init(
        project=project,
        name=name,
        group=run.group,
        config=config,
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    try:
        rows = sorted([*run.step_rows(), *run.epoch_rows()], key=lambda one: one.step)
        for row in rows:
            client.log(row.values | {"train_seconds": row.seconds}, step=row.step)
        if rows and run.figures:
            figures = {f"figures/{path.stem}": client.Image(path) for path in run.figures}
            client.log(figures, step=rows[-1].step)
    finally:
        client.finish()
