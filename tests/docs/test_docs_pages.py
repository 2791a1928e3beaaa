"""The documentation: it builds strictly, its links lead somewhere, and the reference equals the code."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from pages import DOCS, GUIDES, PAGES, ROOT, anchors, links, name_of


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="zensical is not installed: pip install -e .[docs]")
    shutil.copy(ROOT / ".zensical.toml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", ".zensical.toml"],
        cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr or done.stdout
    assert (tmp_path / "site/honest-comparison/index.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    broken = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


def test_every_page_is_listed_on_the_overview_and_in_the_navigation() -> None:
    index = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    navigation = (ROOT / ".zensical.toml").read_text(encoding="utf-8")
    pages = [page for page in PAGES if page.is_relative_to(DOCS) and page.name != "index.md"]
    assert [name_of(page) for page in pages if page.resolve() not in index] == []
    assert [name_of(page) for page in pages if f'"{page.relative_to(DOCS)}"' not in navigation] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140


def reference() -> ModuleType:
    """Import scripts/docs_reference.py."""
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "scripts/docs_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_equals_the_code() -> None:
    script = reference()
    different = script.differences()
    assert not different, f"{', '.join(different)} in docs/reference: run {script.COMMAND}"


def test_the_reference_does_not_depend_on_the_version_of_other_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = reference()
    monkeypatch.setattr(script, "_version", lambda package: "1.2.3")
    monkeypatch.setitem(
        script.catalog.REGISTRIES["optimizer"], "NewInTorch", script.catalog.find("optimizer", "SGD")
    )
    assert script.differences() == []


def test_guides_name_the_next_page() -> None:
    """Each guide ends with a link to the next one, in the order of the overview."""
    order = [link for link in links(DOCS / "index.md") if "/" not in link and "#" not in link]
    guides = order[: order.index("faq.md") + 1]
    for page, following in pairwise(guides):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert f"]({following})" in text.splitlines()[-1], f"{page} should end with a link to {following}"
    assert {DOCS / page for page in guides} <= set(GUIDES)
