"""The tutorial notebook runs from top to bottom, and its cells show what they should."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT

NOTEBOOK = DOCS / "tutorial.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    import nbformat

    paths = [str(ROOT), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]

    def of_type(kind: str) -> list[Any]:
        return [one["data"][kind] for one in shown if kind in one.get("data", {})]

    html = "".join(of_type("text/html"))
    assert "<progress" in html
    assert "completed" in html
    assert "Adam" in html
    assert "data:image/png;base64," in html
    assert len(of_type("image/png")) == 1
    assert any(text.startswith("Experiment") for text in of_type("text/plain"))
    assert len(list((tmp_path / "runs" / "quickstart").iterdir())) == 4
