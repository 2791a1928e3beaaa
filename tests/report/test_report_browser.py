"""The report in a real browser: headless Chromium, where it and selenium are installed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser import browser_of
from command import optlab, train, write_tiny


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that shows a report; what it logs and requests is recorded."""
    folder = tmp_path_factory.mktemp("browser")
    config = write_tiny(folder)
    for name in ("SGD", "Adam"):
        for seed in (0, 1):
            place = folder / "runs" / f"{name} <img src=x onerror=document.title='hacked'>,{seed}"
            train(config, f"optimizer={name}", f"seed={seed}", run_dir=place)
    path = folder / "report.html"
    assert optlab("report", folder / "runs", "-o", path, "--title", "a <b>title</b>").code == 0
    with browser_of() as browser:
        browser.get(path.as_uri())
        for _ in range(300):
            if browser.execute_script("return document.body.dataset.ready"):
                break
            time.sleep(0.1)
        yield browser


def traces(page: Any, plot: str = "curve-plot") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.execute_script(
        f"return document.getElementById('{plot}').data.map(one => ({{name: one.name, x: one.x, y: one.y}}))"
    )
    return found


def choose(page: Any, element: str, value: str) -> None:
    page.execute_script(
        "const element = document.getElementById(arguments[0]); element.value = arguments[1];"
        "element.dispatchEvent(new Event('change'));",
        element,
        value,
    )


def test_it_draws_without_an_error_or_a_request(page: Any) -> None:
    assert page.execute_script("return document.body.dataset.ready") == "true"
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requested = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requested)
    assert sum(url.startswith("file:") for url in requested) == 1


def test_hostile_names_are_shown_as_text(page: Any) -> None:
    assert page.title == "a <b>title</b>"
    assert page.execute_script("return document.querySelectorAll('h1 b, img[src=x]').length") == 0
    assert "<img src=x" in page.execute_script("return document.getElementById('runs-table').textContent")


def test_a_group_is_switched_off_in_all_figures(page: Any) -> None:
    button = page.find_element("css selector", "#toggles button")
    name = button.text
    before = [len(traces(page, plot)) for plot in ("curve-plot", "result-plot")]
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    for plot in ("curve-plot", "result-plot"):
        assert name not in {trace["name"] for trace in traces(page, plot)}
    page.find_element("css selector", "#toggles button").click()
    assert [len(traces(page, plot)) for plot in ("curve-plot", "result-plot")] == before


def test_axes_scales_seeds_and_smoothing_change(page: Any) -> None:
    whole = traces(page)
    choose(page, "x", "samples")
    assert max(traces(page)[-1]["x"]) == 32 * max(whole[-1]["x"])
    choose(page, "x", "step")
    axis = "return document.getElementById('curve-plot').layout.yaxis.type"
    assert page.execute_script(axis) == "log"
    page.find_element("id", "log-y").click()
    assert page.execute_script(axis) == "linear"
    choose(page, "runs", "seeds")
    assert len(traces(page)) == 4
    rough = traces(page)[0]["y"]
    page.execute_script(
        "const slider = document.getElementById('smoothing'); slider.value = 1;"
        "slider.dispatchEvent(new Event('input'));"
    )
    smooth = traces(page)[0]["y"]
    assert smooth[1] == pytest.approx(sum(rough[:3]) / 3)
    assert (smooth[0], smooth[-1]) == (rough[0], rough[-1])
    choose(page, "y", "val_accuracy")
    assert page.execute_script(axis) == "linear"
    choose(page, "y", "loss")


def test_tables_are_sorted_by_a_click(page: Any) -> None:
    heading = page.find_element("css selector", "#groups th button")
    cells = (
        "return [...document.querySelectorAll('#groups tbody td:first-child')].map(one => one.textContent)"
    )
    heading.click()
    ascending = page.execute_script(cells)
    heading.click()
    assert page.execute_script(cells) == ascending[::-1]
    assert heading.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_it_fits_a_narrow_screen(page: Any) -> None:
    page.set_window_size(400, 900)
    time.sleep(0.5)
    wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    page.set_window_size(1200, 1600)
