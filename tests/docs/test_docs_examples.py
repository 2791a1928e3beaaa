"""What the documentation shows is run: commands with their output, YAML and Python blocks.

Each page is run in a folder of its own, from top to bottom. In the ordinary suite `quickstart` is shortened,
runs draw no figures, and blocks that take long (`<!-- nightly -->`) are only parsed by the command line. The
nightly tests run all commands as they are, in bash.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from command import optlab
from pages import GUIDES, REFERENCE, ROOT, Block, Command, blocks, commands, name_of

from trainer.cli.app import Verb
from trainer.config import packaged

SHORT = (
    ("train: {epochs: 20}", "train: {epochs: 2, threads: 1}"),
    ("name: digits", "name: digits\n  limit: 150"),
    ("log: {every: 5}", "log: {every: 5, plots: []}"),  # drawn in another process, which starts for seconds
)
FAST = ("log.plots=[]", "train.threads=1")  # not part of the names of runs
_NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?")


@pytest.fixture(scope="module")
def short_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packaged configs in which runs are short."""
    folder = tmp_path_factory.mktemp("packaged") / "configs"
    shutil.copytree(ROOT / "configs", folder, ignore=shutil.ignore_patterns("figures"))
    for name in ("quickstart.yaml", "init/quickstart.yaml"):
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in SHORT:
            assert text.count(old) == 1, f"configs/{name} has changed: adapt SHORT"
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def words(line: str) -> str:
    """Return a line of output without its numbers and its spacing, which differ between machines."""
    return " ".join(_NUMBER.sub("#", line).split())


def check_output(command: Command, printed: str, place: str) -> None:
    """Check that the lines that the page shows were printed; `...` stands for others."""
    actual = set(map(words, printed.splitlines()))
    for line in command.output:
        if line.strip() not in ("", "..."):
            assert words(line) in actual, f"{place}: `{command.line}` does not print {line!r}:\n{printed}"


def optlab_commands(line: str) -> list[list[str]]:
    """Return the arguments of each `optlab` command in a line of shell; loop variables become numbers."""
    found = []
    for text in re.findall(r"(?:^|\bdo |\| *|; *)optlab\b([^|;]*)", line):
        found.append(shlex.split(re.sub(r"\$\w+", "1", text), comments=True))
    return found


def is_plain(line: str) -> bool:
    return line.startswith("optlab ") and not set("|;$") & set(line.partition("  #")[0])


def parse(command: Command, place: str) -> None:
    """Check that the command line accepts the commands of a line, without running them."""
    for arguments in optlab_commands(command.line):
        with mock.patch.object(Verb, "invoke", return_value=None):
            done = optlab(*arguments)
        assert done.code == 0, f"{place}: {command.line}\n{done.err}"
    for script in re.findall(r"\bscripts/[\w.]+", command.line):
        assert (ROOT / script).is_file(), f"{place}: {script} does not exist"


def run(command: Command, place: str, configs: Path) -> None:
    """Run a command in this process and check its exit code and the output that the page shows."""
    if not is_plain(command.line):
        parse(command, place)
        return
    (arguments,) = optlab_commands(command.line)
    fast = FAST if arguments[0] == "train" and arguments[1].endswith(".yaml") else ()
    with mock.patch.object(packaged, "folder", return_value=configs):
        done = optlab(*arguments, *fast)
    fails = any(line.startswith("error:") for line in command.output)
    assert (done.code != 0) == fails, f"{place}: {command.line}\n{done.err}"
    check_output(command, done.err + done.out, place)


def run_block(block: Block) -> None:
    """Write, validate or execute a Python or YAML block."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    if block.language == "python" and not block.file:
        exec(compile(block.text, block.place, "exec"), {"__name__": "example"})
    if block.language == "yaml" and not all(line.startswith("#") for line in block.text.splitlines()):
        path = Path(block.file or "example.yaml")
        path.write_text(block.text, encoding="utf-8")
        command = ["validate", path]
        if "\nvariants:" in block.text:
            command = ["sweep", path, "--dry-run"]
        elif "\naxes:" in block.text:
            command = ["challenge", path, "--problems", "digits", "--dry-run"]
        done = optlab(*command)
        absent = block.mark == "parsed" and done.err.count("error:") == 1 and "there is no file" in done.err
        assert done.code == 0 or absent, f"{block.place}\n{done.err}"


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_examples_work(
    page: Path, short_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTLAB_RUNS", raising=False)
    for block in blocks(page):
        if block.language in ("sh", "console"):
            for command in commands(block):
                if block.mark:
                    parse(command, block.place)
                else:
                    run(command, block.place, short_configs)
        else:
            run_block(block)


def test_the_examples_of_the_help_are_accepted() -> None:
    for block in blocks(REFERENCE / "verbs.md"):
        for command in commands(block) if block.language == "sh" else ():
            parse(command, block.place)


def test_the_output_of_a_command_is_compared(tmp_path: Path) -> None:
    command = Command("optlab x", ["val acc  97.2 %", "...", "in 3 s"])
    check_output(command, "val acc 9 %\nother\nin 0.123 s\n", "here")
    for other in ("val acc 9 %\n", "val loss 9 %\nin 1 s\n"):
        with pytest.raises(AssertionError, match="does not print"):
            check_output(command, other, "here")


@pytest.mark.nightly
@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_work_as_they_are(page: Path, tmp_path: Path, mnist_root: Path) -> None:
    """Run all commands of a page in bash, except those marked `parsed` and those that set up a checkout."""
    environment = os.environ | {"OPTLAB_DATA": str(mnist_root), "COLUMNS": "200"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    environment.pop("OPTLAB_RUNS", None)
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        if block.mark == "parsed" or block.language not in ("sh", "console"):
            continue
        for command in commands(block):
            if not optlab_commands(command.line):
                continue
            done = subprocess.run(
                ["bash", "-c", command.line],
                cwd=tmp_path, env=environment, capture_output=True, text=True,
            )  # fmt: skip
            fails = any(line.startswith("error:") for line in command.output)
            assert (done.returncode != 0) == fails, f"{block.place}: {command.line}\n{done.stderr}"
            check_output(command, done.stderr + done.stdout, block.place)
