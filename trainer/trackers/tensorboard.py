"""Writes runs as event files of TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainer.trackers.exported_run import ExportedRun, Row, flatten, missing

_MARK = "optlab.json"


def tensorboard(run: ExportedRun, *, folder: Path = Path("tensorboard")) -> None:
    """Write a run for `tensorboard --logdir FOLDER`: scalars, figures, settings, environment and results.

    Rows that were added since the last export are appended. If the run took rows back, as resuming does, its
    event files are replaced.

    Args:
        run: the run.
        folder: the log folder; the run is written to a folder in it that has the run's name.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise missing("tensorboard", "tensorboard") from error

    target = Path(folder) / run.name
    stored = _stored(target)
    if stored.get("folder") not in (None, str(run.folder)):  # two folders have a run of this name
        target = target.with_name(f"{target.name} {run.id[:8]}")
        stored = _stored(target)
    mark = target / _MARK
    changes = run.changes(stored.get("mark") if stored.get("id") == run.id else None)
    if changes is None:
        return
    target.mkdir(parents=True, exist_ok=True)
    # Without a mark: if this export does not end, the next one starts again.
    mark.write_text(json.dumps({"folder": str(run.folder)}), encoding="utf-8")
    if changes.from_start:
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
    writer = EventFileWriter(str(target))

    def add(step: int, seconds: float, **content: Any) -> None:
        writer.add_event(Event(wall_time=run.started + seconds, step=step, **content))

    def add_rows(table: str, rows: Sequence[Row]) -> None:
        for row in rows:
            scalars = [Summary.Value(tag=f"{table}/{name}", simple_value=x) for name, x in row.values.items()]
            add(row.step, row.seconds, summary=Summary(value=scalars))

    try:
        if changes.from_start:  # an open TensorBoard then discards what it has read of the former files
            add(0, 0, session_log=SessionLog(status=SessionLog.START))
            environment = _text("environment", flatten(run.environment))
            add(0, 0, summary=Summary(value=[_text("config", run.settings()), environment]))
        add_rows("steps", changes.steps)
        add_rows("epochs", changes.epochs)
        if run.summary is not None:
            step, seconds = int(run.summary["steps"]), float(run.summary["total_seconds"])
            ending = {"status": run.status, "message": run.message} | run.results()
            values = [_text("summary", ending)]
            for path in run.figures:
                image = Summary.Image(encoded_image_string=path.read_bytes())
                values.append(Summary.Value(tag=f"figures/{path.stem}", image=image))
            add(step, seconds, summary=Summary(value=values))
    finally:
        writer.close()
    done = {"folder": str(run.folder), "id": run.id, "mark": run.mark()}
    mark.write_text(json.dumps(done), encoding="utf-8")


def _stored(target: Path) -> dict[str, str]:
    """Return the run directory, the id and the mark of the last export to a folder."""
    try:
        return dict(json.loads((target / _MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _text(tag: str, values: dict[str, Any]) -> Any:
    """Return a Markdown table of values, escaped: TensorBoard renders it as HTML."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = ["| key | value |", "| --- | --- |"]
    lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in values.items()]
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=["\n".join(lines).encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)


def _cell(value: Any) -> str:
    return " ".join(escape(str(value)).split()).replace("|", "&#124;")
