"""The picture, chart, table and means that README and docs show of the demo are of one run, and one command makes them."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont

from docs_site import demo
from tests.distilled_sets import distilled_set
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.errors import StoreError
from vldd_dist.monitoring.reports.report_files import CHART, MARKDOWN, key_of
from vldd_dist.store.store import Store

CAPTION = "a large yellow circle right of a small brown cross on black"
TABLE = """\
| pairs | method | mean |
|:---|:---|---:|
| 2,000 | full data | 99.9 ±0.1 |
| 10 | random | 70.0 |
| 20 | random | 40.0 |
|  | k-center | 60.0 |
|  | distilled | **80.0 ±0.5** |
"""
WIDTH = demo.COLUMNS * (2 * demo.SIDE + demo.GAP + demo.SPACE) - demo.SPACE


def test_the_chart_has_the_means_of_the_table() -> None:
    shown = re.findall(
        r"<title>([^<]+?), (?:pairs )?([\d,]+)(?: images)?: ([\d.]+) %", (demo.ROOT / demo.CHART_FILE).read_text()
    )
    of_chart = {(name, int(pairs.replace(",", ""))): float(mean) for name, pairs, mean in shown}
    # The table has one decimal, the chart four digits.
    of_table = {key: float(mean) for key, mean in demo.means_of((demo.ROOT / demo.PAGE).read_text()).items()}
    assert of_chart == pytest.approx(of_table, abs=0.0551)


def test_the_picture_is_the_one_with_captions() -> None:
    with Image.open(demo.ROOT / demo.PICTURE) as picture:
        assert picture.width == WIDTH


def test_readme_has_the_means_of_the_table() -> None:
    readme, page = ((demo.ROOT / name).read_text() for name in (demo.README, demo.PAGE))
    assert demo.with_means(readme, page) == readme


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
    (tmp_path / demo.PAGE).parent.mkdir(parents=True)
    (tmp_path / demo.PAGE).write_text(page)
    line = "With 20 pairs, the mean recall is {} for distilled pairs, {} for the best coreset ({}) and {} for the experts"
    (tmp_path / demo.README).write_text(f"# Demo\n\n{line.format(1, 2, 'random', 3)}\n(the table).\n")
    store = finished(tmp_path / "store")
    files = {str(path.relative_to(tmp_path)): content for path, content in demo.changed_files(store, tmp_path)}
    assert files.keys() == {demo.PICTURE, demo.CHART_FILE, demo.PAGE, demo.README}
    assert files[demo.CHART_FILE] == b"<svg/>\n"
    assert files[demo.PAGE].decode() == f"# Demo\n\n{TABLE}{notes}"
    assert files[demo.README].decode() == f"# Demo\n\n{line.format('80.0', '60.0', 'k-center', '99.9')}\n(the table).\n"
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
    with pytest.raises(ValueError, match="has 0 lines of means"):
        demo.with_means("", TABLE)


def test_captions_are_broken_at_the_width_of_two_images() -> None:
    font = ImageFont.load_default(demo.TEXT)
    lines = demo.wrapped(CAPTION, font, 2 * demo.SIDE)
    assert " ".join(lines) == CAPTION
    assert len(lines) > 1
    assert max(font.getlength(line) for line in lines) <= 2 * demo.SIDE
