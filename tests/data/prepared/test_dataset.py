"""From sources to shards and back: reproducible bytes, every image once per epoch, one-sentence errors."""

import itertools
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.prepared.prepared_sets import SCENES, numbered
from tests.data.sample_files import jpeg
from tests.data.small_sources import identity, karpathy, shards
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import choose
from vldd_dist.data.prepared.dataset import EncodedImage, decoded_batches
from vldd_dist.data.sources.base import Part
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import embed, prepare


def test_preparation_is_byte_identical_and_reads_back(store: Store) -> None:
    first, second = prepare(store, SCENES), prepare(Store(f"{store.url}-again"), SCENES)
    assert first.splits == second.splits, "including the sha256 of the tars"
    assert [shard.images for shard in first.splits["train"].shards] == [5, 5, 5, 5, 3]
    images, captions = first.images("train"), first.captions("train")
    assert images.shape == (23, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert len({image.key for image in first.iterate("train")}) == 23
    picked = first.pick("train", [20, 3, 3 + 5, 3])
    assert torch.equal(picked.images, images[[20, 3, 8, 3]])
    assert picked.captions == [captions[i] for i in (20, 3, 8, 3)]


def test_the_images_of_a_split_are_decoded_by_threads_and_held_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, pixels, made, held = prepare(store, SCENES), EncodedImage.pixels, [], []
    wanted = torch.stack([image.pixels() for image in dataset.iterate("train")])
    meet = meeting_of_two()

    def decode(self: EncodedImage) -> torch.Tensor:
        meet()
        image = pixels(self)
        made.append(weakref.ref(image))
        held.append(sum(reference() is not None for reference in made))
        return image

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(EncodedImage, "pixels", decode)
    assert torch.equal(dataset.images("train"), wanted)
    assert max(held) < 10, "decoded images are not kept beside the result"


def test_batches_are_decoded_by_threads_and_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [EncodedImage(number, str(number), jpeg((10 * number, 30, 30))) for number in range(7)]
    wanted, pixels, decoded, ahead = [image.pixels() for image in images], EncodedImage.pixels, [], threading.Event()
    meet = meeting_of_two()

    def decode(self: EncodedImage) -> torch.Tensor:
        meet()
        decoded.append(self.index)
        if len(decoded) == 6:
            ahead.set()
        return pixels(self)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(EncodedImage, "pixels", decode)
    batches = decoded_batches(images, 3)
    first = next(batches)
    assert ahead.wait(60), "the second batch is decoded before it is asked for"
    found = [first, *batches]
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert torch.equal(torch.cat(found), torch.stack(wanted))


def meeting_of_two() -> Callable[[], None]:
    """A function whose first two calls wait for each other, so that they have to be in two threads."""
    calls, barrier = itertools.count(), threading.Barrier(2)

    def meet() -> None:
        if next(calls) < 2:
            barrier.wait(60)

    return meet


def test_the_content_of_a_split_is_that_of_its_source_whatever_the_size_of_prepared_images(
    tmp_path: Path, store: Store
) -> None:
    folders = [tmp_path / name for name in ("first", "captions", "images")]
    for folder in folders:
        folder.mkdir()
    first, images = karpathy(folders[0]), karpathy(folders[2])
    captions = karpathy(folders[1], lambda tree: tree["images"][3]["sentences"][1].update(raw="another caption"))
    (folders[2] / "images" / "3.jpg").write_bytes(jpeg((30, 30, 200)))
    resized = first.model_copy(update={"image_size": 64, "shard_images": 1})
    found = [prepare(store, settings).content("test") for settings in (first, resized, captions)]
    # In another store, because the ids of units do not depend on the bytes of such images.
    found.append(prepare(Store(f"{store.url}-other"), images).content("test"))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_karpathy_reads_and_restval_is_training_data(tmp_path: Path, store: Store) -> None:
    dataset = prepare(store, karpathy(tmp_path))
    assert {name: info.images for name, info in dataset.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert dataset.captions("train")[1] == ["image 1 caption 0", "image 1 caption 1"]
    assert abs(int(dataset.images("train")[0, 0].float().mean()) - 200) < 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: tree["images"][0].pop("split"), r"data.json: images\[0\].split: missing"),
        (lambda tree: tree["images"][1].pop("sentences"), r"data.json: images\[1\].sentences: missing"),
        (lambda tree: tree["images"][0]["sentences"][1].pop("raw"), r"images\[0\].sentences\[1\].raw: missing"),
        (lambda tree: tree["images"][0].update(sentences=[]), r"images\[0\].sentences: empty"),
        (lambda tree: tree["images"][0].update(sentences=[{"raw": "  "}]), r"images\[0\].sentences: empty"),
        (lambda tree: tree["images"][0].update(filename="no.jpg"), r"no.jpg cannot be read"),
        (lambda tree: tree.pop("images"), "images: missing"),
        (lambda tree: tree["images"].pop(), "the test split has no images"),
    ],
)
def test_bad_karpathy_input_is_a_one_sentence_error(
    tmp_path: Path, store: Store, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        prepare(store, karpathy(tmp_path, change))
    assert not [key for key in store.keys("units/dataset") if key.endswith("manifest.json")]


def test_img2dataset_shards_read(tmp_path: Path, store: Store) -> None:
    shards(tmp_path)
    for name in ("second", "third"):
        shutil.copy(tmp_path / "train.tar", tmp_path / f"{name}.tar")
    dataset = prepare(store, shards(tmp_path, train=f"{tmp_path}/{{train,second}}.tar::{tmp_path}/th*.tar"))
    with pytest.raises(DataError, match=r"val\.tar is named for both train and val"):
        identity(shards(tmp_path, train=f"{tmp_path}/{{train,val}}.tar").source)
    with pytest.raises(DataError, match=r"data\.source\.val: .*val\.tar is named twice: remove one of its names, patterns or"):
        identity(shards(tmp_path, val=f"{tmp_path}/val.tar::{tmp_path}/va*.tar").source)
    assert dataset.splits["train"].images == 6
    assert dataset.captions("train") == [["one"], ["two"]] * 3


@pytest.mark.parametrize("metadata", [b'{"sha": 1}', b'{"captions": null}', b'{"captions": null, "caption": "a text"}', b"[]"])
def test_metadata_without_captions_do_not_hide_a_text(tmp_path: Path, store: Store, metadata: bytes) -> None:
    dataset = prepare(store, shards(tmp_path, {"a.jpg": jpeg(), "a.json": metadata, "a.txt": b"a text"}))
    assert dataset.captions("train") == [["a text"]]


@pytest.mark.parametrize("key", ["./{}", "v1.0/{}", "./v1.0/x/{}", "k" * 120 + "{}", "é {}"])
def test_any_key_of_a_shard_can_be_read_back(tmp_path: Path, store: Store, key: str) -> None:
    members = {key.format(n) + end: data for n in "ab" for end, data in ((".jpg", jpeg()), (".txt", n.encode()))}
    dataset = prepare(store, shards(tmp_path, members))
    assert dataset.captions("train") == [["a"], ["b"]]
    assert len({image.key for image in dataset.iterate("train")}) == 2


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a.jpg": b"no picture", "a.json": b'{"caption": "x"}'}, "train.tar: a: not a readable JPEG"),
        ({"a.jpg": jpeg()[:300], "a.json": b'{"caption": "x"}'}, "train.tar: a: not a readable JPEG"),
        ({"a.jpg": jpeg(), "a.json": b"{}"}, "a.json: captions: missing"),
        ({"a.jpg": jpeg(), "a.json": b'{"captions": ["", " "]}'}, "a.json: captions: empty"),
        ({"a.jpg": jpeg(), "a.json": b'{"captions": [3]}'}, "a.json: captions: expected a list of texts"),
        ({"a.jpg": jpeg(), "a.json": b"{"}, "a.json: not JSON"),
        ({"a.jpg": jpeg()}, "a.txt: missing"),
        ({"a.pkl": b"\x80\x04N.", "a.txt": b"x"}, "a: no image"),
        ({"../a.jpg": jpeg(), "../a.txt": b"x"}, "points outside the shard"),
        (
            {"a/b.jpg": jpeg(), "a/b.txt": b"x", "a-b.jpg": jpeg(), "a-b.txt": b"y"},
            "train.tar: a-b: another image has the key '00000-a-b' too",
        ),
        ({}, "the train split has no images"),
    ],
)
def test_bad_shards_are_one_sentence_errors(tmp_path: Path, store: Store, members: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        prepare(store, shards(tmp_path, members))
    assert not [key for key in store.keys("units/dataset") if key.endswith("manifest.json")]


def test_a_tar_cut_in_the_middle_is_named(tmp_path: Path, store: Store) -> None:
    settings = shards(tmp_path)
    whole = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"train\.tar: not a complete WebDataset tar"):
        prepare(store, settings)


def test_some_bad_images_may_be_allowed(tmp_path: Path, store: Store) -> None:
    members = {f"{n}.jpg": jpeg() if n else b"bad" for n in range(4)} | {f"{n}.txt": b"x" for n in range(4)}
    members = dict(sorted(members.items()))
    dataset = prepare(store, shards(tmp_path, members, max_bad_fraction=0.3))
    assert dataset.facts.splits["train"].bad_images == 1
    with pytest.raises(DataError, match=r"1 of 4 images of the train split cannot be read, 1 of them in .*train\.tar"):
        prepare(store, shards(tmp_path, members, max_bad_fraction=0.2))


def test_samples_without_captions_or_image_are_bad_samples_too(tmp_path: Path, store: Store) -> None:
    members = {"a.jpg": jpeg(), "b.txt": b"x", **{f"{n}.jpg": jpeg() for n in range(3)}, **{f"{n}.txt": b"x" for n in range(3)}}
    dataset = prepare(store, shards(tmp_path, dict(sorted(members.items())), max_bad_fraction=0.5))
    assert dataset.facts.splits["train"].bad_images == 2
    assert dataset.splits["train"].images == 3


def test_sources_that_are_not_there_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.*matches no shard"):
        identity(shards(tmp_path, train=f"{tmp_path}/none*.tar").source)
    with pytest.raises(DataError, match=r"data.source.train: the shard .*none\.tar cannot be read"):
        identity(shards(tmp_path, train=f"{tmp_path}/none.tar").source)
    for pattern in ("nosuch://bucket/a.tar", "nosuch://bucket/*.tar", "{0..", "pipe:echo no"):
        with pytest.raises(DataError, match="cannot be read"):
            identity(shards(tmp_path, train=pattern).source)
    with pytest.raises(DataError, match=r"data.source.images"):
        choose(SOURCES, {"name": "karpathy", "annotations": "x.json", "images": str(tmp_path / "no")}).describe(
            "train", Part(0, 1), seed=0
        )


def test_more_images_asked_for_than_there_are(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError, match=r"data.train_images \(5\) is more than the source has \(2\)"):
        prepare(store, shards(tmp_path, train_images=5))


def test_embeddings_by_image_and_nearest_captions(store: Store) -> None:
    dataset = prepare(store, SCENES)
    embeddings = numbered(dataset)
    texts, owner = embeddings.of_split("train")
    assert texts.shape == (5 * 23, 1)
    assert owner.tolist() == [image for image in range(23) for _ in range(5)]
    assert torch.equal(embeddings.rows("train", [22, 0, 7], [4, 0, 2]), texts[[22 * 5 + 4, 0, 7 * 5 + 2]])
    mean, std = embeddings.mean_and_std("train")
    torch.testing.assert_close(mean, texts.mean(0))
    torch.testing.assert_close(std, texts.std(0))


def test_the_nearest_caption_is_one_of_the_split(tmp_path: Path, store: Store) -> None:
    settings = shards(tmp_path, {"a.jpg": jpeg(), "a.txt": b"two", "b.jpg": jpeg(), "b.txt": b"train only"})
    dataset = prepare(store, settings)
    embeddings = embed(dataset, dict(zip(["one", "two", "train only"], torch.eye(3), strict=True)))
    towards_test = torch.tensor([[9.0, 0.2, 0.1]])
    assert embeddings.nearest(dataset, "test", towards_test)[0][0][0] == "one"
    assert embeddings.nearest(dataset, "train", towards_test)[0][0][0] == "two"


def test_a_caption_with_separators_is_read_back(tmp_path: Path, store: Store) -> None:
    caption = 'with\u2028separator, quote " and \n newline'
    members = {"a.jpg": jpeg(), "a.json": json.dumps({"caption": caption}).encode()}
    assert prepare(store, shards(tmp_path, members)).captions("train") == [[caption]]


def test_threads_that_need_the_same_piece_read_it_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = numbered(prepare(store, SCENES))
    reads, read = [], UnitReader.read

    def slow(self: UnitReader, name: str) -> bytes:
        reads.append(name)
        time.sleep(0.2)
        return read(self, name)

    monkeypatch.setattr(UnitReader, "read", slow)
    shard = embeddings.splits["train"].shards[0]
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda _: embeddings.of_shard(shard).vectors, range(4)))
    assert reads == [f"{shard.name}.safetensors"]
    assert all(torch.equal(piece, pieces[0]) for piece in pieces)
