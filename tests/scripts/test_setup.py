"""scripts/setup.sh with a fake pip that records its calls: what it installs, and its errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for an environment's python: real but for pip, whose arguments and constraints it records.
PYTHON = """\
#!/usr/bin/env bash
if [ "$1 $2" = "-m pip" ]; then
  if [ "$4" = --version ]; then exit; fi
  echo "$@" >>"$RECORD"
  if [[ "$*" == *requirements.lock* && -n "${REFUSED:-}" ]]; then
    echo "WARNING: elsewhere" >&2; echo "ERROR: $REFUSED" >&2; exit 1
  fi
elif [ "$1" = - ]; then
  printf "${TORCH:-}"
else
  exec "$REAL" "$@"
fi
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that setup.sh needs, in a path with a space, with an environment without optlab."""
    clone = tmp_path / "a clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("scripts/setup.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, clone / name)
    program(clone / ".venv/bin/python", PYTHON)
    return clone


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run_setup(clone: Path, *extra: str, **variables: str) -> tuple[int, list[str], list[str]]:
    """Run setup.sh; return its exit code, the lines that it printed, and how pip was called."""
    record = clone / "record"
    record.write_text("")
    done = subprocess.run(
        ["bash", str(clone / "scripts/setup.sh"), *extra],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "REAL": sys.executable, "RECORD": str(record)} | variables,
        cwd="/",
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines(), record.read_text().splitlines()


def test_the_locked_versions_are_installed_once_and_again_when_they_change(clone: Path) -> None:
    code, said, calls = run_setup(clone)
    assert (code, len(said), len(calls)) == (0, 1, 1)
    assert calls[0].endswith(f"-c {clone}/requirements.lock -e {clone}")
    assert run_setup(clone)[1:] == ([], [])
    assert run_setup(clone, "dev")[2][0].endswith(f"-e {clone}[dev]")
    os.utime(clone / "requirements.lock", (2e9, 2e9))
    assert len(run_setup(clone)[2]) == 1


def test_where_the_lock_cannot_be_had_one_line_says_so_and_the_ranges_are_installed(clone: Path) -> None:
    code, said, calls = run_setup(clone, REFUSED="no torch for you")
    assert code == 0
    assert [line for line in said if "tested" in line] == [
        "the tested versions cannot be installed (no torch for you); installing what pyproject.toml allows"
    ]
    assert "elsewhere" not in "".join(said)
    assert [" -c " in call for call in calls] == [True, False]


def test_a_torch_that_was_there_is_kept(clone: Path) -> None:
    code, said, calls = run_setup(clone, TORCH="torch==2.99.0+cpu\\ntorchvision==0.99.0+cpu\\n")
    assert (code, said[0]) == (0, "keeping the installed torch==2.99.0+cpu torchvision==0.99.0+cpu")
    constraints = (clone / ".venv/.optlab-constraints").read_text().splitlines()
    assert calls[0].endswith(f"-c {clone}/.venv/.optlab-constraints -e {clone}")
    assert [line for line in constraints if line.startswith(("torch", "nvidia", "cuda", "triton"))] == [
        "torch==2.99.0+cpu",
        "torchvision==0.99.0+cpu",
    ]
    assert any(line.startswith("numpy==") for line in constraints)
    os.utime(clone / "requirements.lock", (2e9, 2e9))
    assert run_setup(clone, TORCH="torch==1\\n")[2] == calls, "the first answer counts"


def test_an_environment_that_cannot_serve_is_named(clone: Path, tmp_path: Path) -> None:
    program(clone / ".venv/bin/python", "#!/bin/sh\ncase $2 in *exit*) exit 1;; *) echo 3.9.1;; esac\n")
    code, said, _ = run_setup(clone)
    assert (code, len(said)) == (1, 1)
    assert said[0].startswith(
        f"error: {clone}/.venv has Python 3.9.1 and optlab needs 3.11 or newer; remove it"
    )
    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to("gone")
    (clone / ".venv/bin/python3").touch()
    code, said, _ = run_setup(clone)
    assert (code, said[0].split(";")[0]) == (1, f"error: {clone}/.venv has no working bin/python")


def test_any_python_on_the_path_that_is_new_enough_will_do(clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(clone / ".venv")
    tools = tmp_path / "tools"
    for name in ("bash", "dirname", "ls", "rm", "touch", "grep", "tail", "paste", "cat"):
        program(tools / name, f'#!/bin/sh\nexec {shutil.which(name)} "$@"\n')
    needs = "error: optlab needs Python 3.11 or newer; python3 is"
    assert run_setup(clone, PATH=str(tools))[1] == [f"{needs} not there"]
    old = "#!/bin/sh\ncase $2 in *exit*) exit 1;; *) echo 3.9.1;; esac\n"
    program(tools / "python3", old)
    assert run_setup(clone, PATH=str(tools))[1] == [f"{needs} 3.9.1"]
    program(tools / "python", '#!/bin/sh\n[ "$1 $2" = "-m venv" ] && exit 1\nexec "$REAL" "$@"\n')
    code, said, _ = run_setup(clone, PATH=str(tools))
    assert code == 1
    assert said[0].startswith(f"creating {clone}/.venv with Python 3.")
    assert "cannot create a virtual environment" in said[1]
    assert not (clone / ".venv").exists()
