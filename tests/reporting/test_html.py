import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pytest

from tests.reporting.sample import HOSTILE_CAPTION, report
from vldd_dist.reporting.data import ReportData
from vldd_dist.reporting.html import render_html
from vldd_dist.reporting.plots import plots

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements, ids and text of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(report())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_row_figure_and_picture_is_there(page: Page):
    scopes = Counter(attributes.get("scope") for attributes in page.all("th"))
    assert scopes == {"col": 9, "rowgroup": 4, "row": len(report().rows)}
    assert len(page.all("svg")) == len(plots(report()))
    # Two pairs, one of whose starts was not kept.
    assert len(page.all("img")) == 3


def test_everything_seen_has_words(page: Page):
    assert all(attributes.get("alt") for attributes in page.all("img"))
    figures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(figures) == len(page.all("svg"))
    assert all(attributes["aria-label"] for attributes in figures)


def test_captions_and_causes_are_escaped(page: Page):
    assert page.all("script") == []
    assert HOSTILE_CAPTION in page.texts
    assert "the loss became NaN <here>" in page.texts


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page):
    loading = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "srcset", "data", "xlink:href", "poster", "action")
        if name in attributes
    ]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loading)
    assert page.all("link") == []
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html


def test_ids_are_unique_and_references_resolve(html: str, page: Page):
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)
    assert {attributes["aria-labelledby"] for attributes in page.all("section")} <= set(ids)


def test_small_pictures_keep_their_pixels(page: Page):
    assert [attributes.get("class") for attributes in page.all("img")] == [None, "small", "small"]


def test_only_web_addresses_become_links():
    sets = [(url, "ab" * 32) for url in ("https://example.org/set", "s3://bucket/set", "javascript:alert(1)")]
    page = Page(render_html(report().model_copy(update={"distilled_sets": sets})))
    assert [attributes["href"] for attributes in page.all("a")] == ["https://example.org/set"]


def test_an_experiment_with_nothing_done_still_has_a_page():
    nothing = ReportData(
        name="empty",
        description={},
        rows=[],
        experts=[],
        runs=[],
        galleries=[],
        failures=[("dataset", "no such file")],
        store="file:///tmp/store",
        distilled_sets=[],
    )
    page = Page(render_html(nothing))
    assert page.all("table") == page.all("svg") == []
    assert "no such file" in page.texts


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on PATH")
def test_a_phone_shows_it_without_sideways_scrolling(html: str, tmp_path):
    (tmp_path / "report.html").write_text(html)
    # A headless window has a least width above 390 px, a frame has not; the outer page reports what the frame measures.
    probe = tmp_path / "probe.html"
    probe.write_text(
        '<iframe id="phone" width="390" height="800" style="border: 0" src="report.html"></iframe><script>'
        "onload = () => { const root = document.getElementById('phone').contentDocument.documentElement;"
        "document.body.dataset.widths = [root.scrollWidth, root.clientWidth].join(); }</script>"
    )
    options = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
    options += ("disable-component-update", "disable-sync", "allow-file-access-from-files", "dump-dom")
    dumped = subprocess.run(
        [
            "chromium",
            "--headless",
            *(f"--{option}" for option in options),
            f"--user-data-dir={tmp_path / 'profile'}",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    measured = re.search(r'data-widths="(\d+),(\d+)"', dumped)
    assert measured, dumped[-500:]
    content, visible = map(int, measured.groups())
    assert 350 < visible <= 390
    assert content <= visible
