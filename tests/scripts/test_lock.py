"""requirements.lock, the tested versions: complete, within the ranges, and read by `optlab doctor`."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from command import optlab
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trainer.runs import environment

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = environment.LOCK.read_text(encoding="utf-8").splitlines()
LOCKED = [Requirement(line) for line in LINES if not line.startswith("#")]


def test_every_direct_dependency_is_locked_within_its_range() -> None:
    extras = PROJECT["optional-dependencies"]
    for text in (*PROJECT["dependencies"], *extras["dev"], *extras["docs"]):
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:  # `dev` includes `docs`
            continue
        versions = [
            str(locked.specifier).removeprefix("==")
            for locked in LOCKED
            if canonicalize_name(locked.name) == canonicalize_name(requirement.name)
        ]
        assert versions, f"{text} is not in requirements.lock"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{text}: {version} is locked"


def test_the_lock_is_plain_pins_with_markers_and_says_how_to_make_it() -> None:
    assert "uv pip compile" in LINES[1]
    for line in LINES[2:]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-z_<>=!.0-9' ()]+)?", line, re.I), line


def test_doctor_says_whether_the_environment_is_the_tested_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = tmp_path / "requirements.lock"
    installed = metadata.version("torch").partition("+")[0]

    def doctor(text: str) -> tuple[dict, str]:
        lock.write_text(text)
        told, printed = optlab("doctor", "--json"), optlab("doctor")
        assert (told.code, printed.code) == (0, 0)
        return told.json["tested"], " ".join(printed.out.split())

    monkeypatch.setattr(environment, "LOCK", lock)
    same = f"# a comment\ntorch=={installed}\nnot-installed==1\nnumpy==0.1 ; python_full_version < '3'\n"
    told, printed = doctor(same)
    assert told == {"lock": str(lock), "compared": 1, "differences": []}
    assert "the tested one: 1 packages" in printed
    told, printed = doctor(same + "PyYAML==1.0\n")
    version = metadata.version("pyyaml")
    assert told["differences"] == [{"package": "PyYAML", "installed": version, "tested": "1.0"}]
    assert "not the tested one: 1 of 2 packages differ" in printed
    assert f"PyYAML {version}, tested with 1.0" in printed
    monkeypatch.setattr(environment, "LOCK", tmp_path / "absent")
    assert "requirements.lock is only in a checkout" in " ".join(optlab("doctor").out.split())
