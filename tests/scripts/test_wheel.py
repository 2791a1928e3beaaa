"""The wheel, built from the source distribution, carries the packaged configs and finds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.mark.nightly
def test_a_wheel_of_the_source_distribution_has_every_packaged_config(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("trainer", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    with tarfile.open(build("build_sdist", checkout, tmp_path)) as sdist:
        sdist.extractall(tmp_path / "sdist", filter="data")
    with zipfile.ZipFile(build("build_wheel", next((tmp_path / "sdist").iterdir()), tmp_path)) as wheel:
        wheel.extractall(tmp_path / "site")
    carried = tmp_path / "site/trainer/examples"
    wanted = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(carried) for path in carried.rglob("*.yaml")} == wanted
    assert (carried / "init/my_optimizer.py").is_file()
    program = "from trainer.config import packaged; print(packaged.folder(), len(packaged.names()))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.split()[0] == str(carried.resolve()), found.stderr
