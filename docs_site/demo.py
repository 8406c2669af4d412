"""The picture, the chart and the figures that README.md and benchmarks/results/demo.md show of the demo, from its store.

make demo
.venv/bin/python -m docs_site.demo demo-store
"""

import argparse
import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.reading import published_sets
from vldd_dist.errors import StoreError
from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.monitoring.reports.report_files import CHART, MARKDOWN, key_of
from vldd_dist.store.store import Store

ROOT = Path(__file__).parents[1]
NAME, PAIRS = "scenes", 20
PICTURE, CHART_FILE = "docs/images/scenes-20-pairs.png", "docs/images/scenes-recall.svg"
README, PAGE = "README.md", "benchmarks/results/demo.md"
TABLE = re.compile(r"^\| pairs \| method \|.*\n(?:\|.*\n)+", re.MULTILINE)
# The line of README with means of the table.
MEANS = re.compile(rf"^With {PAIRS} pairs, the mean recall is .* for distilled pairs, .*$", re.MULTILINE)
# Of the picture, in pixels: an image's side, the space between the two images of a pair and between pairs, the size of letters.
SIDE, GAP, SPACE, TEXT = 96, 4, 20, 13
COLUMNS = 5


def draw_pairs(distilled: DistilledSet) -> bytes:
    """A PNG of all pairs: the image from which each started, beside it the distilled image, below them the caption nearest to
    the distilled text. Small images are enlarged without interpolation.

    Args:
        distilled: with `start_images`.
    """
    assert distilled.start_images is not None, "the demo's sets have the images from which they started"
    font = ImageFont.load_default(TEXT)
    width, line = 2 * SIDE + GAP, TEXT + 3
    captions = [wrapped(caption.after, font, width) for caption in distilled.captions]
    height = SIDE + GAP + line * max(map(len, captions))
    rows = -(-len(distilled) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + SPACE) - SPACE, rows * (height + SPACE) - SPACE), "white")
    draw = ImageDraw.Draw(sheet)
    for index, images in enumerate(zip(distilled.start_images, distilled.pixels(), strict=True)):
        left, top = index % COLUMNS * (width + SPACE), index // COLUMNS * (height + SPACE)
        for number, image in enumerate(images):
            sheet.paste(_enlarged(image), (left + number * (SIDE + GAP), top))
        for number, words in enumerate(captions[index]):
            draw.text((left, top + SIDE + GAP + number * line), words, "black", font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in lines of at most this width in pixels, unless a single word is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _enlarged(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def with_table(page: str, report: str) -> str:
    """A page with its table of recalls replaced by that of a report.

    Args:
        page: Markdown with one such table, and below it the notes of the report, perhaps with other line ends.
        report: Markdown of the table and its notes.

    Raises:
        ValueError: the page has another number of tables, or lacks a note.
    """
    (table,) = TABLE.findall(report)
    text, tables = TABLE.subn(lambda _: table, page)
    if tables != 1:
        raise ValueError(f"the page has {tables} tables of recalls instead of one")
    for note in filter(None, TABLE.sub("", report).split("\n\n")):
        if " ".join(note.split()) not in " ".join(page.split()):
            raise ValueError(f"the page lacks this note of the report: {note.strip()}")
    return text


def means_of(report: str) -> dict[tuple[str, int], str]:
    """(method, number of pairs or, for full data, images) -> its mean recall, of the table of recalls in a report or page."""
    (table,) = TABLE.findall(report)
    head, _, *rows = ([cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in table.splitlines())
    found: dict[tuple[str, int], str] = {}
    pairs = 0
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        pairs = int(cells["pairs"].replace(",", "")) if cells["pairs"] else pairs
        found[cells["method"], pairs] = cells["mean"].split()[0]
    return found


def with_means(page: str, report: str) -> str:
    """README with the means of a report in its line of means.

    Raises:
        ValueError: the page has another number of such lines than one.
    """
    means = means_of(report)
    of_size = {method: mean for (method, pairs), mean in means.items() if pairs == PAIRS}
    distilled = of_size.pop(display_name(DISTILLED))
    best = max(of_size, key=lambda method: float(of_size[method]))
    (full,) = (mean for (method, _), mean in means.items() if method == display_name(FULL))
    line = (
        f"With {PAIRS} pairs, the mean recall is {distilled} for distilled pairs, {of_size[best]} for the best coreset "
        f"({best}) and {full} for the experts"
    )
    text, lines = MEANS.subn(line, page)
    if lines != 1:
        raise ValueError(f"the page has {lines} lines of means instead of one: {line}")
    return text


def changed_files(store: Store, root: Path) -> Iterator[tuple[Path, bytes]]:
    """(path, content) of each file that shows figures or images of the demo.

    Raises:
        StoreError: the store is not that of a finished demo.
    """
    sets = [
        key
        for key, one in published_sets(store).items()
        if not isinstance(one.manifest, StoreError) and one.manifest.pairs == PAIRS
    ]
    if len(sets) != 1:
        raise StoreError(
            f"{store.url}: has {len(sets)} sets of {PAIRS} pairs instead of one: run `make demo` with an empty store"
        )
    yield root / PICTURE, draw_pairs(DistilledSet.load(store.url_of(sets[0])))
    yield root / CHART_FILE, store.read(key_of(NAME, CHART))
    report = store.read(key_of(NAME, MARKDOWN)).decode()
    yield root / PAGE, with_table((root / PAGE).read_text(), report).encode()
    yield root / README, with_means((root / README).read_text(), report).encode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs_site.demo", description="The demo's figures in README and docs.")
    parser.add_argument("store", help="the folder in which `make demo` ran")
    for path, content in list(changed_files(Store(parser.parse_args().store), ROOT)):
        path.write_bytes(content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
