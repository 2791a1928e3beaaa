"""A run is copied between hosts so that every prefix of the copied files can be resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

from command import optlab, write_tiny
from same_run import copied_at, differences

from trainer.runs import rundir
from trainer.sweep.run_copies import read_files, remove_other_files, write_files

OPTIONS = ["train.epochs=3", "train.checkpoint_every={steps: 2}", "log.every=1", "--quiet", "--run-dir"]


def test_changed_files_are_copied_and_the_copy_is_resumed_from_any_prefix(tmp_path: Path) -> None:
    config, whole, run, copy = write_tiny(tmp_path), *(tmp_path / name for name in ("whole", "run", "copy"))
    with copied_at(5, tmp_path / "early"), copied_at(16, run):
        assert optlab("train", config, *OPTIONS, whole).code == 0
    versions: dict[str, tuple[int, int, int]] = {}
    copy.mkdir()
    write_files(copy, read_files(tmp_path / "early", versions))
    assert read_files(tmp_path / "early", versions) == {}

    changed = read_files(run, versions)
    names = list(changed)
    assert names[-1] == rundir.STATUS
    assert names.index("checkpoints/last.pt") > max(map(names.index, (rundir.STEPS, "checkpoints/best.pt")))
    for count in range(0, len(names), 2):
        part = tmp_path / f"part{count}"
        shutil.copytree(copy, part)
        write_files(part, {name: changed[name] for name in names[:count]})
        assert optlab("resume", part, "--quiet").code == 0
        assert differences(whole, part) == []


def test_files_of_a_former_run_are_removed_but_not_those_of_the_user(tmp_path: Path) -> None:
    for name in (rundir.STATUS, rundir.SUMMARY, "NOTES.md"):
        (tmp_path / name).write_text("x")
    remove_other_files(tmp_path, {rundir.STATUS: None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NOTES.md", rundir.STATUS]


def test_nothing_is_copied_while_a_run_begins(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert optlab("train", write_tiny(tmp_path), *OPTIONS, run).code == 0
    uuid = rundir.load_status(run)["uuid"]
    opening = run / f"{rundir.OPENING}{uuid}"
    opening.mkdir()
    (opening / rundir.CONFIG).write_text("format: 1\n")
    assert read_files(run, {}) == {}
