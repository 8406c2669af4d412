"""Pages of pairs beside the report."""

import re

import pytest
import torch

from tests.distilled_sets import distilled_set
from tests.reporting.sample import report, report_page
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.write import save
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


def test_of_a_large_set_only_what_is_shown_is_read_and_converted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("FIRST_ITEMS", 3), ("PAGE_ITEMS", 4), ("MOST_ITEMS", 10)):
        monkeypatch.setattr(galleries, name, number)
    # Three pairs in a file.
    distilled = distilled_set(15)
    monkeypatch.setattr("vldd_dist.distilled_set.distilled.LARGEST_FILE_BYTES", 3 * sum(distilled.sizes.values()) // 15)
    save(distilled, store.url_of("distilled/s"))
    read, converted = [], []
    read_object, pixels = Store.read, DistilledSet.pixels

    def reading(store: Store, key: str, *limits: int) -> bytes:
        read.append(key)
        return read_object(store, key, *limits)

    def converting(distilled: DistilledSet, chosen: slice) -> torch.Tensor:
        converted.append(len(images := pixels(distilled, chosen)))
        return images

    monkeypatch.setattr(Store, "read", reading)
    monkeypatch.setattr(DistilledSet, "pixels", converting)
    gallery = galleries.write_gallery(store, "name", "0123", "distilled/s", 0)
    assert (gallery.pairs, len(gallery.items)) == (15, 3)
    assert [shown for shown, _ in gallery.pages] == ["1 to 4", "5 to 8", "9 to 10"]
    assert gallery.on_pages == 10
    data = report()
    shown = report_page(data.model_copy(update={"galleries": [gallery]}))
    assert "<li>Pairs 1 to 10 of 15:</li>" in shown
    assert "<li>All pairs:</li>" in report_page(data), "of a smaller set"
    assert [key for key in read if key.startswith("pairs")] == [
        f"pairs-{file:05d}-of-00005.safetensors" for file in range(1, 5)
    ]
    assert sorted(converted) == [2, 3, 4, 4]


def test_the_first_pairs_with_a_similarity_of_all_pairs_are_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "MOST_ITEMS", 4)
    distilled = distilled_set(6)
    distilled.recipe = distilled.recipe.model_copy(update={"loss": {"name": "wbce", "similarity": {"kind": "full"}}})
    learned = distilled.loss.learned_rows(range(6), 6)
    distilled.rows |= {name: start for name, (start, _) in learned.items()}
    save(distilled, store.url_of("distilled/s"))
    first = galleries.write_gallery(store, "name", "0123", "distilled/s", 0)
    assert first.similarity_png is not None
    caption = "(rows) and texts (columns){}: blue below zero"
    for largest, said in ((6, ""), (5, " of the first 5 pairs")):
        monkeypatch.setattr(galleries, "LARGEST", largest)
        gallery = galleries.write_gallery(store, "name", "0123", "distilled/s", 0)
        assert caption.format(said) in report_page(report().model_copy(update={"galleries": [gallery]}))


def test_a_set_that_the_report_shows_whole_has_no_pages(store: Store) -> None:
    save(distilled_set(5), store.url_of("distilled/s"))
    assert galleries.write_gallery(store, "name", "0123", "distilled/s", 0).pages == []
    assert store.keys("report") == []
