"""The report in a real browser: headless Chromium, where it and selenium are installed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import browser_of, serious_violations, show_in_dark
from command import optlab, train, write_tiny


def copy_run(run: Path, place: Path, seed: int, **optimizer: Any) -> None:
    """Copy a run as one with another seed and other options of its optimizer."""
    shutil.copytree(run, place)
    config = yaml.safe_load((run / "config.yaml").read_text())
    changed = {"seed": seed, "optimizer": config["optimizer"] | optimizer}
    (place / "config.yaml").write_text(yaml.safe_dump(config | changed, sort_keys=False))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that shows the report of a search; what it logs and requests is recorded.

    Two optimizers with three learning rates and two seeds; Adam also with three weight decays.
    """
    folder = tmp_path_factory.mktemp("browser")
    config = write_tiny(folder)
    hostile = "<img src=x onerror=document.title='hacked'>"
    for name in ("SGD", "Adam"):
        run = folder / name
        train(config, f"optimizer={name}", "log.gradients=true", "log.histograms=true", run_dir=run)
        decays = (0.0, 1e-4, 1e-2) if name == "Adam" else (0.0,)
        for seed, rate, decay in product((0, 1), (0.1, 0.01, 0.001), decays):
            place = folder / "runs" / f"{name} {hostile},{rate},{decay},{seed}"
            copy_run(run, place, seed, lr=rate, weight_decay=decay)
    path = folder / "report.html"
    assert optlab("report", folder / "runs", "-o", path, "--title", "a <b>title</b>").code == 0
    with browser_of() as browser:
        browser.get(path.as_uri())
        for _ in range(300):
            if browser.execute_script("return document.body.dataset.ready"):
                break
            time.sleep(0.1)
        yield browser


def show(page: Any, plot: str) -> None:
    """Scroll to a figure and wait until it is drawn."""
    page.execute_async_script(
        """const [id, done] = arguments;
        const plot = document.getElementById(id);
        plot.scrollIntoView({block: "center"});
        const wait = () => (plot.data && !plot.dataset.stale ? done() : setTimeout(wait, 20));
        wait();""",
        plot,
    )


def traces(page: Any, plot: str = "curve-plot") -> list[dict[str, Any]]:
    show(page, plot)
    found: list[dict[str, Any]] = page.execute_script(
        f"return document.getElementById('{plot}').data.map(one => ({{name: one.name, x: one.x, y: one.y}}))"
    )
    return found


def layout(page: Any, plot: str) -> dict[str, Any]:
    show(page, plot)
    found: dict[str, Any] = page.execute_script(
        f"return JSON.parse(JSON.stringify(document.getElementById('{plot}').layout))"
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
    for plot in ("curve-plot", "result-plot", "cost-plot"):
        assert name not in {trace["name"] for trace in traces(page, plot)}
    assert {trace["name"] for trace in traces(page, "setting-plot") if trace["name"]} == {"SGD", "Adam"}
    page.find_element("css selector", "#toggles button").click()
    assert [len(traces(page, plot)) for plot in ("curve-plot", "result-plot")] == before
    # A family is switched off with the last of its groups.
    buttons = [one for one in page.find_elements("css selector", "#toggles button") if "SGD" in one.text]
    assert len(buttons) == 3
    toggle_all = "for (const one of arguments[0]) one.click()"
    page.execute_script(toggle_all, buttons)
    assert {trace["name"] for trace in traces(page, "setting-plot") if trace["name"]} == {"Adam"}
    buttons = [one for one in page.find_elements("css selector", "#toggles button") if "SGD" in one.text]
    page.execute_script(toggle_all, buttons)
    assert len(traces(page, "cost-plot")) == 12


def test_axes_scales_seeds_and_smoothing_change(page: Any) -> None:
    whole = traces(page)
    choose(page, "x", "samples")
    assert max(traces(page)[-1]["x"]) == 32 * max(whole[-1]["x"])
    choose(page, "x", "step")
    assert layout(page, "curve-plot")["yaxis"]["type"] == "log"
    page.find_element("id", "log-y").click()
    assert layout(page, "curve-plot")["yaxis"]["type"] == "linear"
    choose(page, "runs", "seeds")
    assert len(traces(page)) == 24
    rough = traces(page)[0]["y"]
    page.execute_script(
        "const slider = document.getElementById('smoothing'); slider.value = 1;"
        "slider.dispatchEvent(new Event('input'));"
    )
    smooth = traces(page)[0]["y"]
    assert smooth[1] == pytest.approx(sum(rough[:3]) / 3)
    assert (smooth[0], smooth[-1]) == (rough[0], rough[-1])
    choose(page, "y", "val_accuracy")
    assert layout(page, "curve-plot")["yaxis"]["type"] == "linear"
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


def test_the_figures_of_a_search_change_with_the_setting(page: Any) -> None:
    assert layout(page, "setting-plot")["xaxis"]["type"] == "log"
    # 0 has no logarithm, and a place left of the smallest weight decay.
    choose(page, "setting", "1")
    shown = layout(page, "setting-plot")["xaxis"]
    assert (shown["tickvals"][0], shown["ticktext"][0]) == (pytest.approx(1e-5), "0")
    lines = [trace["x"] for trace in traces(page, "setting-plot") if len(trace["x"]) == 3]
    assert lines == [[pytest.approx(1e-5), 1e-4, 1e-2]]
    show(page, "heat-map-plot")
    cells = "return document.getElementById('heat-map-plot').data[0].z.map(row => row.length)"
    assert page.execute_script(cells) == [3, 3, 3]
    # 24 runs through two settings and the result, with gaps between them.
    points = [x for trace in traces(page, "parallel-plot") for x in trace["x"]]
    assert sum(x is not None for x in points) == 24 * 3


def test_gradients_and_weights_of_a_run_are_shown(page: Any) -> None:
    names = [trace["name"] for trace in traces(page, "norm-plot")]
    layers = page.execute_script("return [...document.getElementById('layer').options].map(one => one.value)")
    assert set(layers) < set(names)
    assert [trace["name"] for trace in traces(page, "weight-plot")] == ["epoch 0", "epoch 1"]
    before = traces(page, "weight-plot")[1]["x"]
    choose(page, "layer", layers[-1])
    assert traces(page, "weight-plot")[1]["x"] != before
    choose(page, "detail-run", "1")
    assert page.find_element("id", "layer").get_attribute("value") == layers[-1]


def test_every_figure_can_be_saved(page: Any) -> None:
    drawn = page.execute_script("return [...document.querySelectorAll('.plot')].map(one => one.id)")
    assert all(traces(page, plot) for plot in drawn)
    names = [one.text for one in page.find_elements("css selector", "#download-buttons button")]
    assert len([name for name in names if name.endswith(".svg")]) == len(drawn)
    assert {"groups.csv", "differences.csv", "runs.csv"} < set(names)


def test_it_prints_with_light_colours_and_in_the_width_of_a_page(page: Any) -> None:
    show_in_dark(page, True)
    assert layout(page, "curve-plot")["font"]["color"] == "#ececec"
    page.execute_script("window.scrollTo(0, 0); window.dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script("return document.querySelectorAll('.plot[data-stale]').length") == 0
    printed = layout(page, "curve-plot")
    assert (printed["font"]["color"], printed["width"]) == ("#1a1a1a", 660)
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert layout(page, "curve-plot")["font"]["color"] == "#ececec"
    show_in_dark(page, False)


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(page: Any, dark: bool) -> None:
    show_in_dark(page, dark)
    assert serious_violations(page) == []
    show_in_dark(page, False)


def test_it_fits_a_narrow_screen(page: Any) -> None:
    page.set_window_size(400, 900)
    time.sleep(0.5)
    wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    page.set_window_size(1200, 1600)
