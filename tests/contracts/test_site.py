"""The site builds without a warning, holds every public name, asks nothing of the network."""

from __future__ import annotations

import ast
import html
import importlib
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from pages import ROOT

CHROMIUM = Path("/usr/bin/chromium")
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]

PHONE, SCREEN = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    for module in ("material", "mkdocstrings_handlers.python", "nbclient", "ipykernel"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("built") / "site"
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert not re.search("warning|deprecat", said, re.I), said
    return folder


@pytest.mark.slow
def test_nothing_in_the_pages_comes_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"?([^\"\s>]+)", text)
        loaded += re.findall(
            r"<link\b(?![^>]*rel=\"?(?:canonical|next|prev))[^>]*href=\"?([^\"\s>]+)", text
        )
        assert [place for place in loaded if re.match(r"(?:https?:)?//", place)] == [], page
        for place in loaded:
            path = (page.parent / place.partition("#")[0].partition("?")[0]).resolve()
            # The page for unknown addresses is made for the root of a server.
            assert path.exists() or page.name == "404.html" or place.startswith("data:"), place


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)
    entries = zlib.decompress(inventory[4]).decode().splitlines()
    known = {entry.split()[0].rpartition(".")[2] for entry in entries}
    headings = {
        page.stem: re.findall(r'<h\d id="(\w+)">', page.read_text())
        for page in (site / "reference").glob("*.html")
    }
    source = ROOT / "src" / "tcformer"
    places = [*source.glob("[!_]*.py"), *source.glob("*/__init__.py"), source / "__init__.py"]
    missing, checked = [], 0
    for place in places:
        package = place.parent.name if place.name == "__init__.py" else place.stem
        for name in public(place):
            page = site / "reference" / f"{package}.html"
            # Defined there, or a link to where it is.
            linked = f".{name}</code>" in page.read_text()
            if not (name in known or linked or name.lower() in headings[package]):
                missing.append(f"{package}.{name}")
            checked += 1
    assert missing == []
    assert checked > 80


def public(place: Path) -> list[str]:
    """The names in a module's `__all__`, read without importing it where it is written out."""
    for node in ast.parse(place.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            try:
                return [n for n in ast.literal_eval(node.value) if not n.startswith("__")]
            except ValueError:
                return list(importlib.import_module(f"tcformer.{place.parent.name}").__all__)
    return []


@pytest.mark.slow
def test_docstrings_are_rendered(site):
    """No markup of ours is left over, and shapes stand in lists."""
    for page in sorted((site / "reference").glob("*.html")):
        text = html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))
        left = re.findall(
            r":(?:class|func|meth|mod|data):.{0,30}|^\s*(?:Args|Returns|Raises):\s*$", text, re.M
        )
        assert [words for words in left if words.strip() not in ("Returns:", "Raises:")] == [], page
    ops = (site / "reference" / "ops.html").read_text()
    entry = ops[ops.index('id="tcformer.ops.dpc_knn.dpc_knn"') :]
    assert re.search(r"<b><code>num_clusters</code></b>.*?</li>", entry, re.S)
    assert "(B, N, C) float" in entry


@pytest.mark.slow
def test_pictures_are_drawn_and_the_tour_is_run_at_build_time(site):
    from PIL import Image

    tour = (site / "tour.html").read_text()
    assert "196 tokens" in html.unescape(re.sub(r"<[^>]+>", "", tour))
    for name in ("tokens.png", "stages.png", "family.png", *re.findall(r"tour-\d+-\d+\.png", tour)):
        with Image.open(site / "images" / name) as picture:
            assert min(picture.size) > 200, name


@pytest.fixture(scope="module")
def chromium():
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def opened(chromium, size, scheme="light"):
    """A tab, and the list of what went wrong in it."""
    context = chromium.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    tab, wrong = context.new_page(), []
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))

    def failed(request):
        if "ERR_ABORTED" not in (request.failure or ""):  # the page was left before it came
            wrong.append(f"{request.url}: {request.failure}")

    tab.on("requestfailed", failed)

    def watched(request):
        if not request.url.startswith(("file:", "data:", "blob:", "about:")):
            wrong.append(request.url)

    tab.on("request", watched)
    return tab, wrong


OUTSIDE = """
[...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .filter(e => !e.closest(".md-typeset__scrollwrap, table, pre, .tour-output"))
    .map(e => e.outerHTML.slice(0, 120))
"""


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_page_opens_as_a_file_on_a_phone(site, chromium):
    tab, wrong = opened(chromium, PHONE)
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":
            continue
        tab.goto(page.as_uri())
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert (width <= PHONE[0], tab.evaluate(OUTSIDE)) == (True, []), page.name
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert tab.evaluate(broken) == [], page.name
        assert wrong == [], page.name


@pytest.mark.slow
def test_the_search_works_without_a_server(site, chromium):
    tab, wrong = opened(chromium, SCREEN)
    tab.goto((site / "index.html").as_uri())
    tab.locator("input.md-search__input").click()
    tab.locator("input.md-search__input").press_sequentially("requeue")  # it listens to keys
    tab.wait_for_selector(".md-search-result__item a", timeout=20_000)
    results = tab.locator(".md-search-result__item a")
    found = [results.nth(n).get_attribute("href") for n in range(results.count())]
    assert any("training.html" in place for place in found), found
    assert wrong == []


@pytest.mark.slow
def test_dark_mode_can_be_read(site, chromium):
    tab, wrong = opened(chromium, SCREEN, "dark")
    tab.goto((site / "tokens.html").as_uri())
    ground, ink = (
        tab.eval_on_selector(where, f"e => getComputedStyle(e).{what}")
        for where, what in (("body", "backgroundColor"), ("article p", "color"))
    )
    ground, ink = ([int(c) for c in re.findall(r"\d+", text)[:3]] for text in (ground, ink))
    assert max(ground) < 80
    assert min(ink) - max(ground) > 100
    assert wrong == []


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_site_is_ignored_by_git_and_left_out_of_the_archives():
    assert "site/" in (ROOT / ".gitignore").read_text().splitlines()
    project = (ROOT / "pyproject.toml").read_text()
    include = re.search(r"sdist\]\ninclude = \[(.*)\]", project).group(1)
    assert "docs" not in include
    assert "site" not in include
