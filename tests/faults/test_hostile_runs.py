"""Every command on every hostile run gives a documented exit code and changes no other file."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import TINY, Done, optlab, train, write_tiny
from hostile_runs import FOREIGN, HOSTILE
from sampling import one_in

import trainer
from trainer.errors import OptlabError

OPTIMIZER = "from torch.optim import SGD\n\n\nclass Mine(SGD):\n    pass\n"
MINE = ("NOTES.md", ".x.tmp", ".draft.1.tmp", "plots/mine.png", "checkpoints/.mine.tmp", "mine/steps.csv")
READING = ("runs", "compare", "load_run", "load_runs")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a user's optimizer, and its config next to it."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "mine.py").write_text(OPTIMIZER)
    config = write_tiny(folder, TINY.replace("name: SGD", "name: mine.py:Mine"))
    train(config, "train.checkpoint_every={steps: 3}", "log.histograms=true", run_dir=folder / "run")
    (folder / "run" / "plots" / "loss.png").write_bytes(b"a figure")
    return folder


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: the tests cover what is read and where figures are written."""

    def plot(curves: Any, folder: Path, *, formats: Any, save: Any) -> list[Path]:
        paths = [folder / f"loss.{ending}" for ending in formats]
        for path in paths:
            save(None, path)
        return paths

    monkeypatch.setattr("trainer.plots.run.plot_run", plot)
    monkeypatch.setattr("trainer.plots.histograms.plot_histograms", lambda *_, **__: None)
    monkeypatch.setattr("trainer.plots.style.render", lambda figure, ending: b"drawn")


class World:
    """A folder of runs, one of them hostile, with user files in and next to it."""

    def __init__(self, good: Path, folder: Path, case: str) -> None:
        self.config = good / "tiny.yaml"
        self.runs, self.outside = folder / "runs", folder / "outside"
        self.hostile = self.runs / "hostile"
        self.outside.mkdir(parents=True)
        (self.outside / "precious.txt").write_text("the user's")
        shutil.copytree(good / "run", self.runs / "good")
        shutil.copytree(good / "run", self.hostile)
        HOSTILE[case](self.hostile, self.outside)
        for name in MINE:
            path = self.hostile / name
            if not path.parent.is_symlink() and (path.parent.is_dir() or not path.parent.exists()):
                path.parent.mkdir(exist_ok=True)
                path.write_text("the user's own")
        self.before = self.look(self.outside) | self.look(self.runs / "good")
        self.within = self.look(self.hostile)
        self.mine = {path: seen for path, seen in self.within.items() if path.endswith(MINE)}

    @staticmethod
    def look(folder: Path) -> dict[str, Any]:
        """Return what is in a folder: kind, time of the last change, size and small contents."""
        found = {}
        for place, folders, files in os.walk(folder):
            for name in (*folders, *files):
                path = os.path.join(place, name)
                status = os.lstat(path)
                small = Path(path).is_file() and status.st_size < 1 << 20 and not Path(path).is_symlink()
                changes = 0 if name in folders else status.st_mtime_ns
                content = Path(path).read_bytes() if small else None
                found[path] = (status.st_mode, changes, status.st_size if small else 0, content)
        return found

    def do(self, verb: str) -> Done | None:
        """Run a command on the hostile run; None if it is not a command line."""
        if verb in ("load_run", "load_runs"):
            with contextlib.suppress(OptlabError):
                trainer.load_run(self.hostile) if verb == "load_run" else trainer.load_runs(self.runs)
            return None
        if verb == "runs":
            return optlab("runs", self.runs, "--json")
        if verb == "compare":
            return optlab("compare", self.runs)
        if verb == "plot":
            return optlab("plot", self.hostile)
        if verb == "resume":
            return optlab("resume", self.hostile, "train.epochs=2", "--quiet", "--trust")
        return optlab("train", self.config, "--run-dir", self.hostile, "--quiet", verb)

    def check(self, case: str, verb: str, done: Done | None) -> None:
        """Check that only files of the run changed, and the output of the command."""
        assert self.look(self.outside) | self.look(self.runs / "good") == self.before, (case, verb)
        now = self.look(self.hostile)
        assert {path: seen for path, seen in now.items() if path in self.mine} == self.mine, (case, verb)
        if case in FOREIGN or verb in READING[:2]:
            assert now == self.within, (case, verb)
        if done is not None:
            assert done.code in (0, 1, 2, 3), (case, verb, done)
            assert "Traceback" not in done.err + done.out, (case, verb, done)
            assert done.code == 0 or "error: " in done.err, (case, verb, done)
            if case in FOREIGN and verb not in ("runs", "compare"):
                assert done.code == 2, (case, verb, done)


def test_unreadable_runs_are_reported_and_the_others_listed(good: Path, tmp_path: Path) -> None:
    world = World(good, tmp_path, "nothing")
    for number, case in enumerate(HOSTILE):
        shutil.copytree(good / "run", world.runs / f"hostile{number}")
        outside = world.outside / str(number)
        outside.mkdir()
        HOSTILE[case](world.runs / f"hostile{number}", outside)
    before = world.look(world.runs) | world.look(world.outside)
    listed = optlab("runs", world.runs, "--json")
    assert (listed.code, listed.err) == (0, "")
    status = {row["run"]: (row["status"], row["reason"]) for row in listed.json}
    assert status[str(world.runs / "good")] == ("completed", None)
    assert {found == "unreadable" for found, reason in status.values() if reason} == {True}
    assert sum(found == "unreadable" for found, _ in status.values()) >= 25
    table = optlab("runs", world.runs)
    assert "unreadable" in table.out
    assert "read it with optlab 9.1" in table.out
    compared = optlab("compare", world.runs)
    assert (compared.code, "Mine" in compared.out) == (0, True), compared
    with pytest.warns(UserWarning, match="left out"):
        assert world.runs / "good" in [run.path for run in trainer.load_runs(world.runs)]
    for place in world.runs.iterdir():
        with contextlib.suppress(OptlabError):
            trainer.load_run(place)
    assert world.look(world.runs) | world.look(world.outside) == before


VERBS = ("plot", "resume", "--skip-existing", "--resume", "--force", "--quiet")


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_run(good: Path, tmp_path: Path, case: str) -> None:
    """One command per case, in rotation; the nightly test tries all of them."""
    verb = VERBS[list(HOSTILE).index(case) % len(VERBS)]
    world = World(good, tmp_path, case)
    world.check(case, verb, world.do(verb))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("case", HOSTILE)
def test_every_verb_on_a_hostile_run(good: Path, tmp_path: Path, case: str) -> None:
    for verb in READING:
        world = World(good, tmp_path / verb, case)
        world.check(case, verb, world.do(verb))
    for verb in VERBS:
        world = World(good, tmp_path / verb, case)
        world.check(case, verb, world.do(verb))


def sweep_over(good: Path, folder: Path, case: str, *options: str) -> tuple[Done, Path]:
    """Run a sweep of one run whose directory holds a hostile one."""
    for name in ("tiny.yaml", "mine.py"):
        shutil.copy(good / name, folder / name)
    (folder / "sweep.yaml").write_text("base: tiny.yaml\nname: s\nworkers: 1\naxes: {optimizer.lr: [0.05]}\n")
    place = folder / "runs" / "s" / "runs" / "lr=0.05,seed=0"
    outside = folder / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("the user's")
    shutil.copytree(good / "run", place)
    HOSTILE[case](place, outside)
    return optlab("sweep", folder / "sweep.yaml", "--runs", folder / "runs", "--quiet", *options), outside


@pytest.mark.parametrize("case", one_in(12, HOSTILE))
def test_a_sweep_over_a_hostile_run(good: Path, tmp_path: Path, case: str) -> None:
    done, outside = sweep_over(good, tmp_path, case, "--dry-run")
    assert done.code in (0, 1, 2), (case, done)
    assert "Traceback" not in done.err + done.out, (case, done)
    assert [path.name for path in outside.rglob("precious.txt")] == ["precious.txt"]


@pytest.mark.nightly
@pytest.mark.parametrize("case", HOSTILE)
def test_a_whole_sweep_over_a_hostile_run(good: Path, tmp_path: Path, case: str) -> None:
    done, outside = sweep_over(good, tmp_path, case, "--no-figures")
    assert done.code in (0, 1, 2, 4), (case, done)
    assert "Traceback" not in done.err + done.out, (case, done)
    assert (outside / "precious.txt").read_text() == "the user's"
