"""Export to the trackers' own packages, and reading back what they stored."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command import column, optlab, rows, train, write_tiny
from trainer.runs.exporting import read_for_export

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of five steps, whose last evaluation a longer run takes back."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "one"
    train(write_tiny(tmp_path), "train.epochs=null", "train.steps=5", "log.plots=[png]", run_dir=folder)
    return folder


def expected(folder: Path, table: str, name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[name])) for row in rows(folder / table) if row[name]]


def export(folder: Path, *arguments: str) -> None:
    done = optlab("export", folder, *arguments)
    assert done.code == 0, done.err
    assert str(folder) in done.out


def extend(folder: Path) -> None:
    before = column(folder / "epochs.csv", "step")
    done = optlab("resume", folder, "train.steps=14", "--quiet")
    assert done.code == 0, done.err
    assert before[-1] not in column(folder / "epochs.csv", "step")


def check_points(folder: Path, read: Callable[[], Points], prefix: tuple[str, str] = ("", "")) -> None:
    """Compare what a tracker has with the tables of the run."""
    points = read()
    for table, name, start in (("steps.csv", "loss", prefix[0]), ("epochs.csv", "val_loss", prefix[1])):
        found, wanted = points[start + name], expected(folder, table, name)
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def export_extend_export(
    folder: Path, read: Callable[[], Points], *arguments: str, prefix: tuple[str, str] = ("", "")
) -> None:
    """Export a run twice, take rows back and add some, and export it again."""
    export(folder, *arguments)
    check_points(folder, read, prefix)
    export(folder, *arguments)
    check_points(folder, read, prefix)
    extend(folder)
    export(folder, *arguments)
    check_points(folder, read, prefix)


def test_tensorboard_reads_the_event_files(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def load() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / "tensorboard" / "tiny" / "one"))
        return accumulator.Reload()

    def read() -> Points:
        loaded = load()
        names = loaded.Tags()["scalars"]
        return {name: [(point.step, point.value) for point in loaded.Scalars(name)] for name in names}

    export_extend_export(run, read, "--to", "tensorboard", prefix=("steps/", "epochs/"))
    loaded = load()
    assert {"figures/loss", "figures/lr"} <= set(loaded.Tags()["images"])
    assert loaded.Images("figures/loss")[0].encoded_image_string == (run / "plots" / "loss.png").read_bytes()
    texts = {f"{name}/text_summary" for name in ("config", "environment", "summary")}
    assert texts <= set(loaded.Tags()["tensors"])
    other = tmp_path / "elsewhere" / "one"
    train(tmp_path / "tiny.yaml", run_dir=other)
    export(other, "--to", "tensorboard")
    assert load().Tags() == loaded.Tags()  # another run of this name has another folder
    assert len(list((tmp_path / "tensorboard" / "tiny").iterdir())) == 2
    files = sorted((tmp_path / "tensorboard").rglob("events.*"))
    export(run, "--to", "tensorboard")
    assert sorted((tmp_path / "tensorboard").rglob("events.*")) == files


def test_mlflow_client_finds_the_run(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    to = ("--to", "mlflow", "--option", f"uri={uri}")
    client = MlflowClient(uri)

    def found() -> list[object]:
        experiment = client.get_experiment_by_name("tiny")
        return list(client.search_runs([experiment.experiment_id]))

    def read() -> Points:
        (one,) = found()
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(one.info.run_id, name)]
            for name in one.data.metrics
        }

    export_extend_export(run, read, *to)
    (one,) = found()
    assert one.data.params["optimizer.name"] == "SGD"
    assert one.data.params["train.steps"] == "14"
    assert one.data.tags["optlab.status"] == "completed"
    assert one.info.status == "FINISHED"
    assert "loss.png" in {Path(file.path).name for file in client.list_artifacts(one.info.run_id, "plots")}


def test_mlflow_writes_a_run_again_if_its_last_export_did_not_end(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    to = ("--to", "mlflow", "--option", f"uri={uri}")
    export(run, *to)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (one,) = client.search_runs([experiment])
    client.set_tag(one.info.run_id, "optlab.mark", "")
    export(run, *to)
    (again,) = client.search_runs([experiment])
    assert again.info.run_id != one.info.run_id
    assert len(client.get_metric_history(again.info.run_id, "loss")) == len(rows(run / "steps.csv"))


def log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, which has a header of seven bytes here."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, part = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def test_wandb_writes_its_offline_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")

    def read() -> Points:
        (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
        points: Points = {}
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") != "history":
                continue
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for name, value in items.items():
                points.setdefault(name, []).append((int(items["_step"]), float(json.loads(value))))
        return points

    export_extend_export(run, read, "--to", "wandb")


def test_trackio_stores_the_run(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "TRACKIO_DIR" not in os.environ:  # read once, when the package is imported
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    project = f"project-{os.getpid()}-{run.parent.parent.name}"

    def read() -> Points:
        (one,) = trackio.Api().runs(project)
        points: Points = {}
        logged = SQLiteStorage.get_logs(project, one.name, run_id=one.id)
        assert "figures/loss" in logged[-1]
        for entry in logged:
            for name, value in entry.items():
                if isinstance(value, int | float):
                    points.setdefault(name, []).append((entry["step"], value))
        return points

    export_extend_export(run, read, "--to", "trackio", "--option", f"project={project}")


def test_a_users_tracker_receives_the_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(
        "from pathlib import Path\n\n"
        "def sink(run, *, file: Path = Path('received.txt')):\n"
        "    rows = run.step_rows()\n"
        "    text = [run.id, run.status, run.tags['optimizer'], len(rows), run.results()['steps']]\n"
        "    Path(file).write_text(' '.join(map(str, text)))\n"
    )
    export(run, "--to", "sink.py:sink", "--option", "file=out.txt")
    exported = read_for_export(run)
    count = len(rows(run / "steps.csv"))
    assert (tmp_path / "out.txt").read_text() == f"{exported.id} completed SGD {count} 5.0"


def test_a_missing_package_is_reported_with_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = optlab("export", run, "--to", "tensorboard")
    assert done.code == 1
    assert "tensorboard is not installed" in done.err
    assert "pip install 'optlab[tensorboard]'" in done.err


def test_follow_exports_what_is_added_and_repeats_what_failed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(
        "from pathlib import Path\n\n"
        "def sink(run):\n"
        "    if not Path('tried').exists():\n"
        "        Path('tried').touch()\n"
        "        raise OSError('no connection')\n"
        "    Path('received.txt').write_text(str(len(run.epoch_rows())))\n"
    )
    script = "import sys; from trainer.cli import script; from trainer.cli.commands import export\n"
    script += "export._WAIT_AFTER_FAILURE = 0.1; sys.argv[0] = 'optlab'; script()"
    command = [sys.executable, "-c", script, "export", str(run), "--to", "sink.py:sink", "--follow"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(tmp_path / "received.txt", "2")
        with open(run / "epochs.csv", "a") as file:
            file.write(file_row(run))
        wait_for(tmp_path / "received.txt", "3")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        told = process.stderr.read()
        assert "no connection" in told
        assert "Traceback" not in told
    finally:
        process.kill()


def file_row(run: Path) -> str:
    return (run / "epochs.csv").read_text().splitlines()[-1] + "\n"


def wait_for(path: Path, text: str) -> None:
    end = time.monotonic() + 60
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < end, path
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "tensorbord"), "tensorboard"),
        (("--to", "mlflow", "--option", "url=x"), "uri"),
        (("--to", "mlflow", "--option", "uri=http://me:secret@host"), "MLFLOW_TRACKING_PASSWORD"),
        (("--to", "mlflow", "--to", "wandb", "--option", "project=x"), "one command per tracker"),
    ],
)
def test_wrong_trackers_and_options_are_config_errors(
    run: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = optlab("export", run, *arguments)
    assert done.code == 2
    assert message in done.err


def test_changes_are_the_rows_after_the_mark(run: Path) -> None:
    before = read_for_export(run)
    mark = before.mark()
    assert before.changes(mark) is None
    assert before.changes("damaged") == before.changes(None)
    shorter = {name: cells[:2] for name, cells in before.steps.items()}
    earlier = replace(before, steps=shorter, summary=None, status="running")
    changes = before.changes(earlier.mark())
    assert changes is not None
    assert not changes.from_start
    assert [row.step for row in changes.steps] == [row.step for row in before.step_rows()[2:]]
    assert list(changes.epochs) == []
    other = replace(before, config={**before.config, "seed": 7})
    changes = other.changes(mark)
    assert changes is not None
    assert changes.from_start
