"""The optimizers of many packages train by name; docs/own-parts.md states how many, and of which versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "count_optimizers.py"


def load_script() -> ModuleType:
    spec = util.spec_from_file_location("count_optimizers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_class_that_trains_and_one_that_is_refused() -> None:
    script = load_script()
    assert script.first_success("torch.optim:SGD")[0] == "ok"
    kind, reason = script.first_success("torch.optim:SparseAdam")
    assert kind == "refused"
    assert "SparseAdam" in reason


@pytest.mark.nightly
def test_the_docs_state_how_many_optimizers_train_by_name(tmp_path: Path) -> None:
    script = load_script()
    packages = script.PACKAGES
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, *packages.values(), *script.DEPENDENCIES], check=True)
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(SCRIPT), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    outcomes: dict[str, tuple[str, str]] = json.loads(done.stdout)
    kinds = [kind for kind, _ in outcomes.values()]
    page = " ".join((ROOT / "docs" / "own-parts.md").read_text(encoding="utf-8").split())
    assert f"{kinds.count('ok')} of {len(kinds)} optimizer classes" in page
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{kinds.count('ok')} of {len(kinds)} optimizer classes of {len(packages)} packages" in readme
    assert {*kinds} == {"ok", "refused"}, "an optimizer that cannot be resumed is refused before the run"
    for requirement in packages.values():
        assert requirement.replace("==", " ") in page
