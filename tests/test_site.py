"""The documentation as a site: built strictly, and seen in a browser that has no network."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mosaic_collect
from mosaic_collect.commands import COMMANDS
from tests import helpers
from tests.browsing import CONTRAST, served

for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "nbconvert"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]
ROOT = Path(helpers.REPO)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[str]:
    found = sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))
    return [page for page in found if page != "404.html"]


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "docs").rglob("*.ipynb")}
    commands = {"commands", *(f"commands/{name}" for name in COMMANDS)}
    names = {"errors" if name.endswith("Error") else name for name in mosaic_collect.__all__}
    api = {f"api/{name}" for name in {"attach", *names}}
    names = {"index", "changelog", "contributing", *documents, *notebooks, *commands, *api}
    expected = {f"{name}.html" for name in names}
    assert {*pages(site)} == expected


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    entries = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    told = set(re.findall(r"^mosaic_collect\.(\w+) py:\S+ \S+ api/\S+\.html", entries, re.M))
    assert told == {*mosaic_collect.__all__}


def test_a_command_has_a_page_of_its_options(site: Path) -> None:
    page = (site / "commands" / "collect.html").read_text()
    for words in ("--num-envs N", "(default: 60)", "Checks and tuning", "continue the store"):
        assert words in page


def test_no_paragraph_stands_on_two_pages() -> None:
    """Each fact has one place; what is quoted is short."""
    seen: dict[str, Path] = {}
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for part in re.split(r"\n\s*\n|\n(?=[|-])", path.read_text()):
            words = " ".join(part.split())
            if len(words) > 120:
                assert seen.setdefault(words, path) == path, f"{path} and {seen[words]}: {words}"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


#: Elements that stick out of the page, but for those in a part that scrolls by itself.
OVERFLOW = """() => [...document.querySelectorAll(".md-content *")].filter(e => {
  for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return false;
  return e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
}).map(e => e.outerHTML.slice(0, 200))"""


def test_pages_fit_are_legible_and_ask_nobody(browser: Any, site: Path, address: str) -> None:
    """Each page is loaded once: overflow depends on the width alone, contrast on the scheme."""
    context = browser.new_context(color_scheme="dark", reduced_motion="reduce")
    context.add_init_script("localStorage.clear()")  # a chosen scheme does not outlive its page
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: said.append(m.text))
    widths = [1440, 800, 360]
    for name in pages(site):
        page.goto(f"{address}/{name}")
        assert page.evaluate("document.querySelectorAll('h1').length") == 1, name
        assert page.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)"), name
        assert_legible(page, name, "slate")
        page.evaluate("document.querySelector('input[data-md-color-scheme=default]').click()")
        assert_legible(page, name, "default")
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert page.evaluate(OVERFLOW) == [], (name, width)
        widths.reverse()  # the next page begins with the width that this one ended with
    assert [url for url in asked if not url.startswith(f"{address}/")] == []
    assert said == []
    context.close()


def assert_legible(page: Any, name: str, scheme: str) -> None:
    assert page.evaluate("document.body.getAttribute('data-md-color-scheme')") == scheme
    texts, faint = page.evaluate(CONTRAST, ".md-content")
    assert texts > (8 if name.startswith(("api/", "commands/")) else 30), name
    assert faint == [], (name, scheme)


def test_the_search_finds(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/index.html")
    page.click("input.md-search__input")
    told = "document.querySelector('.md-search-result__meta').textContent"
    page.wait_for_function(f"!/Initializing/.test({told})")
    page.keyboard.type("end_trajectories")
    link = page.wait_for_selector(".md-search-result__link")
    assert "html" in link.get_attribute("href")
