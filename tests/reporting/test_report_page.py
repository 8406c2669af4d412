import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.browser import seen_by
from tests.reporting.sample import HOSTILE_CAPTION, large, progress, published, report, report_page, row
from vldd_dist.reporting.data import ReportData
from vldd_dist.reporting.figures.drawing import FILE_INK, Plot
from vldd_dist.reporting.figures.experiment_figures import plots
from vldd_dist.reporting.pages.data_page import DataPage, render_data_page
from vldd_dist.reporting.pages.pictures import encode_picture
from vldd_dist.reporting.pages.report_page import render_pairs_page

VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """The elements, ids and text of a page. Tags that are not nested correctly are an error."""

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
    return report_page(report())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_has_every_row_plot_and_image(page: Page):
    scopes = Counter(attributes.get("scope") for attributes in page.all("th"))
    # The methods, and the first number of pairs of each of four groups.
    # In short: 5 columns and 2 numbers of pairs; run times: 5 columns, 2 stages and their sum.
    assert scopes == {"col": 12 + 5 + 5, "rowgroup": 1, "row": len(report().rows) + 4 + 2 + 3}
    assert len(page.all("svg")) == len(plots(report()))
    # Two pairs, one of whose starts was not kept, and the learned similarity.
    assert len(page.all("img")) == 4


def test_every_visual_element_has_a_text_alternative(page: Page):
    assert all(attributes.get("alt") for attributes in page.all("img"))
    figures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(figures) == len(page.all("svg"))
    assert all(attributes["aria-label"] for attributes in figures)


def test_captions_and_causes_are_escaped(page: Page):
    assert page.all("script") == []
    assert HOSTILE_CAPTION in page.texts
    assert "the loss became NaN <here>" in page.texts


def test_each_caption_has_the_direction_of_its_own_text(page: Page):
    """A caption in Hebrew, with a Latin word, is otherwise shown in another order."""
    captions = [attributes for tag, attributes in page.elements if tag == "span" and "dir" in attributes]
    assert captions == [{"dir": "auto"}] * 4
    examples = [("train", [(encode_picture(np.zeros((3, 8, 8))), "כלב עם frisbee.")])]
    shown = render_data_page(DataPage("folder", ["train"], [], [], examples))
    assert '<figcaption dir="auto">כלב עם frisbee.</figcaption>' in shown


def test_a_table_may_have_the_title_of_the_first_figure():
    chart = Plot("Recall against pairs", "", "Of a study.", "<svg></svg>")
    study = report().model_copy(update={"rows": [], "distillations": []})
    assert "Recall against pairs. Of a study." in report_page(study, [chart])
    assert report_page(report(), [chart]).count('aria-label="Recall against pairs.') == 2


def test_sets_whose_images_are_left_out_are_counted():
    left_out = report().model_copy(update={"galleries_left_out": 1})
    assert "Not shown here: 1 further set. " in report_page(left_out)
    assert "further set" not in report_page(report())


def test_the_page_loads_no_external_resources(html: str, page: Page):
    loading = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "srcset", "data", "xlink:href", "poster", "action")
        if name in attributes
    ]
    assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for value in loading)
    assert page.all("link") == []
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html


def test_ids_are_unique_and_references_resolve(html: str, page: Page):
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)
    assert {attributes["aria-labelledby"] for attributes in page.all("section")} <= set(ids)


def test_small_pictures_keep_their_pixels(page: Page):
    assert [attributes.get("class") for attributes in page.all("img")] == ["after", "before small", "after small", None]


def test_only_web_addresses_and_files_of_the_store_become_links():
    sets = [published(url) for url in ("https://example.org/set", "s3://bucket/set", "javascript:alert(1)")]
    page = Page(report_page(report().model_copy(update={"distilled_sets": sets})))
    targets = [str(attributes["href"]) for attributes in page.all("a")]
    assert [target for target in targets if ":" in target] == ["https://example.org/set"]
    assert "../../distilled/scenes-10pairs-seed0/preview.png" in targets
    assert "../../units/distillation%20runs/1/manifest.json" in targets


def test_links_within_the_page_have_their_target(html: str, page: Page):
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    inside = {str(attributes["href"])[1:] for attributes in page.all("a") if str(attributes["href"]).startswith("#")}
    assert inside
    assert inside <= ids
    assert {attributes["for"] for attributes in page.all("label")} <= ids


def test_one_unit_is_not_plural(html: str) -> None:
    of_two = report().costs[0]
    one = report_page(report().model_copy(update={"costs": [of_two.model_copy(update={"units": of_two.units[:1]})]}))
    assert "<summary>experts: 1 unit</summary>" in one
    assert "<summary>experts: 2 units</summary>" in html


def test_the_note_of_the_short_table_is_beside_the_figure(html: str) -> None:
    beside = html[html.index('<div class="first">') : html.index("TR@1")]
    assert "Mean of the six recalls of the test split." in beside
    assert beside.count("<div") - beside.count("</div>") == 1, "only the box of the next table is open"


def test_run_times_are_summed(page: Page):
    text = " ".join(" ".join(page.texts).split())
    assert "experts 2 2 h 02 min 4.07 0.00" in text
    assert "all 4 2 h 03 min 4.10 0.02" in text
    assert "Units without a recorded time, which are not in the sums: 1." in text


def test_a_page_of_pairs_links_to_its_neighbours_and_the_report():
    gallery = (
        report()
        .galleries[0]
        .model_copy(update={"first": 50, "pairs": 52, "pages": [("1 to 50", "a-1.html"), ("51 to 52", "a-51.html")]})
    )
    page = Page(render_pairs_page("scenes", gallery, "a-51.html", "../index.html"))
    assert "52 pairs, seed 0: 51 to 52" in page.texts
    targets = {attributes["href"] for attributes in page.all("a")}
    assert {"../index.html", "a-1.html"} <= targets
    assert "a-51.html" not in targets
    assert [attributes["alt"] for attributes in page.all("img")][-1] == "Pair 52 after distillation"


def test_an_experiment_with_nothing_done_still_has_a_page():
    nothing = ReportData(
        name="empty",
        description={},
        rows=[],
        experts=[],
        distillations=[],
        galleries=[],
        failures=[("dataset", "no such file")],
        store="file:///tmp/store",
        distilled_sets=[],
    )
    page = Page(report_page(nothing))
    assert page.all("table") == page.all("svg") == []
    assert "no such file" in page.texts


STATES = {
    "running": report().model_copy(update={"progress": progress("running")}),
    "done": report().model_copy(update={"failures": [], "progress": progress("done", running=0)}),
    "failed": report().model_copy(update={"progress": progress("failed", running=0)}),
    "interrupted": report().model_copy(update={"progress": progress("stopped")}),
    "large": large(),
}


@cache
def page_of(state: str) -> str:
    """The page of a report; made once, because the large one takes seconds."""
    return report_page(STATES[state])


@pytest.mark.parametrize("state", STATES)
def test_the_page_shows_the_progress_of_the_run(state: str) -> None:
    page = Page(page_of(state))
    reloads = [attributes for attributes in page.all("meta") if attributes.get("http-equiv") == "refresh"]
    running = state in ("running", "large")
    assert len(reloads) == running
    assert page.texts.count({"large": "running"}.get(state, state)) == 1
    assert ("about 93 min 20 s left" in page.texts) == running
    # A finished run has no progress bars, but its problems are listed.
    assert ("480 of 1,200, 20 failed" in page.texts) == (state != "done")
    assert any("retried" in text and text.endswith("<node>") for text in page.texts)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("state", STATES)
def test_the_page_does_not_scroll_horizontally_at_any_width(state: str, width: int, browser: str, tmp_path: Path) -> None:
    seen_elements = (
        "[...page.querySelectorAll('h1, h2, .state b, .bar, svg, img')].filter("
        "  (one) => one.getBoundingClientRect().width > 5 && one.getBoundingClientRect().right <= root.clientWidth)"
    )
    content, visible, seen = seen_by(
        browser, page_of(state), width, f"[root.scrollWidth, root.clientWidth, {seen_elements}.length]", tmp_path
    )
    assert width - 40 < visible <= width
    assert content <= visible
    page = Page(page_of(state))
    bars = [one for one in page.all("span") if one.get("class") == "bar"]
    shown = sum(len(page.all(tag)) for tag in ("h1", "h2", "svg", "img")) + 1 + len(bars)
    assert seen == shown, "all of them are seen, and none is cut off at the side"


def test_a_desktop_shows_all_columns_of_the_recall_table(browser: str, tmp_path: Path) -> None:
    levels = {"full": 93.0, "random": 61.0, "forgetting": 64.0, "distilled": 84.0}
    rows = [row(method, 29_000 if method == "full" else 100, level) for method, level in levels.items()]
    html = report_page(report().model_copy(update={"rows": rows}))
    box = "page.querySelector('[aria-label$=\": recall\"]')"
    content, visible = seen_by(browser, html, 1280, f"[{box}.scrollWidth, {box}.clientWidth]", tmp_path)
    assert content <= visible


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_source_has_several_examples_in_a_row(width: int, browser: str, tmp_path: Path) -> None:
    picture = encode_picture(np.zeros((3, 160, 160)))
    page = DataPage("folder", ["train"], [("images", ["160"])], ["val: 0.05"], [("train", [(picture, "A dog.")] * 12)])
    html = render_data_page(page)
    assert "prefers-color-scheme: dark" in html
    first_row = "[...page.images].filter((one) => one.offsetTop == page.images[0].offsetTop)"
    content, visible, columns = seen_by(
        browser, html, width, f"[root.scrollWidth, root.clientWidth, {first_row}.length]", tmp_path
    )
    assert content <= visible
    assert columns == {390: 2, 1280: 7}[width]


def test_the_switch_shows_before_or_after_and_a_picture_can_be_enlarged(html: str, browser: str, tmp_path: Path) -> None:
    # Visible of the second pair, which has a start image: (before, after) for each view, and whether they are laid over each
    # other as a difference; then whether the pair covers the window when its picture was clicked, and after "close".
    steps = """(async () => {
      const pair = page.querySelectorAll('.pair')[1], seen = [];
      const look = (part) => view.getComputedStyle(pair.querySelector('img' + part));
      for (const name of ['after', 'before', 'difference']) {
        page.querySelector(`label[for$="-${name}"]`).click();
        seen.push(...['.before', '.after'].map((part) => Number(look(part).visibility == 'visible')));
        seen.push(Number(look('.after').mixBlendMode == 'difference'));
      }
      for (const link of ['.stack', 'nav a[href="#pairs"]']) {
        const moved = new Promise((done) => view.addEventListener('hashchange', done, {once: true}));
        pair.querySelector(link).click();
        await moved;
        const place = pair.getBoundingClientRect();
        seen.push(Number(place.left == 0 && place.top == 0 && place.width == root.clientWidth));
        seen.push(Number(look('.before').visibility == 'visible' && look('.after').visibility == 'visible'));
      }
      return seen;
    })()"""
    seen = seen_by(browser, html, 1280, steps, tmp_path, wait_ms=5000)
    assert seen[:9] == [0, 1, 0, 1, 0, 0, 1, 1, 1]
    assert seen[9:] == [1, 1, 0, 1], "enlarged, both are seen beside each other; then the page is as it was"


def luminance(colour: str) -> float:
    """The relative luminance of #rrggbb, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_in_both_themes(html: str) -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    )
    for colours in (light, dark):
        for text in ("ink", "muted", "accent"):
            for ground in ("ground", "surface", "warn-ground"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ground"], colours["accent"]) >= 4.5, "the chosen label of a switch"
    # One colour for a file that is shown on white and on GitHub's dark ground: no colour has more than 4.35 on both.
    assert min(contrast(FILE_INK, "#ffffff"), contrast(FILE_INK, "#0d1117")) >= 4.3
