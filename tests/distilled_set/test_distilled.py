"""Distilled sets: a fetch is complete or absent, is verified, and can be resumed; garbage collection keeps all listed
objects."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distilled_sets import distilled_set, with_similarity
from vldd_dist import load_distilled
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.cli.main import main
from vldd_dist.distilled_set import reading
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import published_sets, read_manifest, verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.distilled_set.transfer.partial_folder import MARKER
from vldd_dist.errors import StoreError
from vldd_dist.store import objects
from vldd_dist.store.backends.file_systems import open_file_system
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.training_loop import PHASE


@pytest.fixture
def url(store: Store) -> str:
    folder = store.url_of("distilled/a-set")
    save(distilled_set(), folder)
    return folder


def test_the_similarity_of_pairs_of_different_phases_is_shown_as_none() -> None:
    """No batch has both, so the product of their factors is never used."""
    shown = with_similarity({"kind": "low_rank", "rank": 2})
    assert distilled_set().similarity() is None
    shown.rows["similarity_right"] = torch.ones(5, 2)
    whole = shown.similarity()
    assert whole is not None
    assert whole[3, 0] != 0
    shown.rows[PHASE] = torch.tensor([0, 0, 0, 1, 1])
    apart = shown.similarity()
    assert apart is not None
    assert torch.equal(apart[:3, :3], whole[:3, :3])
    assert torch.equal(apart[3:, 3:], whole[3:, 3:])
    assert apart[3:, :3].count_nonzero() == apart[:3, 3:].count_nonzero() == 0


def test_saving_a_set_twice_changes_nothing_and_another_set_is_refused(url: str) -> None:
    save(distilled_set(), url)
    with pytest.raises(StoreError, match="another distilled set is there"):
        save(distilled_set(4), url)
    assert len(load_distilled(url)) == 5


def test_a_loaded_set_is_the_same_whatever_the_order_of_its_settings(store: Store) -> None:
    """A manifest sorts them by name."""
    whole = distilled_set()
    loss = {"name": "infonce", "temperature": 0.1, "learn_temperature": False}
    encoder = {"pooling": "mean", "model": "a-model"}
    whole.recipe = whole.recipe.model_copy(update={"loss": loss, "text_encoder": encoder})
    save(whole, store.url_of("set"))
    loaded = load_distilled(store.url_of("set"))
    assert [*loaded.recipe.loss] != [*loss]
    save(loaded, store.url_of("set"))
    assert "| infonce, learn_temperature False, temperature 0.1 |" in store.read("set/README.md").decode()


def test_many_pairs_lie_in_parts_and_are_read_as_one(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = distilled_set()
    digest = whole.digest
    row = sum(tensor[:1].nbytes for tensor in whole.rows.values())
    monkeypatch.setattr("vldd_dist.distilled_set.distilled.LARGEST_FILE_BYTES", 2 * row)
    parted = distilled_set()
    save(parted, store.url_of("set"))
    parts = [key for key in store.keys("set") if "/pairs-" in key]
    count = -(-len(whole) // 2)
    assert parts == [f"set/pairs-{part:05d}-of-{count:05d}.safetensors" for part in range(1, count + 1)]
    fetch(store.url_of("set"), tmp_path / "fetched")
    for url in (store.url_of("set"), str(tmp_path / "fetched")):
        loaded = load_distilled(url)
        assert torch.equal(loaded.images, whole.images)
        assert torch.equal(loaded.texts, whole.texts)
        assert loaded.digest == parted.digest != digest
    store.delete([parts[0]])
    with pytest.raises(StoreError, match="pairs-00001-of"):
        load_distilled(store.url_of("set"))


def test_a_set_without_its_manifest_is_not_there(url: str) -> None:
    Store(url).delete(["manifest.json"])
    with pytest.raises(StoreError, match=r"manifest\.json: no such object"):
        load_distilled(url)


def test_any_damaged_object_is_found_and_named(url: str) -> None:
    store = Store(url)
    names = list(read_manifest(store).objects)
    assert set(names) > {"pairs.safetensors", "captions.jsonl", "README.md", "croissant.json", "pairs/000000.tar"}
    for name in names:
        data = store.read(name)
        store.write(name, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(StoreError, match=f"{re.escape(name)}: .*damaged"):
            verify(url)
        if name in ("pairs.safetensors", "shared.safetensors", "captions.jsonl"):
            with pytest.raises(StoreError, match=f"{re.escape(name)}: .*damaged"):
                load_distilled(url)
        else:
            load_distilled(url)
        store.write(name, data)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"images": torch.zeros(5, 1, 16, 16)}, "images"),
        ({"images": torch.zeros(5)}, "images"),
        ({"texts": torch.zeros(4, 8)}, "texts"),
        ({"texts": torch.zeros(())}, "texts"),
        ({"similarity_diagonal": torch.zeros(4)}, "similarity_diagonal"),
        ({"similarity_diagonal": torch.zeros(())}, "similarity_diagonal"),
        ({"start_images": torch.zeros(5, 3, 8, 8)}, "start_images"),
    ],
)
def test_whole_objects_that_do_not_fit_together_are_refused(url: str, change: dict[str, torch.Tensor], name: str) -> None:
    pairs = tensors.decode(Store(url).read("pairs.safetensors"), "pairs") | change
    reseal(url, "pairs.safetensors", tensors.encode(pairs))
    with pytest.raises(StoreError, match=f"pairs.safetensors: '{name}' must"):
        load_distilled(url)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"number": torch.tensor([0, 1, 2, 3, 5])}, "'number' must hold each of 0 to 4 once"),
        ({"number": torch.arange(5.0)}, r"'number' must be \(5,\) int64"),
        ({"similarity": torch.zeros(5, 4)}, r"'similarity' must be \(5, 5\) float32"),
        ({"phase": torch.zeros(5)}, r"'phase' must be \(5,\) int64"),
        ({"number": None}, r"'number' must be \(5,\) int64"),
    ],
)
def test_rows_that_the_loss_cannot_use_are_refused_when_the_set_is_loaded(
    store: Store, change: dict[str, torch.Tensor | None], sentence: str
) -> None:
    distilled, url = with_similarity({"kind": "full"}), store.url_of("set")
    save(distilled, url)
    assert load_distilled(url).rows.keys() == distilled.rows.keys()
    rows = {name: tensor for name, tensor in (distilled.rows | change).items() if tensor is not None}
    reseal(url, "pairs.safetensors", tensors.encode(rows))
    with pytest.raises(StoreError, match=rf"pairs\.safetensors: {sentence}"):
        load_distilled(url)


def reseal(url: str, name: str, content: bytes) -> None:
    """Replace an object of a set, and its entry in the manifest."""
    store = Store(url)
    manifest = read_manifest(store)
    store.write(name, content)
    objects = manifest.objects | {name: ObjectInfo.of(name, content)}
    store.write("manifest.json", to_json(manifest.model_copy(update={"objects": objects})))


def test_fetch_verifies_and_is_idempotent(url: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "fetched"
    fetch(url, target, lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 0
    assert load_distilled(str(target)).digest == load_distilled(url).digest
    fetch(url, target)
    verify(str(target))
    (target / "captions.jsonl").write_text("{}")
    with pytest.raises(StoreError, match=r"captions\.jsonl.*damaged"):
        verify(str(target))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(StoreError, match="exists already and is not this set"):
        fetch(url, other)


def test_a_set_that_was_changed_is_saved_as_it_is_now(tmp_path: Path) -> None:
    changed = distilled_set()
    digest = changed.digest
    changed.rows["images"] = changed.images * 0 + 5
    save(changed, tmp_path / "set")
    assert load_distilled(tmp_path / "set").images.eq(5).all()
    changed.rows["texts"].zero_()
    assert len({digest, load_distilled(tmp_path / "set").digest, changed.digest}) == 3


def test_save_overwrites_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(StoreError, match=r"README\.md: another file is there: choose a folder without files"):
        save(distilled_set(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "my project"


def test_an_interrupted_fetch_is_resumed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, reads = tmp_path / "fetched", []
    monkeypatch.setattr(reading, "PARALLEL_READS", 1)
    original = Store.read

    def failing(self: Store, key: str, at_most: int | None = None) -> bytes:
        if key == "preview.png":
            raise StoreError("gone for a moment")
        return original(self, key)

    monkeypatch.setattr(Store, "read", failing)
    with pytest.raises(StoreError, match="gone for a moment"):
        fetch(url, target)
    assert not target.exists()

    def counting(self: Store, key: str, at_most: int | None = None) -> bytes:
        reads.append(key)
        return original(self, key)

    monkeypatch.setattr(Store, "read", counting)
    partial = tmp_path / "fetched.partial"
    (partial / "README.md").write_bytes(b"cut")
    (partial / "left-over").write_bytes(b"x")
    fetch(url, target)
    assert "pairs.safetensors" not in reads, "objects that are present are not fetched again"
    assert {"README.md", "preview.png"} < set(reads)
    verify(str(target))
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert present == {*read_manifest(Store(url)).objects, "manifest.json"}
    assert not partial.exists()


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "other.bin"])
def test_a_manifest_that_points_elsewhere_is_refused(url: str, tmp_path: Path, key: str) -> None:
    store = Store(url)
    manifest = read_manifest(store)
    elsewhere = manifest.objects["preview.png"].model_copy(update={"key": key})
    forged = manifest.model_copy(update={"objects": manifest.objects | {"preview.png": elsewhere}})
    store.write("manifest.json", to_json(forged))
    with pytest.raises(StoreError, match="rejected"):
        fetch(url, tmp_path / "fetched")


def test_the_commands(url: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["list", store.url], "5 pairs"),
        (["verify", url], "all match the manifest"),
        (["show", url], "preview.png"),
        (["fetch", url, str(tmp_path / "here")], "5 pairs in"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert words in capsys.readouterr().out.replace("\n", "")
    assert list(published_sets(store)) == ["distilled/a-set"]


def test_the_sets_of_a_store_are_listed_over_one_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [f"distilled/{name}" for name in "abc"]
    for folder in sets:
        save(distilled_set(), store.url_of(folder))
    store.write("distilled/d/manifest.json", b"{}")
    opened: list[str] = []

    def opening(scheme: str, *arguments: Any) -> Any:
        opened.append(scheme)
        return open_file_system(scheme, *arguments)

    monkeypatch.setattr("vldd_dist.store.backends.base.open_file_system", opening)
    found = published_sets(Store(store.url))
    assert list(found) == [*sets, "distilled/d"]
    assert [isinstance(one.manifest, StoreError) for one in found.values()] == [False, False, False, True]
    assert len(opened) <= 1


def test_the_sets_of_a_store_are_listed_in_the_order_of_their_publication(store: Store) -> None:
    for name in "bac":
        save(distilled_set(), store.url_of(f"distilled/{name}"))
        path = Path(store.root) / "distilled" / name / "manifest.json"
        os.utime(path, (0, "bac".index(name)))
    assert list(published_sets(store)) == ["distilled/b", "distilled/a", "distilled/c"]


def test_of_a_large_object_only_what_is_missing_is_fetched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1000)
    url = store.url_of("distilled/large")
    save(distilled_set(), url)
    fetch(url, tmp_path / "first")
    info = read_manifest(Store(url)).objects["pairs.safetensors"]
    assert info.blocks is not None
    partial = tmp_path / "second.partial"
    shutil.copytree(tmp_path / "first", partial)
    (partial / MARKER).touch()
    with (partial / "pairs.safetensors").open("r+b") as file:
        file.seek(2500)
        file.write(b"damaged")
        file.truncate(info.size - 10)
    ranges = []
    original = Store.read_range
    monkeypatch.setattr(
        Store, "read_range", lambda self, key, start, length: ranges.append((key, start)) or original(self, key, start, length)
    )
    fetch(url, tmp_path / "second")
    assert sorted(ranges) == [("pairs.safetensors", 2000), ("pairs.safetensors", info.block_list()[-1].start)]
    assert (tmp_path / "second/pairs.safetensors").read_bytes() == (tmp_path / "first/pairs.safetensors").read_bytes()
    verify(str(tmp_path / "second"))
