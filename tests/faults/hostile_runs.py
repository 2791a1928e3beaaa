"""Damaged, foreign and malicious run directories, each made from an intact run by one function.

A new case is one line in `HOSTILE`; `test_hostile_runs.py` tries every command that reads runs on each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.runs.files import temporary_name

Spoil = Callable[[Path, Path], None]
"""Takes the run directory and a folder of the user's files outside of it."""

JSON_FILES = ("status.json", "summary.json", "environment.json", "histograms.json")
FILES = (*JSON_FILES, "config.yaml", "steps.csv", "epochs.csv", "train.log", "lock")
FOLDERS = ("plots", "checkpoints", "components")


def text(name: str, content: str | bytes) -> Spoil:
    def spoil(run: Path, _: Path) -> None:
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def changed(name: str, **values: Any) -> Spoil:
    """Set keys of a JSON file; `__` separates nested keys."""

    def spoil(run: Path, _: Path) -> None:
        content = json.loads((run / name).read_text())
        for key, value in values.items():
            *parents, last = key.split("__")
            place = content
            for parent in parents:
                place = place[parent]
            place[last] = value
        (run / name).write_text(json.dumps(content))

    return spoil


def replaced(name: str, old: str, new: str) -> Spoil:
    def spoil(run: Path, _: Path) -> None:
        content = (run / name).read_text()
        assert old in content
        (run / name).write_text(content.replace(old, new, 1))

    return spoil


def absent(*names: str) -> Spoil:
    def spoil(run: Path, _: Path) -> None:
        for name in names:
            remove(run / name)

    return spoil


def linked(name: str) -> Spoil:
    """Move a file or folder out of the run and leave a link, so that writes would go outside the run."""

    def spoil(run: Path, outside: Path) -> None:
        target = outside / "moved"
        shutil.move(run / name, target)
        (run / name).symlink_to(target)

    return spoil


def link_to(name: str, target: str) -> Spoil:
    def spoil(run: Path, outside: Path) -> None:
        remove(run / name)
        (run / name).symlink_to(outside / target)

    return spoil


def fifo(name: str) -> Spoil:
    def spoil(run: Path, _: Path) -> None:
        remove(run / name)
        os.mkfifo(run / name)

    return spoil


def folder(name: str) -> Spoil:
    def spoil(run: Path, _: Path) -> None:
        remove(run / name)
        (run / name).mkdir()
        (run / name / "mine.txt").write_text("the user's")

    return spoil


def sparse(name: str) -> Spoil:
    """Make a sparse file of 8 GiB."""

    def spoil(run: Path, _: Path) -> None:
        with open(run / name, "wb") as file:
            file.truncate(8 << 30)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(run: Path, outside: Path) -> None:
        for one in spoils:
            one(run, outside)

    return spoil


def _nested(run: Path, _: Path) -> None:
    """Create another run in a nested folder."""
    shutil.copytree(run, run / "deeper" / "inner", ignore=shutil.ignore_patterns("deeper"))


def _killed_in_its_beginning(run: Path, _: Path) -> None:
    """Create the state after a kill just after status.json was replaced by that of a new run."""
    uuid = "0" * 32
    opening = run / f".opening-{uuid}"
    opening.mkdir()
    for name in ("config.yaml", "environment.json"):
        shutil.copy(run / name, opening / name)
    shutil.copytree(run / "components", opening / "components")
    changed("status.json", uuid=uuid, status="running")(run, run)


def _opening_of_links(run: Path, outside: Path) -> None:
    """Make the `.opening-` folder a link to a folder of the user."""
    uuid = "0" * 32
    shutil.copy(run / "config.yaml", outside / "config.yaml")
    shutil.copy(run / "environment.json", outside / "environment.json")
    (run / f".opening-{uuid}").symlink_to(outside)
    changed("status.json", uuid=uuid, status="running")(run, run)


MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
OTHER_TOOL = json.dumps({"format": 1, "status": "completed", "message": ""})

# Not runs of any release of optlab: no command changes a byte of them.
FOREIGN: dict[str, Spoil] = {
    "config and tables of the user": absent("status.json", "environment.json", "lock", "summary.json"),
    "config of the user alone": absent(*(set(FILES) | set(FOLDERS)) - {"config.yaml"}),
    "config and lock of the user": both(
        absent(*(set(FILES) | set(FOLDERS)) - {"config.yaml", "lock"}), text("lock", "held by my own tool")
    ),
    "status of another tool": both(
        text("status.json", OTHER_TOOL), absent("environment.json"), text("steps.csv", "time,value\n1,2\n")
    ),
    "status alone": both(
        text("status.json", OTHER_TOOL), absent("environment.json", "steps.csv", "epochs.csv")
    ),
    "status absent": absent("status.json"),
    "status empty": text("status.json", ""),
    "status a list": text("status.json", "[]"),
    "status a number": text("status.json", "1e999"),
    "status without a status": text("status.json", '{"format": 1}'),
    "status of lists": changed("status.json", status=["completed"], message=[]),
    "status unknown": changed("status.json", status="running_counts"),
    "status NUL": text("status.json", b"\0" * 100),
    "status not UTF-8": text("status.json", b'{"format": 1, "status": "\xff"}'),
    "status of half a surrogate": text(
        "status.json", '{"format": 1, "status": "running", "message": "\\ud800"}'
    ),
    "status deep": text("status.json", "[" * 200_000),
    "status of a long number": text("status.json", '{"format": 1, "x": ' + "9" * 10_000 + "}"),
    "status of a later format": changed("status.json", format=7, optlab="9.1"),
    "status of a later format and shape": text("status.json", '{"format": "7b", "state": {"of": "things"}}'),
    "status 8 GiB": sparse("status.json"),
    "status a FIFO": fifo("status.json"),
    "status a folder": folder("status.json"),
    "status a link": linked("status.json"),
    "status a device": lambda run, _: link_to("status.json", "/dev/zero")(run, Path("/")),
    "uuid of another kind": changed("status.json", uuid="../../x"),
}

# Runs, or damaged runs: reading reports what is wrong, and only files of the run change.
DAMAGED: dict[str, Spoil] = {
    "nothing": lambda run, outside: None,
    "an old run": replaced("status.json", '"uuid"', '"former"'),
    "keys of a later release": changed("status.json", mood="good"),
    "interrupted": changed("status.json", status="running"),
    "failed": changed("status.json", status="failed"),
    "killed in its beginning": _killed_in_its_beginning,
    "an opening of links": _opening_of_links,
    "an opening left over": lambda run, _: (run / f".opening-{'1' * 32}").mkdir(),
    "an opening left over, a link": lambda run, outside: (run / f".opening-{'1' * 32}").symlink_to(outside),
    "another run within": _nested,
    "summary absent": absent("summary.json"),
    "summary cut": text("summary.json", '{"status": "comp'),
    "summary a list": text("summary.json", "[]"),
    "summary of nothing": text("summary.json", "{}"),
    "summary with a list for final": changed("summary.json", final=[]),
    "summary with texts for numbers": changed("summary.json", train_seconds="long", steps="many"),
    "summary with texts in final": changed("summary.json", final__values={"val_loss": "good"}),
    "summary of a later format": changed("summary.json", format=2),
    "summary with keys of a later release": changed("summary.json", mood="good", final__mood="good"),
    "environment absent": absent("environment.json"),
    "environment cut": text("environment.json", '{"format": 1, "versions'),
    "environment a list": text("environment.json", "[]"),
    "environment of lists": changed("environment.json", data=[], versions=[], machine=[]),
    "environment with texts": changed("environment.json", data__input_shape="wide", data__num_classes="few"),
    "environment of half a surrogate": text("environment.json", '{"machine": {"processor": "\\ud800"}}'),
    "components a text": changed("environment.json", components="mine.py"),
    "components without sums": changed("environment.json", components=[{"source": "/x"}]),
    "a component's copy outside": changed(
        "environment.json",
        components=[{"source": "/etc/hosts", "copy": "components/../../outside/precious.txt", "sha256": ""}],
    ),
    "a component's copy is a file of the user": changed(
        "environment.json", components=[{"source": "/etc/hosts", "copy": "NOTES.md", "sha256": ""}]
    ),
    "config cut": text("config.yaml", "format: 1\ndata: {"),
    "config a list": text("config.yaml", "[1, 2]"),
    "config a number": text("config.yaml", "1"),
    "config NUL": text("config.yaml", b"\0"),
    "config not UTF-8": text("config.yaml", b"name: \xff\xfe"),
    "config with lists for sections": replaced("config.yaml", "log:", "log: []\nformer:"),
    "config with a text for the length": replaced("config.yaml", "epochs: 1", "epochs: long"),
    "config of a later format": replaced("config.yaml", "format: 1", "format: 9"),
    "config of laughs": text("config.yaml", LAUGHS),
    "config of merges": text("config.yaml", MERGES),
    "config that holds itself": text("config.yaml", "&a [*a]"),
    "config deep": text("config.yaml", "[" * 100_000),
    "config with a date": replaced("config.yaml", "epochs: 1", "epochs: 2001-99-99"),
    "config named upwards": replaced("config.yaml", "name: tiny", "name: ../../outside/x"),
    "steps absent": absent("steps.csv"),
    "steps empty": text("steps.csv", ""),
    "steps NUL": text("steps.csv", b"step,loss\n1,\0\n"),
    "steps twice a column": text("steps.csv", "step,step\n1,2\n"),
    "steps of a million columns": text("steps.csv", ",".join(map(str, range(1_000_000))) + "\n"),
    "steps of 90,000 columns": text("steps.csv", ",".join(f"lr.{i}" for i in range(90_000)) + "\n"),
    "steps of one long cell": text("steps.csv", 'step,loss\n1,"' + "x" * 300_000 + '"\n'),
    "steps of words": text("steps.csv", "step,loss\n1,good\n"),
    "steps without end": text("steps.csv", '"' * 1001),
    "epochs empty": text("epochs.csv", ""),
    "epochs of another tool": text("epochs.csv", "time,value\n1,2\n"),
    "histograms cut": text("histograms.json", '{"moments": '),
    "histograms of words": text("histograms.json", '{"format": 1, "moments": [{"step": "x"}]}'),
    "examples of words": text("examples.json", '{"format": 1, "inputs": [["x"]]}'),
    "examples of another size": text(
        "examples.json",
        '{"format": 1, "shape": [99], "inputs": [[1]], "reconstructions": [[1]], "samples": [[1]]}',
    ),
    "lock of the user": text("lock", "held by my own tool"),
    "lock absent": absent("lock"),
    "a figure is a link": link_to("plots/loss.png", "precious.txt"),
    "a checkpoint is a link": linked("checkpoints/last.pt"),
    "a checkpoint is a FIFO": fifo("checkpoints/last.pt"),
    "checkpoints absent": absent("checkpoints"),
    "checkpoints cut": text("checkpoints/last.pt", b"PK"),
    "a temporary name is a link": link_to(temporary_name("status.json"), "precious.txt"),
    **{f"{name} 8 GiB": sparse(name) for name in FILES if name not in ("status.json", "train.log")},
    **{f"{name} a FIFO": fifo(name) for name in FILES if name != "status.json"},
    **{f"{name} a folder": folder(name) for name in FILES if name != "status.json"},
    **{
        f"{name} a link": linked(name)
        for name in (*FILES, *FOLDERS)
        if name not in ("status.json", "histograms.json")
    },
    **{f"{name} a file": both(absent(name), text(name, "the user's")) for name in FOLDERS},
}

HOSTILE = FOREIGN | DAMAGED
