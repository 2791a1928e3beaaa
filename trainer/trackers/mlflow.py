"""Sends runs to an MLflow tracking server or database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from trainer.trackers.exported_run import ExportedRun, missing

Item = TypeVar("Item")
_ID, _MARK = "optlab.id", "optlab.mark"
_METRICS_PER_REQUEST = 1000  # limits of MLflow
_TAGS_PER_REQUEST = 100
_MAX_VALUE, _MAX_KEY = 5000, 250
_STATUS = {"running": "RUNNING", "failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}


def mlflow(run: ExportedRun, *, uri: str | None = None, experiment: str | None = None) -> None:
    """Send a run to MLflow: parameters, metrics, environment, tags and figures.

    Rows that were added since the last export are appended. If the run took rows back, as resuming does, its
    MLflow run is deleted and written again.

    Args:
        run: the run.
        uri: the tracking server or database, as `http://localhost:5000`; null = MLFLOW_TRACKING_URI, else
            `sqlite:///mlflow.db`. Give user and password in MLFLOW_TRACKING_USERNAME and
            MLFLOW_TRACKING_PASSWORD.
        experiment: name of the MLflow experiment; null = the name in the run's config.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
    except ImportError as error:
        raise missing("mlflow", "mlflow") from error

    client = MlflowClient(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    experiment_id = _experiment(client, experiment or run.project)
    found = client.search_runs([experiment_id], f"tags.`{_ID}` = '{run.id}'")
    changes = run.changes(found[0].data.tags.get(_MARK) if len(found) == 1 else None)
    if changes is None:
        return
    if changes.from_start:
        for old in found:
            client.delete_run(old.info.run_id)
        tags = {_ID: run.id, "optlab.group": run.group, "optlab.folder": str(run.folder)} | dict(run.tags)
        started = int(run.started * 1000)
        made = client.create_run(experiment_id, start_time=started, run_name=run.name, tags=_short(tags))
        run_id = made.info.run_id
        params = [Param(key, value) for key, value in _short(run.settings()).items()]
        for some in _batched(params, _TAGS_PER_REQUEST):
            client.log_batch(run_id, params=some)
        client.log_dict(run_id, dict(run.environment), "environment.json")
    else:
        run_id = found[0].info.run_id
        client.set_tag(run_id, _MARK, "")  # if this export does not end, the next one starts again

    def metrics() -> Iterator[Any]:
        for rows in (changes.steps, changes.epochs):
            for row in rows:
                at = int((run.started + row.seconds) * 1000)
                yield from (Metric(name, value, at, row.step) for name, value in row.values.items())

    for some in _batched(metrics(), _METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=some)
    results = [RunTag(f"optlab.{key}", text) for key, text in _short(run.results()).items()]
    for some in _batched(results, _TAGS_PER_REQUEST):
        client.log_batch(run_id, tags=some)
    for path in run.figures:
        client.log_artifact(run_id, str(path), "plots")
    for key, text in {"optlab.status": run.status, "optlab.message": run.message}.items():
        client.set_tag(run_id, key, text[:_MAX_VALUE])
    client.set_tag(run_id, _MARK, run.mark())
    if run.status != "running":
        ended = int((run.started + float((run.summary or {}).get("total_seconds", 0))) * 1000)
        client.set_terminated(run_id, _STATUS.get(run.status, "FINISHED"), ended)
    else:
        client.update_run(run_id, "RUNNING")


def _experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _short(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as text, with keys and lengths that MLflow accepts."""
    return {
        "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key)[:_MAX_KEY]: str(value)[:_MAX_VALUE]
        for key, value in values.items()
    }
