"""P3 for publications, whose attempts all write to one folder: if the pairs of two attempts differ by rounding, one complete
set remains."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from vldd_dist.artifacts.garbage import find_garbage
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import published_sets, read_manifest, verify
from vldd_dist.errors import StoreError
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.stages import publication
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_units import copy_all_but, digests, first_of, with_other_last_bits

UNIT = first_of("publication")
MANIFEST = f"units/publication/{UNIT.id}/manifest.json"


@pytest.fixture
def store(finished: Store, store: Store) -> Store:
    """Run all units except the publication."""
    copy_all_but(finished, store, UNIT)
    return store


def run(store: Store, elsewhere: bool = False) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if elsewhere:
            patch.setattr(publication, "_nearest_captions", with_other_last_bits(publication._nearest_captions))
        execute(UNIT.order(), store, lambda event: None)


def after_change(number: int, do: Callable[[], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Counts the changes of a store in this process, and calls `do` after the change of a given number."""
    count = 0

    def watched(operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Store, *arguments: Any) -> Any:
            nonlocal count
            result = operation(self, *arguments)
            count += 1
            if count == number:
                do()
            return result

        return wrapped

    def apply(patch: pytest.MonkeyPatch) -> None:
        for name in ("write", "create", "delete"):
            patch.setattr(Store, name, watched(getattr(Store, name)))

    return apply


def check_whole(store: Store, finished: Store) -> None:
    (folder,) = published_sets(store)
    facts = UnitReader(store, "publication", UNIT.id).manifest.facts
    assert digests(store, UNIT) == digests(finished, UNIT)
    verify(store.url_of(folder))
    assert DistilledSet.load(store.url_of(folder)).digest == facts["digest"]
    assert store.keys("units/publication") == [MANIFEST], "the agreed pairs are removed after the commit"


def test_whenever_another_publishes_in_between_one_whole_set_is_committed(store: Store, finished: Store) -> None:
    """The other publisher runs completely after the first one's k-th change of the store, for each k."""
    for number in range(1, 100):
        others: list[int] = []
        with pytest.MonkeyPatch.context() as patch:

            def interrupt(patch: pytest.MonkeyPatch = patch, others: list[int] = others) -> None:
                patch.undo()
                run(store, elsewhere=True)
                others.append(1)

            after_change(number, interrupt)(patch)
            run(store)
        check_whole(store, finished)
        if not others:
            break
        store.delete([*store.keys(f"units/publication/{UNIT.id}"), *store.keys("distilled")])
    assert number > 10


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_set_whose_unit_was_not_committed_is_taken_over(store: Store, finished: Store, elsewhere: bool) -> None:
    run(store)
    (folder,) = published_sets(store)
    before = {key: store.read(key) for key in store.keys(folder)}
    store.delete([MANIFEST])
    run(store, elsewhere)
    check_whole(store, finished)
    assert {key: store.read(key) for key in store.keys(folder)} == before


def test_a_damaged_set_is_written_again_when_its_unit_is_made_again(store: Store, finished: Store) -> None:
    run(store)
    (folder,) = published_sets(store)
    store.write(f"{folder}/preview.png", b"damaged")
    with pytest.raises(DamagedObject):
        verify(store.url_of(folder))
    store.delete([MANIFEST])
    run(store, elsewhere=True)
    check_whole(store, finished)


def test_a_set_of_other_pairs_is_not_written_over(store: Store) -> None:
    run(store)
    (folder,) = published_sets(store)
    other = DistilledSet.load(store.url_of(folder))
    store.delete([*store.keys(folder), MANIFEST])
    other.rows["images"] += 1
    save(other, store.url_of(folder))
    with pytest.raises(StoreError, match=f"{folder}: contains a distilled set of other pairs"):
        run(store)
    assert read_manifest(Store(store.url_of(folder))).objects["pairs.safetensors"].sha256 == other.digest


def test_agreed_pairs_of_a_publication_are_no_garbage(store: Store, finished: Store) -> None:
    """An attempt that resumes needs them, however old they are."""

    class Died(BaseException):
        pass

    def die_when_agreed(self: Store, key: str, data: bytes) -> bool:
        create(self, key, data)
        raise Died

    create = Store.create
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "create", die_when_agreed)
        with pytest.raises(Died):
            run(store)
    assert any(key.endswith("-agreed.json") for key in store.keys("units/publication"))
    assert find_garbage(store, timedelta(0)).keys == []
    run(store, elsewhere=True)
    check_whole(store, finished)
    (folder,) = published_sets(store)
    similarities = [near.similarity for near in DistilledSet.load(store.url_of(folder)).captions]
    (folder,) = published_sets(finished)
    assert similarities == [near.similarity for near in DistilledSet.load(finished.url_of(folder)).captions]
