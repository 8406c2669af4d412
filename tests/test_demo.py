"""README's picture, chart and table of the demo are of one run, and one command makes them."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont

from docs_site import demo
from tests.test_readme import distilled_set
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.errors import StoreError
from vldd_dist.monitoring.reports.report_files import CHART, MARKDOWN, key_of
from vldd_dist.store.store import Store

CAPTION = "a large yellow circle right of a small brown cross on black"
TABLE = "| pairs | method | mean |\n|:---|:---|---:|\n| 20 | distilled | 99.9 |\n"
WIDTH = demo.COLUMNS * (2 * demo.SIDE + demo.GAP + demo.SPACE) - demo.SPACE


def means(page: str) -> dict[tuple[str, int], float]:
    """(method, pairs) -> mean of the demo's table on a page."""
    (table,) = demo.TABLE.findall(page)
    found, pairs = {}, 0
    for line in table.splitlines()[2:]:
        cells = [cell.strip().replace("*", "") for cell in line.strip("|").split("|")]
        pairs = int(cells[0].replace(",", "")) if cells[0] else pairs
        found[cells[1], pairs] = float(cells[8].split()[0])
    return found


def test_the_chart_has_the_means_of_the_table() -> None:
    shown = re.findall(
        r"<title>([^<]+?), (?:pairs )?([\d,]+)(?: images)?: ([\d.]+) %", (demo.ROOT / demo.CHART_FILE).read_text()
    )
    of_chart = {(name, int(pairs.replace(",", ""))): float(mean) for name, pairs, mean in shown}
    # The table has one decimal, the chart four digits.
    assert of_chart == pytest.approx(means((demo.ROOT / "README.md").read_text()), abs=0.0551)


def test_the_picture_is_the_one_with_captions() -> None:
    with Image.open(demo.ROOT / demo.PICTURE) as picture:
        assert picture.width == WIDTH


def test_all_pages_have_the_same_table() -> None:
    assert len({tuple(demo.TABLE.findall((demo.ROOT / page).read_text())) for page in demo.PAGES}) == 1


def finished(folder: Path) -> Store:
    """A store like that of a finished demo, with a set of other images."""
    shown = distilled_set(demo.PAIRS)
    shown.start_images = torch.zeros(demo.PAIRS, 3, 16, 16, dtype=torch.uint8)
    shown.captions = [NearestCaptions(before="a", after=CAPTION, similarity=0.9)] * demo.PAIRS
    save(shown, str(folder / "distilled/scenes-20pairs-seed0-0123abcd"))
    store = Store(str(folder))
    store.write(key_of(demo.NAME, CHART), b"<svg/>\n")
    store.write(key_of(demo.NAME, MARKDOWN), f"{TABLE}\nTest recall in percent.\n\nOf full data.\n".encode())
    return store


def test_one_command_makes_them_from_the_store_of_the_demo(tmp_path: Path) -> None:
    notes = "\nTest recall in\npercent.\n\nOf full data.\n"
    page = f"# Demo\n\n| pairs | method | TR@1 |\n|:---|:---|---:|\n| 10 | random | 5.5 |\n{notes}"
    for name in demo.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(page)
    store = finished(tmp_path / "store")
    files = {str(path.relative_to(tmp_path)): content for path, content in demo.changed_files(store, tmp_path)}
    assert files.keys() == {demo.PICTURE, demo.CHART_FILE, *demo.PAGES}
    assert files[demo.CHART_FILE] == b"<svg/>\n"
    for name in demo.PAGES:
        assert files[name].decode() == f"# Demo\n\n{TABLE}{notes}"
    (tmp_path / "picture.png").write_bytes(files[demo.PICTURE])
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == WIDTH
        # Black start images on the left, and below them the caption, in letters of black on white.
        below = picture.crop((0, demo.SIDE + demo.GAP, 2 * demo.SIDE, demo.SIDE + demo.GAP + demo.TEXT)).convert("L")
        assert picture.getpixel((demo.SIDE - 1, 0)) == (0, 0, 0) != picture.getpixel((demo.SIDE, 0))
        assert below.getextrema() == (0, 255)


def test_a_store_without_the_set_and_a_page_without_a_note_are_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(key_of(demo.NAME, CHART), b"")
    with pytest.raises(StoreError, match="has 0 sets of 20 pairs instead of one: run `make demo`"):
        list(demo.changed_files(store, tmp_path))
    table = "| pairs | method |\n|---|---|\n"
    with pytest.raises(ValueError, match="lacks this note of the report: A note"):
        demo.with_table(table, f"{table}\nA note.\n")
    with pytest.raises(ValueError, match="has 0 tables"):
        demo.with_table("", table)


def test_captions_are_broken_at_the_width_of_two_images() -> None:
    font = ImageFont.load_default(demo.TEXT)
    lines = demo.wrapped(CAPTION, font, 2 * demo.SIDE)
    assert " ".join(lines) == CAPTION
    assert len(lines) > 1
    assert max(font.getlength(line) for line in lines) <= 2 * demo.SIDE
