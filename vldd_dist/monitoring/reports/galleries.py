"""The images of a distilled set in a report: the first pairs on the report's page, all pairs on separate pages."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.heat_map import heat_map
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.monitoring.reports.report_files import PAGE, key_of
from vldd_dist.reporting.data import Gallery, GalleryItem
from vldd_dist.reporting.html import render_pairs_page
from vldd_dist.reporting.pictures import encode_picture
from vldd_dist.store.store import Store

# The number of pairs on the report's page and on each of the other pages. It is limited, because images are embedded in the
# pages.
FIRST_ITEMS, PAGE_ITEMS = 20, 50
# Of a larger set, only this many pairs are shown.
MOST_ITEMS = 1000


def write_gallery(store: Store, name: str, publication: str, folder: str, seed: int) -> Gallery:
    """Returns what the report's page shows of a set. Writes the pages with all pairs, unless they exist.

    Args:
        name: of the experiment.
        publication: id of the unit that published the set.
        folder: key of the set in the store.

    Raises:
        StoreError: a read or write failed.
    """
    distilled = DistilledSet.load(store.url_of(folder))
    images, count = distilled.pixels(), len(distilled.captions)
    similarity = distilled.loss.similarity_of(distilled.rows)
    paths = []
    if count > FIRST_ITEMS:
        for first in range(0, min(count, MOST_ITEMS), PAGE_ITEMS):
            last = min(first + PAGE_ITEMS, count)
            paths.append((f"{first + 1:,} to {last:,}", f"{publication}-{first + 1}.html"))
    for number, (_, path) in enumerate(paths):
        key = key_of(name, f"pairs/{path}")
        if not store.exists(key):
            first = number * PAGE_ITEMS
            chosen = range(first, min(first + PAGE_ITEMS, count))
            items = _items(distilled.start_images, images, distilled.captions, chosen)
            gallery = Gallery(pairs=count, seed=seed, first=first, items=items, pages=paths)
            store.write(key, render_pairs_page(name, gallery, path, f"../{PAGE}").encode())
    return Gallery(
        pairs=count,
        seed=seed,
        items=_items(distilled.start_images, images, distilled.captions, range(min(FIRST_ITEMS, count))),
        pages=[(shown, f"pairs/{path}") for shown, path in paths],
        similarity_png=None if similarity is None else heat_map(similarity),
    )


def _items(
    before: Tensor | None, after: Tensor, captions: Sequence[NearestCaptions], chosen: Sequence[int]
) -> list[GalleryItem]:
    return [
        GalleryItem(
            before=encode_picture(before[index]) if before is not None else None,
            after=encode_picture(after[index]),
            caption_before=captions[index].before,
            caption_after=captions[index].after,
            similarity=captions[index].similarity,
        )
        for index in chosen
    ]
