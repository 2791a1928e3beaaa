"""The live page in a real browser, with runs that grow, fail and vanish."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser import browser_of, serious_violations, show_in_dark
from command import train, write_tiny

from trainer.report.server import LiveServer
from trainer.report.watched_runs import WatchedRuns


def wait(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def test_the_page_follows_the_runs(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "<img src=x onerror=document.title='hacked'>"
    train(write_tiny(tmp_path), run_dir=folder)
    failed = folder.with_name("failed")
    shutil.copytree(folder, failed)
    status = json.loads((folder / "status.json").read_text())
    (failed / "status.json").write_text(
        json.dumps(status | {"status": "failed", "message": "a <b>bold</b> error"})
    )
    (folder / "status.json").write_text(json.dumps(status | {"status": "running", "ended": None}))
    rows = (folder / "steps.csv").read_text().splitlines(keepends=True)
    (folder / "steps.csv").write_text("".join(rows[:3]))
    with (
        LiveServer(WatchedRuns([str(tmp_path / "runs")]), lambda: "", "127.0.0.1", 0) as server,
        browser_of() as page,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.get(server.address)
        wait(lambda: page.execute_script("return document.body.dataset.ready"))
        text = page.execute_script("return document.body.textContent")
        assert "a <b>bold</b> error" in text
        assert "2 runs: " in page.find_element("id", "summary").text
        assert page.title == "optlab watch"
        page.execute_script(
            "const y = document.getElementById('y'); y.value = 'loss'; y.dispatchEvent(new Event('change'));"
        )
        points = "return document.getElementById('curve-plot').data.map(one => one.y.length)"
        before = sum(page.execute_script(points))
        with open(folder / "steps.csv", "a") as file:
            file.writelines(rows[3:])
        wait(lambda: sum(page.execute_script(points)) > before)
        shutil.rmtree(failed)
        wait(lambda: "1 runs: " in page.find_element("id", "summary").text)
        assert page.execute_script(points) == [len(rows) - 1]
        for dark in (False, True):
            show_in_dark(page, dark)
            assert serious_violations(page) == []
        page.set_window_size(400, 900)
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        wait(lambda: page.execute_script(wide) <= 0)
        severe = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
        server.shutdown()
        server.server_close()
        wait(lambda: "No connection" in page.find_element("id", "summary").text)
