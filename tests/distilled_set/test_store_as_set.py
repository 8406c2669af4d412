"""The URL of a store in place of that of a distilled set."""

from pathlib import Path

import pytest

from tests.distilled_sets import distilled_set
from vldd_dist import load_distilled
from vldd_dist.artifacts.units import mark_store
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.transfer.push import push
from vldd_dist.errors import StoreError
from vldd_dist.store.store import MissingObject, Store


@pytest.mark.parametrize("replace", [False, True])
def test_a_set_is_not_pushed_among_the_folders_of_a_store(tmp_path: Path, store: Store, replace: bool) -> None:
    save(distilled_set(), tmp_path / "set")
    mark_store(store)
    with pytest.raises(StoreError, match=r": is a store: name a folder of its own, for example .*/sets/NAME$"):
        # Before the set is read.
        push(tmp_path / "no set", store.url, replace=replace)
    assert not any(map(store.exists, ("manifest.json", "README.md", "pairs.safetensors")))
    push(tmp_path / "set", f"{store.url}/sets/mine")


def test_a_store_is_not_loaded_as_a_set(store: Store) -> None:
    mark_store(store)
    with pytest.raises(StoreError, match=r": is a store, not a distilled set: `vldd list .*` lists its sets$"):
        load_distilled(store.url)
    with pytest.raises(MissingObject, match=r"distilled/manifest\.json: no such object: name the folder of a distilled set"):
        load_distilled(store.url_of("distilled"))


def test_the_mark_of_a_store_is_read_no_further_than_it_is_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any server may be asked for it."""
    asked, read = [], Store.read

    def recorded(self: Store, key: str, at_most: int | None = None) -> bytes:
        asked.append((key, at_most))
        return read(self, key, at_most)

    monkeypatch.setattr(Store, "read", recorded)
    with pytest.raises(MissingObject):
        load_distilled(store.url)
    assert all(at_most is not None for _, at_most in asked), asked
    assert len(asked) == 2


def test_a_size_that_is_a_lie_is_told(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"1234")
    assert Store(str(tmp_path)).read("small", 1 << 50) == b"1234"
    assert Store(str(tmp_path)).read("small", 2) == b"123"
