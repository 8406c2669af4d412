"""Untrusted sources: any fault of a sample makes it one bad sample, no file outside the source is read, and nothing hangs."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.damaged_inputs import FUZZ, JSON, assert_raw_or_unreadable, damaged, result_of
from tests.data.sample_files import jpeg
from tests.data.small_sources import identity, karpathy, shards, training_samples
from vldd_dist.config.base import choose
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.control_characters import one_line
from vldd_dist.data.files import versions
from vldd_dist.data.images import decode
from vldd_dist.data.sources.sample import RawSample
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.servers.s3_server import S3Server

DEEP = b"[" * 100_000
SURROGATE = b'{"caption": "a \\ud800 b"}'


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    def late(*arguments: object) -> None:
        pytest.fail("this waits for something that never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(HANG_SECONDS))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def good_pairs(count: int = 4) -> dict[str, bytes]:
    return {f"x{n}{end}": data for n in range(count) for end, data in ((".jpg", jpeg()), (".txt", b"good"))}


BAD_SAMPLES = {
    "deep JSON": {"a.jpg": jpeg(), "a.json": DEEP},
    "JSON cut": {"a.jpg": jpeg(), "a.json": b'{"captions": ["x"'},
    "JSON of 5,000 digits": {"a.jpg": jpeg(), "a.json": b"1" * 5000},
    "JSON that is no UTF-8": {"a.jpg": jpeg(), "a.json": b'{"caption": "\xff"}'},
    "half a surrogate pair": {"a.jpg": jpeg(), "a.json": SURROGATE},
    "captions that are no texts": {"a.jpg": jpeg(), "a.json": b'{"captions": [["x"]]}'},
    "captions in a dictionary": {"a.jpg": jpeg(), "a.json": b'{"captions": {"0": "x"}}'},
    "captions that are no UTF-8": {"a.jpg": jpeg(), "a.txt": b"caf\xe9"},
    "no captions": {"a.jpg": jpeg()},
    "no image": {"a.txt": b"x"},
    "image cut": {"a.jpg": jpeg()[:200], "a.txt": b"x"},
    "a key that is no UTF-8": {"a\udcff.jpg": jpeg(), "a\udcff.txt": b"x"},
    "the image twice": {"a.jpg": jpeg(), "a.JPG": jpeg(), "a.txt": b"x"},
}


@pytest.mark.parametrize("members", BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_a_bad_sample_of_a_tar_is_one_bad_sample(tmp_path: Path, store: Store, members: dict[str, bytes]) -> None:
    members = {**members, **{name: data for name, data in good_pairs().items() if name not in members}}
    before = store.keys("units")
    with pytest.raises(DataError, match=r"train\.tar: ") as raised:
        prepare(store, shards(tmp_path, members))
    assert one_line(str(raised.value)) == str(raised.value)
    assert store.keys("units") == before
    dataset = prepare(store, shards(tmp_path, members, max_bad_fraction=0.4))
    assert 1 <= dataset.facts.splits["train"].bad_images <= 2
    assert set(map(tuple, dataset.captions("train"))) <= {("good",), ("x",)}
    assert dataset.splits["train"].images >= 3


def test_a_key_that_comes_again_is_a_bad_sample(tmp_path: Path, store: Store) -> None:
    members = {"a/b.jpg": jpeg(), "a/b.txt": b"x", "a-b.jpg": jpeg(), "a-b.txt": b"y", **good_pairs()}
    dataset = prepare(store, shards(tmp_path, members, max_bad_fraction=0.4))
    assert dataset.facts.splits["train"].bad_images == 1
    assert dataset.captions("train")[0] == ["x"]


def entry(**changes: Any) -> dict[str, Any]:
    return {"filename": "0.jpg", "split": "train", "sentences": [{"raw": "x"}]} | changes


BAD_ENTRIES = {
    "a number for a name": (entry(filename=3), r"filename: expected a text, not int"),
    "a list for a name": (entry(filename=["0.jpg"]), r"filename: expected a text, not list"),
    "no name": (entry(filename=None), r"filename: expected a text, not NoneType"),
    "an empty name": (entry(filename=""), "not a regular file"),
    "a NUL": (entry(filename="0.jpg\0"), r"not a valid file name"),
    "half a surrogate pair in the name": (entry(filename="\ud800.jpg"), r"\\ud800\.jpg cannot be read"),
    "a name too long": (entry(filename="x" * 5000), "cannot be read"),
    "an escape sequence": (entry(filename="\x1b]0;owned\x07.jpg"), r"\\x1b\]0;owned\\x07\.jpg cannot be read"),
    "null for a folder": (entry(filepath=None), r"filepath: expected a text, not NoneType"),
    "a parent": (entry(filename="../secret.jpg"), r"leads out of data\.source\.images"),
    "a parent in the middle": (entry(filename="a/../../secret.jpg"), r"leads out of data\.source\.images"),
    "a parent by its folder": (entry(filepath="..", filename="secret.jpg"), r"leads out of data\.source\.images"),
    "an absolute path": (entry(filename="SECRET"), r"leads out of data\.source\.images"),
    "an absolute folder": (entry(filepath="/", filename="SECRET"), r"leads out of data\.source\.images"),
    "a folder for an image": (entry(filename="."), "not a regular file"),
    "a FIFO": (entry(filename="fifo"), "not a regular file"),
    "a device": (entry(filename="device"), "not a regular file"),
    "captions that are no texts": (entry(sentences=[{"raw": 3}]), "expected a list of texts"),
    "captions that are none": (entry(sentences=[{"raw": None}]), "expected a list of texts"),
    "a caption that is no sentence": (entry(sentences=["x"]), r"sentences\[0\]\.raw: missing"),
    "half a surrogate pair": (entry(sentences=[{"raw": "\ud800"}]), "half of a surrogate pair"),
    "sentences that are no list": (entry(sentences={"raw": "x"}), "expected a list"),
    "a number for a split": (entry(split=1), "split: expected a text, not int"),
    "no split": ({"filename": "0.jpg"}, "split: missing"),
    "an unknown split": (entry(split="x"), r"split: there is no split 'x': write one of train"),
    "no entry": (None, "split: missing"),
    "a text for an entry": ("train", "split: missing"),
}


@pytest.mark.parametrize(("bad", "sentence"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_entry_of_a_karpathy_file_is_one_bad_sample(tmp_path: Path, store: Store, bad: Any, sentence: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    if isinstance(bad, dict):
        bad = {key: str(tmp_path / "secret.jpg") if value == "SECRET" else value for key, value in bad.items()}
    description = karpathy(tmp_path, lambda tree: tree["images"].insert(1, bad))
    os.mkfifo(tmp_path / "images" / "fifo")
    (tmp_path / "images" / "device").symlink_to("/dev/null")
    with pytest.raises(DataError, match=rf"data\.json: images\[1\].*{sentence}") as raised:
        prepare(store, description)
    assert one_line(str(raised.value)) == str(raised.value)
    dataset = prepare(store, description.model_copy(update={"max_bad_fraction": 0.4}))
    assert dataset.facts.splits["train"].bad_images == 1
    assert dataset.captions("train") == [[f"image {n} caption {i}" for i in range(2)] for n in (0, 1)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (DEEP, "not JSON, or nested too deeply"),
        (b'{"images": ' + DEEP, "not JSON, or nested too deeply"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"", "not JSON"),
        (b'{"images": {}}', "images: missing"),
        (b"[]", "images: missing"),
        (None, "cannot be read"),
    ],
)
def test_an_invalid_karpathy_file_is_a_one_sentence_error(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    description = karpathy(tmp_path)
    if content is None:
        (tmp_path / "data.json").unlink()
        os.mkfifo(tmp_path / "data.json")
    else:
        (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        training_samples(description)
    if content is None:
        with pytest.raises(DataError, match=sentence):
            identity(description.source)


def test_shards_are_told_apart_by_more_than_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = shards(tmp_path)
    first, path = identity(description.source), tmp_path / "train.tar"
    assert identity(description.source) == first
    data, status = path.read_bytes(), path.stat()
    path.write_bytes(changed := data.replace(b"one", b"two"))
    os.utime(path, (status.st_atime, status.st_mtime + 1))
    assert len(changed) == len(data)
    assert changed != data
    second = identity(description.source)
    assert second != first
    # A file system that reports neither checksums nor times.
    monkeypatch.setattr(versions, "VERSIONS", ())
    hashed = identity(description.source)
    os.utime(path, (status.st_atime, status.st_mtime))
    assert identity(description.source) == hashed
    path.write_bytes(data)
    assert identity(description.source) != hashed


@pytest.mark.parametrize("pattern", ["train.tar", "train*.tar"])
def test_shards_on_s3_are_told_apart_by_their_etag(s3: S3Server, tmp_path: Path, pattern: str) -> None:
    store = Store("s3://sources/x")
    if not store.fs.exists("sources"):
        store.fs.mkdir("sources")
    local = shards(tmp_path)
    data = (tmp_path / "train.tar").read_bytes()
    store.write("train.tar", data)
    source = local.source.model_copy(update={"train": store.url_of(pattern)})
    description = local.model_copy(update={"source": source})
    first = identity(description.source)
    store.write("train.tar", data)
    assert identity(description.source) == first, "rewritten with the same content"
    store.write("train.tar", data.replace(b"one", b"two"))
    assert identity(description.source) != first


def test_a_folder_of_many_shards_is_asked_once(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("s3://sources/many")
    if not store.fs.exists("sources"):
        store.fs.mkdir("sources")
    for number in range(versions.MANY):
        store.write(f"{number:03d}.tar", b"x" * number)
    urls = [store.url_of(f"{number:03d}.tar") for number in range(versions.MANY)]
    one_by_one = [[url.rpartition("/")[2], *versions.version_of(url)] for url in urls]
    asked = []
    monkeypatch.setattr(versions, "_version", lambda url, filesystem, path: asked.append(url) or (1, "x"))
    source = choose(SOURCES, {"name": "shards", "train": store.url_of(f"{{000..{versions.MANY - 1:03d}}}.tar")})
    described = [source.describe("train", part, seed=0)["shards"] for part in source.parts("train", limit=None, part_samples=1)]
    assert [[*shard] for (shard,) in described] == one_by_one
    assert asked == []
    more = choose(SOURCES, {"name": "shards", "train": store.url_of(f"{{000..{versions.MANY:03d}}}.tar")})
    more.describe("train", more.parts("train", limit=None, part_samples=1)[0], seed=0)
    assert asked == [store.url_of(f"{versions.MANY:03d}.tar")], "only the missing one is requested"


def test_a_fifo_for_a_shard_is_refused(tmp_path: Path, store: Store) -> None:
    description = shards(tmp_path)
    (tmp_path / "train.tar").unlink()
    os.mkfifo(tmp_path / "train.tar")
    with pytest.raises(DataError, match=r"train\.tar cannot be read .*not a regular file"):
        prepare(store, description)


def image_files() -> st.SearchStrategy[bytes]:
    encoded = []
    image = decode(jpeg((1, 2, 3), (7, 5)), "x")
    for kind, mode in [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("WEBP", "RGBA")]:
        buffer = io.BytesIO()
        (image.convert("L") if mode == "I;16" else image).convert(mode).save(buffer, kind)
        encoded.append(buffer.getvalue())
    return st.sampled_from(encoded).flatmap(damaged) | st.binary(max_size=40)


CAPTIONS = st.one_of(
    st.fixed_dictionaries({}, optional={"captions": JSON, "caption": JSON}).map(lambda tree: json.dumps(tree).encode()),
    JSON.map(lambda tree: json.dumps(tree).encode()),
    st.binary(max_size=30),
    damaged(b'{"captions": ["one", "two"]}'),
)
NAMES = st.text(st.characters(exclude_characters="\0/.", exclude_categories=()), min_size=1, max_size=10)


def archive_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogatepass") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@FUZZ
@given(st.data())
def test_any_tar_gives_samples_or_a_one_sentence_error(tmp_path: Path, data: st.DataObject) -> None:
    members: list[tuple[str, bytes]] = []
    for key in data.draw(st.lists(NAMES, max_size=3)):
        extension = data.draw(st.sampled_from(["jpg", "PNG", "webp", "__key__", "x.jpg"]))
        members += [(f"{key}.{extension}", data.draw(image_files())), (f"{key}.json", data.draw(CAPTIONS))]
    raw = archive_of(members)
    (tmp_path / "a.tar").write_bytes(data.draw(damaged(raw)) if data.draw(st.integers(0, 3)) == 0 else raw)
    description = DataSettings(source={"name": "shards", "train": str(tmp_path / "a.tar")})
    assert_raw_or_unreadable(result_of(lambda: training_samples(description)) or [])


ENTRIES = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {},
        optional={
            "filename": JSON | st.sampled_from(["0.jpg", "../secret.jpg", "fifo", "a/0.jpg", "", ".", "\0"]),
            "filepath": JSON | st.sampled_from(["", "a", "..", "/", "a/..", "fifo"]),
            "split": JSON | st.sampled_from(["train", "val", "restval"]),
            "sentences": JSON | st.lists(st.fixed_dictionaries({"raw": JSON | st.just("a caption")}), max_size=2),
        },
    ),
)


@FUZZ
@given(tree=st.lists(ENTRIES, max_size=4).map(lambda entries: {"images": entries}) | JSON)
def test_any_karpathy_file_gives_samples_or_a_one_sentence_error(tmp_path: Path, tree: Any) -> None:
    images = tmp_path / "images"
    if not images.exists():
        (images / "a").mkdir(parents=True)
        os.mkfifo(images / "fifo")
        for path in (images / "0.jpg", images / "a" / "0.jpg"):
            path.write_bytes(jpeg())
        (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "data.json").write_text(json.dumps(tree))
    description = DataSettings(source={"name": "karpathy", "annotations": str(tmp_path / "data.json"), "images": str(images)})
    found = result_of(lambda: training_samples(description)) or []
    assert_raw_or_unreadable(found)
    assert all(sample.image == jpeg() for sample in found if isinstance(sample, RawSample))
