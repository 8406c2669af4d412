"""The built site of the documentation (make docs) is whole without internet."""

import json
import os
import re
from pathlib import Path

import pytest

from docs_site.offline import MERMAID, loaded_from_elsewhere, with_mermaid
from tests.browser import seen_by

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build/site"
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Shadow roots are closed in the theme; this lets the test look into them.
OPEN = (
    "<script>const attach = Element.prototype.attachShadow;"
    "Element.prototype.attachShadow = function () { return attach.call(this, {mode: 'open'}); }</script>"
)


@pytest.fixture
def site() -> Path:
    if not (SITE / "index.html").exists():
        reason = "build/site is not there: make docs"
        pytest.fail(reason) if os.environ.get("VLDD_REQUIRE_BROWSER") else pytest.skip(reason)
    return SITE


def test_diagrams_are_drawn_without_internet(site: Path, browser: str, tmp_path: Path) -> None:
    """On a phone they are not scaled to its width, but scroll, and the page does not."""
    diagrams = {path.stem: DIAGRAM.findall(path.read_text()) for path in (ROOT / "docs").rglob("*.md")}
    html = (site / "concepts.html").read_text().replace("<head>", f'<head><base href="{site.as_uri()}/">{OPEN}', 1)
    others = [text for name, texts in diagrams.items() if name != "concepts" for text in texts]
    steps = f"""(async () => {{
      while (page.querySelector('pre.mermaid')) await new Promise((done) => setTimeout(done, 50));
      for (const text of {json.dumps(others)}) await view.mermaid.parse(text);
      const elsewhere = view.performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('file:'));
      const drawn = [...page.querySelectorAll('div.mermaid')].map((one) => one.shadowRoot.querySelector('svg'));
      const boxes = drawn.map((one) => one.getBoundingClientRect()).filter((one) => one.width > 600 && one.height > 50);
      return [root.scrollWidth - root.clientWidth, elsewhere.length, drawn.length, boxes.length];
    }})()"""
    count = len(diagrams["concepts"])
    assert count > 0 < len(others)
    assert seen_by(browser, html, 390, steps, tmp_path, wait_ms=20_000) == [0, 0, count, count]


def test_only_a_page_with_a_diagram_loads_the_script_that_draws_it() -> None:
    assert with_mermaid("<p>none</p>", "index.html") == "<p>none</p>"
    page = with_mermaid('<pre class="mermaid"></pre>', "tutorials/cluster.html")
    assert page.endswith(f'<script src="../{MERMAID}"></script>')
    assert (ROOT / "docs" / MERMAID).exists()


@pytest.mark.parametrize(
    "part",
    [
        '<img src="https://x.org/a">',
        '<script src="//x.org/a"></script>',
        '<link rel="stylesheet" href="https://x.org/a">',
        '<img srcset="a.png 1x, https://x.org/a 2x">',
        "<style>@import 'https://x.org/a';</style>",
        '<p style="background: url(https://x.org/a)">',
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(part: str) -> None:
    """mkdocs warns of it, which is an error in a strict build."""
    assert ["x.org/a" in found for found in loaded_from_elsewhere(f"<body>{part}</body>")] == [True]


def test_links_and_files_of_the_site_are_not_loaded_from_elsewhere() -> None:
    html = '<link rel="canonical" href="https://x.org"><a href="https://x.org">x</a><img src="a.png"><p>url(https://x.org)'
    assert loaded_from_elsewhere(html) == []
