"""Pages of pairs beside the report."""

import re

import torch

from tests.test_readme import distilled_set
from vldd_dist.distilled_set.write import save
from vldd_dist.monitoring.reports import galleries
from vldd_dist.store.store import Store


def test_all_pairs_of_a_set_are_on_pages_that_are_written_once(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(galleries, "FIRST_ITEMS", 3)
    monkeypatch.setattr(galleries, "PAGE_ITEMS", 4)
    distilled = distilled_set(10)
    distilled.start_images = torch.zeros(10, 3, 16, 16)
    save(distilled, store.url_of("distilled/s"))
    gallery = galleries.write_gallery(store, "name", "0123", "distilled/s", 0)
    assert len(gallery.items) == 3
    assert [path for _, path in gallery.pages] == ["pairs/0123-1.html", "pairs/0123-5.html", "pairs/0123-9.html"]
    shown = [re.findall(r'alt="Pair (\d+) after', store.read(f"report/name/{path}").decode()) for _, path in gallery.pages]
    assert shown == [["1", "2", "3", "4"], ["5", "6", "7", "8"], ["9", "10"]]
    # Committed sets do not change: what is there is not written again.
    store.write("report/name/pairs/0123-5.html", b"as it was")
    galleries.write_gallery(store, "name", "0123", "distilled/s", 0)
    assert store.read("report/name/pairs/0123-5.html") == b"as it was"


def test_a_set_that_the_report_shows_whole_has_no_pages(store: Store) -> None:
    save(distilled_set(5), store.url_of("distilled/s"))
    assert galleries.write_gallery(store, "name", "0123", "distilled/s", 0).pages == []
    assert store.list("report") == []
