"""Reading a run repeatedly during training gives complete rows, no error, and does not change its result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command import optlab, write_tiny
from forks import Forks
from same_run import differences

from trainer import load_run
from trainer.runs import rundir

OPTIONS = ["train.epochs=3", "train.checkpoint_every={steps: 2}", "log.every=1", "--quiet", "--run-dir"]


def test_reading_while_training(forks: Forks, tmp_path: Path) -> None:
    config, runs = write_tiny(tmp_path), tmp_path / "runs"
    assert optlab("train", config, *OPTIONS, tmp_path / "whole").code == 0
    assert optlab("train", config, "optimizer.lr=0.2", *OPTIONS, runs / "other").code == 0
    counts, seen = {"running": 0, "completed": 0}, []
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(
            forks.run, tmp_path, "train", config, *OPTIONS, runs / "read", slow=0.02, hold_at=15
        )
        try:
            while not (finished := training.done()) or counts["completed"] == 0:
                if rundir.read_status(runs / "read") is None:  # it has not started
                    assert not finished, training.result().err
                    continue
                found = load_run(runs / "read")
                counts[str(found.status["status"])] += 1
                assert len({len(cells) for cells in found.steps.values()}) <= 1
                seen.append(found.steps.get("loss", []))
                commands: list[list[str | Path]] = [
                    ["runs", runs, "--json"],
                    ["compare", runs / "other", runs / "read"],
                ]
                if len(seen) == 2:  # drawing takes long
                    commands.append(["plot", runs / "read"])
                for command in commands:
                    done = optlab(*command)
                    assert done.code == 0, done.err
                if counts["running"] == 3:  # it waits in the middle until then
                    (tmp_path / "go").touch()
        finally:  # do not let it wait if the test failed
            (tmp_path / "go").touch()
    assert training.result().code == 0, training.result().err
    assert counts["running"] >= 3
    for losses in seen:  # existing rows do not change, and new rows are complete and in order
        assert losses == seen[-1][: len(losses)]
    assert differences(tmp_path / "whole", runs / "read") == []
    assert list(runs.rglob("*.tmp")) == []
