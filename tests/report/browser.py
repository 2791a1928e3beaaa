"""Headless Chromium for the tests of pages; they are skipped where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest


@contextmanager
def browser_of() -> Iterator[Any]:
    """Yield a browser, which records what it logs and requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def serious_violations(page: Any) -> list[str]:
    """Return what axe-core finds serious or critical: rules with the first element that violates each."""
    try:
        source = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError:
        pytest.skip("axe-core-python is not installed")
    page.set_script_timeout(120)
    page.execute_script(source)
    # axe-core takes the content of closed details for something that covers what follows.
    page.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found: list[str] = page.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(result => done("
        "result.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => `${one.id}: ${one.nodes[0].html}`)));"
    )
    return found


def show_in_dark(page: Any, dark: bool) -> None:
    """Emulate the colour scheme of a reader, and wait until the page is drawn in it."""
    scheme = "dark" if dark else "light"
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    page.execute_async_script(
        """const [scheme, done] = arguments;
        const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));
        const changed = () => matchMedia(`(prefers-color-scheme: ${scheme})`).matches;
        const wait = () => changed() ? drawn() : setTimeout(wait, 20);
        wait();""",
        scheme,
    )
