"""The page of `optlab report`: its data are those of the runs, and nothing in it is executed or requested."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import optlab, train, write_tiny
from hypothesis import given
from hypothesis import strategies as st

from trainer.report.downsampling import kept_rows

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The scripts, data and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """The JSON of the page."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two optimizers with two seeds each, in a folder whose name is markup, and a run that diverges."""
    folder = tmp_path_factory.mktemp("report")
    config = write_tiny(folder)
    place = folder / "runs <b>of"
    for optimizer in ("SGD", "Adam"):
        for seed in (0, 1):
            train(
                config, f"optimizer={optimizer}", f"seed={seed}", run_dir=place / f"{optimizer},seed={seed}"
            )
    train(config, "optimizer={name: SGD, lr: 1e30}", run_dir=place / "diverged", code=3)
    return place


@pytest.fixture(scope="module")
def written(runs: Path) -> Page:
    """The page of these runs, with a hostile title."""
    path = runs.parent / "report.html"
    done = optlab("report", runs, "-o", path, "--title", HOSTILE)
    assert done.code == 0, done.err
    assert done.out.strip() == str(path)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_the_groups_runs_and_curves_of_the_run_directories(runs: Path, written: Page) -> None:
    data = written.data
    assert len(data["groups"]) == 3
    assert sum(group["diverged"] for group in data["groups"]) == 1
    assert {run["path"] for run in data["runs"]} == {str(path) for path in runs.iterdir()}
    for run in data["runs"]:
        with open(Path(run["path"]) / "steps.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if run["status"] != "diverged":
            drawn = np.array(run["steps"]["loss"])
            np.testing.assert_allclose(drawn, [float(row["loss"]) for row in rows], rtol=1e-5)
            assert run["steps"]["step"] == [int(row["step"]) for row in rows]
    finals = dict(zip((run["path"] for run in data["runs"]), data["results"]["values"], strict=True))
    summary = json.loads((runs / "Adam,seed=1" / "summary.json").read_text())
    assert finals[str(runs / "Adam,seed=1")] == pytest.approx(100 * summary["test"]["accuracy"], rel=1e-5)
    assert data["results"]["axes"] == {"": {"label": "test accuracy (%)", "log": False}}


def test_colours_are_those_of_the_figures_of_compare(runs: Path, written: Page) -> None:
    done = optlab("compare", runs, "-o", runs.parent / "figures", "--format", "svg")
    assert done.code == 0, done.err
    figure = (runs.parent / "figures" / "val_loss.svg").read_text(encoding="utf-8").lower()
    assert len({group["colour"] for group in written.data["groups"]}) == 3
    for group in written.data["groups"]:
        assert group["colour"].lower() in figure


def test_samples_times_and_environments_are_those_of_the_runs(runs: Path, tmp_path: Path) -> None:
    for run in runs.iterdir():
        shutil.copytree(run, tmp_path / "runs" / run.name)
    text = f"To be {HOSTILE}"
    (tmp_path / "runs" / "SGD,seed=0" / "examples.json").write_text(json.dumps({"format": 1, "text": text}))
    (tmp_path / "runs" / "Adam,seed=0" / "examples.json").write_text("{")  # damaged: no samples
    path = tmp_path / "report.html"
    assert optlab("report", tmp_path / "runs", "-o", path, "--target", "val_loss=2.3").code == 0
    content = path.read_text(encoding="utf-8")
    assert f"<pre tabindex=0>{html.escape(text)}</pre>" in content
    data = Page(content).data
    charts = {(chart["kind"], chart["choice"]): chart for chart in data["charts"]}
    rows = list(csv.DictReader(data["csv"]["runs"].splitlines()))
    for trace in charts["times", "val_loss=2.3, in steps"]["traces"]:
        times = [float(row["steps to val_loss=2.3"]) for row in rows if row["group"] == trace["name"]]
        reached = [time for time in times if time < float("inf")]
        assert trace["x"][1:-1] == sorted(set(reached))
        assert trace["y"][-1] == pytest.approx(len(reached) / len(times))
    for trace in charts["cost", "all"]["traces"]:
        times = [float(row["ms_per_step"]) for row in rows if row["group"] == trace["name"]]
        assert trace["y"] == [pytest.approx(sum(times) / len(times), rel=1e-5)]
    environment = dict(map(tuple, data["environment"]))
    recorded = json.loads((runs / "diverged" / "environment.json").read_text())
    assert environment["versions torch"] == [[recorded["versions"]["torch"], 5]]


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_requested(written: Page) -> None:
    (policy,) = [tag["content"] for name, tag in written.tags if "http-equiv" in tag and name == "meta"]
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    digests = [hashlib.sha256(text.encode()).digest() for text in written.scripts[1:]]
    assert {f"sha256-{base64.b64encode(digest).decode()}" for digest in digests} == allowed
    for _, attributes in written.tags:
        for name in ("src", "href", "srcset", "action"):
            assert str(attributes.get(name) or "data:").startswith("data:image/svg+xml;base64,") or (
                attributes.get(name) is None
            )
        assert not any(name.startswith("on") for name in attributes)


def test_hostile_names_stay_text(runs: Path, written: Page) -> None:
    assert "<" not in written.scripts[0]
    assert written.data["title"] == HOSTILE
    assert not [tag for tag, attributes in written.tags if attributes.get("src") == "x" or tag == "b"]
    assert "<b>" in written.data["runs"][0]["path"]


@pytest.mark.parametrize("output", ["report.txt", "missing/report.html"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, output: str
) -> None:
    done = optlab("report", tmp_path / "no runs", "-o", tmp_path / output)
    assert done.code == 2
    assert "expected  a file in an existing folder, ending in .html" in done.err
    assert list(tmp_path.iterdir()) == []


VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=400)


@given(VALUES, st.integers(4, 50))
def test_thinned_rows_keep_extremes_ends_and_order(values: list[float], limit: int) -> None:
    column = np.array(values)
    kept = kept_rows([column], limit)
    assert list(kept) == sorted(set(kept.tolist()))
    assert {0, len(values) - 1} <= set(kept.tolist())
    assert len(kept) <= max(len(values) if len(values) <= limit else 0, limit + 2)
    if np.isfinite(column).any():
        assert np.nanmax(column[kept]) == np.nanmax(column)
        assert np.nanmin(column[kept]) == np.nanmin(column)


def test_every_infinite_value_is_kept() -> None:
    column = np.ones(1000)
    column[[17, 503]] = np.inf
    assert {17, 503} <= set(kept_rows([column, np.arange(1000.0)], 20).tolist())
