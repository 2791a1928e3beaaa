"""With misbehaving user components, every command ends with a message and a documented exit code."""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command import Done, optlab
from misbehaving import ACTS, HARMLESS, KIND_OF, ODD, PARTS, PLACES, RAISING, RETURNS, config, odd, source

from trainer.runs import rundir

ENDED = {"completed", "early_stopped", "diverged", "failed"}


@pytest.fixture(autouse=True)
def process_as_before(tmp_path: Path) -> Iterator[None]:
    """Restore what a component can have changed in this process."""
    here, dtype, limit = Path.cwd(), torch.get_default_dtype(), sys.getrecursionlimit()
    out, threads = sys.stdout, torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    os.chdir(here)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    sys.setrecursionlimit(limit)
    sys.stdout = out


def write(folder: Path, kind: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "part.py").write_text(text, encoding="utf-8")
    path = folder / "bad.yaml"
    path.write_text(config(kind), encoding="utf-8")
    return path


def forget(folder: Path) -> None:
    """Make the component be imported again, as in a new process, and undo its changes."""
    sys.modules.pop(f"optlab_user:{folder / 'part.py'}", None)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def ended_well(done: Done, *, codes: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    assert done.code in codes, (done.code, done.err)
    assert "Traceback" not in done.err, done.err
    if done.code in (1, 2):
        assert "error: " in done.err, done.err


def trained(folder: Path, kind: str, text: str) -> Done:
    """Train with a component and check the invariants."""
    path = write(folder, kind, text)
    run = folder / "runs" / "one"
    done = optlab("train", path, "--run-dir", run, "--quiet")
    ended_well(done)
    if done.code == 2:
        assert not run.exists(), "a run directory was made"
        assert "bad.yaml:" in done.err, done.err
        return done
    assert done.code != 1 or "part.py:" in done.err, done.err
    status = json.loads((run / rundir.STATUS).read_text(encoding="utf-8"))
    assert status["status"] in ENDED, status
    assert (done.code == 1) == (status["status"] == "failed"), (done, status)
    if status["status"] == "failed":
        assert status["message"], status
    return done


def every_verb(folder: Path, kind: str, text: str) -> None:
    """Call every command that runs a component, after training."""
    done = trained(folder, kind, text)
    path, runs = folder / "bad.yaml", folder / "runs"
    shown = KIND_OF.get(kind, kind)
    for arguments in (
        ("validate", path),
        ("train", path, "--dry-run", "--runs", runs),
        ("show", shown, f"{folder / 'part.py'}:Part"),
        ("sweep", path, "--dry-run", "--runs", runs),
    ):
        forget(folder)
        ended_well(optlab(*arguments), codes=(0, 1, 2))
    forget(folder)
    ended_well(optlab("list"), codes=(0,))
    if done.code != 2:
        for arguments in (
            ("resume", runs / "one"),
            ("resume", runs / "one", "train.epochs=2"),
            ("plot", runs / "one"),
            ("compare", runs / "one"),
        ):
            forget(folder)
            ended_well(optlab(*arguments))
        forget(folder)
        ended_well(optlab("runs", runs), codes=(0,))


CASES = [
    *((kind, f"{act} at {place}", source(kind, act=ACTS[act], place=place))
      for kind in PARTS for act in ACTS for place in PLACES),
    *((kind, f"returns {name} from call {since}", source(kind, value=value, since=since))
      for kind in PARTS for name, value in RETURNS.items() for since in (1, 20)),
    *((name.partition(":")[0], name, odd(name)) for name in ODD),
]  # fmt: skip


def _few() -> list[tuple[str, str, str]]:
    """A fixed random subset of all cases, with every case of `ODD`."""
    odd_ones = CASES[-len(ODD) :]
    return random.Random(0).sample(CASES[: -len(ODD)], 30) + odd_ones


@pytest.mark.parametrize(("kind", "name", "text"), _few(), ids=[f"{k}-{n}" for k, n, _ in _few()])
def test_training_with_a_misbehaving_component(kind: str, name: str, text: str, tmp_path: Path) -> None:
    done = trained(tmp_path, kind, text)
    if name in ODD:
        assert (done.code == 0) == (name in HARMLESS), done


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "name", "text"), CASES, ids=[f"{k}-{n}" for k, n, _ in CASES])
def test_every_command_with_a_misbehaving_component(kind: str, name: str, text: str, tmp_path: Path) -> None:
    every_verb(tmp_path, kind, text)


@pytest.mark.parametrize("kind", list(PARTS))
def test_the_components_are_valid_without_their_fault(kind: str, tmp_path: Path) -> None:
    assert trained(tmp_path, kind, source(kind)).code == 0


@pytest.mark.parametrize("kind", list(PARTS))
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("act", ["ValueError", pytest.param("SystemExit 3", marks=pytest.mark.nightly)])
def test_an_exception_of_a_component_is_reported_with_its_line(
    kind: str, place: str, act: str, tmp_path: Path
) -> None:
    text = source(kind, act=RAISING[act], place=place)
    done = trained(tmp_path, kind, text)
    if place == "call 20" and kind in ("dataset", "init"):  # they are called fewer than 20 times
        assert done.code == 0
        return
    line = text.splitlines().index(f"    {RAISING[act]}") + 1
    in_run = place == "call 20" and KIND_OF.get(kind, kind) not in ("scheduler", "dataset")
    assert done.code == (1 if in_run else 2), done
    assert f"part.py:{line}" in done.err
    assert ("boom" if act == "ValueError" else "sys.exit(3)") in done.err
    if done.code == 2:
        assert "bad.yaml:" in done.err
