"""Tests of the engines compile their programs themselves, whatever other runs have kept."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def kept_programs_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep compiled programs in a folder of the test."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setattr("trainer.training.engines.inductor.kept_programs.root", lambda: folder)
    return folder
