"""With closed, full or missing standard streams, no run fails and no result is lost without an error."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from unittest import mock

import pytest
from command import optlab, rows, write_tiny

from trainer import cli, streams
from trainer.runs import rundir

SCRIPT = "import sys; from trainer.cli import script; sys.argv[0] = 'optlab'; script()"
ERRORS = [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EAGAIN]


class Refusing(io.StringIO):
    """A terminal that accepts some lines and then fails."""

    def __init__(self, error: int, lines: int = 0) -> None:
        super().__init__()
        self._error = error
        self._lines = lines

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._lines == 0:
            raise OSError(self._error, os.strerror(self._error))
        self._lines -= 1
        return super().write(text)


def command(*arguments: str | Path, out: TextIO, err: TextIO) -> int:
    """Run a command with these streams; return the exit code."""
    with (
        mock.patch.object(sys, "argv", ["optlab", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:
        yield file


@pytest.fixture
def busy_pipe() -> Iterator[TextIO]:
    """A non-blocking pipe without a reader."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    with open(writer, "w", encoding="utf-8") as file:
        yield file
    os.close(reader)


@pytest.mark.parametrize("lines", [0, 3])
@pytest.mark.parametrize("error", ERRORS)
def test_a_run_survives_an_unwritable_stderr(tmp_path: Path, error: int, lines: int) -> None:
    out = io.StringIO()
    run = tmp_path / "run"
    code = command("train", write_tiny(tmp_path), "--run-dir", run, out=out, err=Refusing(error, lines))
    assert code == 0
    assert "completed" in out.getvalue()
    assert rundir.load_run(run).status["status"] == "completed"
    evaluations = [line for line in (run / "train.log").read_text().splitlines() if " epoch " in line]
    assert len(evaluations) == len(rows(run / "epochs.csv"))


@pytest.mark.parametrize("name", ["closed_pipe", "busy_pipe"])
def test_a_run_survives_a_full_pipe(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    pipe = request.getfixturevalue(name)
    run = tmp_path / "run"
    assert command("train", write_tiny(tmp_path), "--run-dir", run, out=io.StringIO(), err=pipe) == 0
    assert rundir.load_run(run).status["status"] == "completed"


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ENOSPC])
def test_an_unwritable_stdout_is_an_error_only_with_json(tmp_path: Path, error: int) -> None:
    config = write_tiny(tmp_path)
    for number, (options, code) in enumerate([((), 0), (("--json",), 1)]):
        run, err = tmp_path / f"run{number}", io.StringIO()
        train = ("train", config, "--quiet", "--run-dir", run, *options)
        assert command(*train, out=Refusing(error), err=err) == code
        assert rundir.load_run(run).status["status"] == "completed"
        reported = "cannot write the result to stdout" in err.getvalue()
        assert reported == (error == errno.ENOSPC or code == 1)


def test_an_unwritten_list_is_an_error_unless_the_reader_closed_the_pipe() -> None:
    for error, code in ((errno.EPIPE, 141), (errno.ENOSPC, 1)):
        err = io.StringIO()
        assert command("list", "loss", out=Refusing(error), err=err) == code
        assert err.getvalue().count("\n") == (error != errno.EPIPE)


def test_a_result_waits_for_a_slow_reader() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read: list[int] = []
    text = "x" * 200_000  # more than the buffer of a pipe

    def take() -> None:
        time.sleep(0.05)
        while sum(read) < len(text):
            read.append(len(os.read(reader, 4096)))

    thread = threading.Thread(target=take)
    thread.start()
    with open(writer, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        streams.results().write(text)
    thread.join()
    os.close(reader)
    assert sum(read) == len(text)


def test_what_components_print_is_on_stderr_and_json_stays_json(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys, torch\n"
        "print('imported')\n"
        "class Loud(torch.optim.SGD):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr)\n"
        "        print('built')\n"
        "        sys.stdout.write('again\\n')\n"
    )
    config = write_tiny(tmp_path)
    done = optlab(
        "train", config, f"optimizer={{name: '{tmp_path}/loud.py:Loud', lr: 0.1}}", "--run-dir",
        tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.json["status"] == "completed"
    for word in ("imported", "built", "again"):
        assert word in done.err


def test_the_console_command_trains_without_standard_streams(tmp_path: Path) -> None:
    """Files of a run never get the numbers of closed descriptors; `--json` contains no output of C code."""
    (tmp_path / "loud.py").write_text(
        "import os, torch\n"
        "class Loud(torch.optim.SGD):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, lr=lr)\n"
        "        os.write(1, b'printed in C')\n"
    )
    config = write_tiny(tmp_path)
    part = f"optimizer={{name: '{tmp_path}/loud.py:Loud', lr: 0.1}}"
    call = [sys.executable, "-c", SCRIPT, "train", str(config), part, "--run-dir"]
    closed = 'exec "$0" "$@" <&- >&- 2>&-'
    first = subprocess.Popen(["/bin/sh", "-c", closed, *call, str(tmp_path / "closed")])
    second = subprocess.run([*call, str(tmp_path / "open"), "--json"], capture_output=True, text=True)
    assert first.wait() == second.returncode == 0
    assert json.loads(second.stdout)["status"] == "completed"
    assert "printed in C" in second.stderr
    for name in ("closed", "open"):
        assert rundir.load_run(tmp_path / name).status["status"] == "completed"
        assert not any(b"printed in C" in path.read_bytes() for path in (tmp_path / name).glob("*.*"))


@pytest.mark.parametrize(
    ("arguments", "written", "code"),
    [
        (("sweep", "tiny.yaml", "optimizer.lr=0.1,0.01", "--workers", "1"), "runs/tiny-lr/results.csv", 0),
        (("compare", "run", "-o", "figures"), "figures/table.csv", 141),
        (("report", "run", "-o", "report.html"), "report.html", 141),
        (("plot", "run"), "run/plots/loss.png", 141),
        (("landscape", "booth", "--no-gif", "--steps", "5", "-o", "maps"), "maps/booth.png", 141),
        (("init", "mine"), "mine/quickstart.yaml", 141),
        (("prepare", "digits"), "", 141),
        (("show", "optimizer", "Adam"), "", 141),
        (("doctor",), "", 141),
    ],
)
def test_files_are_written_if_the_reader_closed_both_pipes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    closed_pipe: TextIO,
    arguments: tuple[str, ...],
    written: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_tiny(tmp_path).rename(tmp_path / "tiny.yaml")
    if "run" in arguments:
        assert command("train", config, "--run-dir", "run", out=io.StringIO(), err=io.StringIO()) == 0
    assert command(*arguments, out=closed_pipe, err=closed_pipe) == code
    assert (tmp_path / written).exists()
