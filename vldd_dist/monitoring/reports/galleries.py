"""The images of a distilled set in a report: the first pairs on the report's page, up to `MOST_ITEMS` on separate pages."""

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.heat_map import LARGEST, heat_map
from vldd_dist.distilled_set.reading import read_manifest
from vldd_dist.monitoring.reports.report_files import PAGE, key_of
from vldd_dist.reporting.data import Gallery, GalleryItem
from vldd_dist.reporting.pages.pictures import encode_picture
from vldd_dist.reporting.pages.report_page import render_pairs_page
from vldd_dist.store.store import Store

# The number of pairs on the report's page and on each of the other pages. It is limited, because images are embedded in the
# pages.
FIRST_ITEMS, PAGE_ITEMS = 20, 50
# Of a larger set, only this many pairs are shown.
MOST_ITEMS = 1000


def write_gallery(store: Store, name: str, publication: str, folder: str, seed: int) -> Gallery:
    """Returns what the report's page shows of a set. Writes the pages with the first `MOST_ITEMS` pairs, unless they exist.

    Args:
        name: of the experiment.
        publication: id of the unit that published the set.
        folder: key of the set in the store.

    Raises:
        StoreError: a read or write failed.
    """
    # A large set does not fit into the memory of the driver's machine.
    distilled = DistilledSet.load(store.url_of(folder), MOST_ITEMS)
    count = read_manifest(Store(store.url_of(folder))).pairs
    similarity = distilled.similarity()
    paths = []
    if count > FIRST_ITEMS:
        for first in range(0, len(distilled), PAGE_ITEMS):
            last = min(first + PAGE_ITEMS, len(distilled))
            paths.append((f"{first + 1:,} to {last:,}", f"{publication}-{first + 1}.html"))
    for number, (_, path) in enumerate(paths):
        key = key_of(name, f"pairs/{path}")
        if not store.exists(key):
            first = number * PAGE_ITEMS
            items = _items(distilled, slice(first, first + PAGE_ITEMS))
            gallery = Gallery(pairs=count, seed=seed, first=first, items=items, pages=paths)
            store.write(key, render_pairs_page(name, gallery, path, f"../{PAGE}").encode())
    return Gallery(
        pairs=count,
        seed=seed,
        items=_items(distilled, slice(FIRST_ITEMS)),
        pages=[(shown, f"pairs/{path}") for shown, path in paths],
        on_pages=len(distilled) if paths else 0,
        similarity_png=None if similarity is None else heat_map(similarity),
        similarity_shown=LARGEST if count > LARGEST else None,
    )


def _items(distilled: DistilledSet, chosen: slice) -> list[GalleryItem]:
    captions, after = distilled.captions[chosen], distilled.pixels(chosen)
    before = [None] * len(captions) if distilled.start_images is None else distilled.start_images[chosen]
    return [
        GalleryItem(
            before=None if image_before is None else encode_picture(image_before),
            after=encode_picture(image_after),
            caption_before=nearest.before,
            caption_after=nearest.after,
            similarity=nearest.similarity,
        )
        for image_before, image_after, nearest in zip(before, after, captions, strict=True)
    ]
