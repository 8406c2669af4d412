"""An image that cannot be reached at the moment ends the unit; a missing or damaged one is a bad sample."""

import errno
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.data.files.archives import archive
from tests.data.sample_files import jpeg
from tests.data.small_sources import hf
from tests.data.tables import IMAGES, as_csv, make_images, name_of, rows
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.base import choose
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.json_files import read_json
from vldd_dist.data.files.shards import samples_of
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.data.files.versions import MANY, versions_of
from vldd_dist.data.sources.hf_loading import loading
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.errors import DataError, Outage, StoreError, UnusableHere, VlddError
from vldd_dist.models.image.identity import weights_identity
from vldd_dist.plugins import SOURCES
from vldd_dist.store import retry
from vldd_dist.store.store import Store
from vldd_dist.store.user_files import opening
from vldd_dist.testing.experiments.prepared_data import prepare


def expired() -> PermissionError:
    """As s3fs raises it."""
    error = PermissionError(errno.EACCES, "The provided token has expired")
    error.__cause__ = RuntimeError("An error occurred (ExpiredToken) when calling the GetObject operation")
    return error


OUTAGES: dict[str, tuple[Exception, str]] = {
    "a time-out": (TimeoutError("no answer"), r"TimeoutError no answer\): start again"),
    "throttling": (OSError(errno.EBUSY, "Slow down"), r"Slow down\): start again"),
    "no descriptors": (OSError(errno.EMFILE, "Too many open files"), r"Too many open files\): start again"),
    "a mount that is gone": (OSError(errno.ESTALE, "Stale file handle"), r"Stale file handle\): start again"),
    "an expired token": (expired(), r"The provided token has expired\): renew the credentials and start again"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.2)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Let requests for one file of the file system in memory fail."""
    cat_file = MemoryFileSystem.cat_file

    def cat(self: MemoryFileSystem, path: str, *args: Any, **options: Any) -> bytes:
        if path.endswith(name):
            raise error
        data: bytes = cat_file(self, path, *args, **options)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat)


def remote_table(tmp_path: Path) -> DataSettings:
    """A table whose images are in the file system in memory."""
    make_images(tmp_path)
    content = {f"/outages/{name_of(number)}": (tmp_path / name_of(number)).read_bytes() for number in range(IMAGES)}
    fsspec.filesystem("memory").pipe(content)
    source = {"name": "table", "path": str(as_csv(tmp_path / "x.csv", rows())), "image_folder": "memory://outages"}
    return DataSettings(source=source, image_size=16, max_bad_fraction=0.5, split={"val": 0.2, "test": 0.2})


@pytest.mark.parametrize(("error", "sentence"), OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_no_bad_sample(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    failing(monkeypatch, name_of(4), error)
    with pytest.raises(StoreError, match=rf"memory://outages/{name_of(4)}: cannot be reached \({sentence}"):
        prepare(store, remote_table(tmp_path))


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), PermissionError(errno.EACCES, "Denied")])
def test_a_missing_or_unreadable_image_is_a_bad_sample(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, name_of(4), error)
    dataset = prepare(store, remote_table(tmp_path))
    assert sum(sum(shard.images for shard in split.shards) for split in dataset.splits.values()) == IMAGES - 1


def test_a_lack_of_memory_is_left_to_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "a.jpg", MemoryError())
    with pytest.raises(MemoryError):
        ImageFolder("memory://outages", "data.source.images").read("a.jpg")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EMFILE, "Too many open files"), UnusableHere),
        (OSError(errno.ESTALE, "Stale file handle"), Outage),
        (OSError(errno.EIO, "Input/output error"), Outage),
        (MemoryError(), MemoryError),
    ],
    ids=["no descriptors", "a mount that is gone", "a disk's error", "no memory"],
)
def test_a_fault_of_the_machine_is_no_error_of_a_local_json_file(
    error: Exception, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": []}')

    def fails(path: str) -> None:
        raise error

    monkeypatch.setattr(opening, "open_regular", fails)
    for read in (
        lambda: read_json(str(path), f"the file {path}"),
        lambda: choose(SOURCES, {"name": "karpathy", "annotations": str(path), "images": str(tmp_path)}).known_count("train"),
    ):
        with pytest.raises(kind) as caught:
            read()
        assert type(caught.value) is kind


class NoCredentialsError(Exception):
    """As of botocore: it derives from no class of Python's own errors."""


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (
            NoCredentialsError("Unable to locate credentials"),
            DataError,
            r"cannot be read \(NoCredentialsError Unable to locate",
        ),
        (OSError(errno.EBUSY, "Slow down"), Outage, r"cannot be reached \(Slow down\): start again"),
    ],
    ids=["refused", "throttled"],
)
def test_weights_in_a_bucket_that_cannot_be_read(
    error: Exception, kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(url: str) -> None:
        raise error

    monkeypatch.setattr(opening, "file_system", fails)
    url = "s3://bucket/x.safetensors"
    with pytest.raises(kind, match=sentence):
        weights_identity(ImageTowerSettings(weights=url))
    with pytest.raises(kind, match=sentence):
        tensors.read_file(url, "")


def test_an_outage_in_a_tar_is_no_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            return super().read(size)

    with pytest.raises(StoreError, match=r"a\.tar: cannot be reached \(Connection reset by peer\): start again"):
        list(samples_of("a.tar", Broken(archive(["a.txt"] * 1000))))


def zipped(folder: Path, images: int) -> Any:
    """The source `hf` with images in one zip archive."""
    (folder / "images").mkdir()
    for number in range(images):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg((number, 0, 0)))
    shutil.make_archive(str(folder / "all"), "zip", folder / "images")
    return in_archive(folder, str(folder), images)


def in_archive(folder: Path, image_folder: str, images: int) -> Any:
    """The source `hf` with images in the archive `all.zip` of a folder."""
    content = [{"image": {"bytes": None, "path": f"zip://{n}.jpg::{image_folder}/all.zip"}, "text": "x"} for n in range(images)]
    (folder / "rows").mkdir()
    datasets.Dataset.from_list(content).to_parquet(folder / "rows" / "train.parquet")
    return hf(folder / "rows", splits={"train": "train"}, image_folder=image_folder)


def samples(source: Any) -> list[Any]:
    (part,) = source.parts("train", limit=None, part_samples=100)
    return list(source.samples("train", part, image_size=16, seed=0))


def test_an_archive_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path, 20)
    opened: list[str] = []

    def recording(url: str) -> Any:
        opened.append(url)
        return opening.open_seekable(url)

    monkeypatch.setattr("vldd_dist.data.sources.hf.open_seekable", recording)
    assert [sample.image for sample in samples(source)] == [jpeg((number, 0, 0)) for number in range(20)]
    assert opened == [f"{tmp_path}/all.zip"]


def test_bad_images_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path, 2)
    monkeypatch.setattr("vldd_dist.data.sources.hf.MAX_MEMBER_BYTES", len(jpeg((0, 0, 0))) - 1)
    with pytest.raises(DataError, match=r"0\.jpg::.*all\.zip is larger than 0 MiB: remove the row"):
        raise samples(source)[0].error
    (tmp_path / "all.zip").unlink()
    with pytest.raises(DataError, match=r"0\.jpg::.*all\.zip cannot be read \(.*No such file"):
        raise samples(type(source).model_validate(source.model_dump()))[0].error


def test_an_outage_on_the_way_to_an_archive_is_no_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = in_archive(tmp_path, "memory://outages", 1)

    def no_answer(*args: Any, **options: Any) -> Any:
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "info", no_answer)
    with pytest.raises(
        StoreError, match=r"memory://outages/all\.zip: cannot be reached \(TimeoutError no answer\): start again"
    ):
        samples(source)


class Throttled(Exception):
    """A library's error with an HTTP status."""

    status = 429


def columns_of_a_parquet() -> list[str]:
    fsspec.filesystem("memory").pipe_file("/outages/a.parquet", b"PAR1" * 100)
    return Parquet("memory://outages/a.parquet").columns


# The method of a file system that fails, and for what -> what calls it.
REQUESTS: dict[str, Callable[[], object]] = {
    "info for a size": lambda: read_json("memory://outages/a.json", "the file memory://outages/a.json"),
    "info for a version": lambda: versions_of(["memory://outages/a.tar"], "the file"),
    "ls": lambda: versions_of([f"memory://outages/{number}.tar" for number in range(MANY)], "the file"),
    "find": lambda: choose(SOURCES, {"name": "folder", "path": "memory://outages"}).own_splits(),
    "glob": lambda: expand("memory://outages/*.tar"),
    "cat_file": columns_of_a_parquet,
}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("reset"), Outage),
        (Throttled("Too Many Requests"), Outage),
        (FileNotFoundError("nothing there"), DataError),
        (PermissionError("Forbidden"), DataError),
    ],
    ids=["no connection", "throttling", "a missing file", "no permission"],
)
@pytest.mark.parametrize("asked", REQUESTS)
def test_an_outage_while_a_group_is_prepared_is_no_error_of_its_source(
    asked: str, error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is retried, and then it is not the fault of the description."""
    calls: list[str] = []
    method = asked.partition(" ")[0]

    def fails(*args: Any, **options: Any) -> None:
        calls.append(method)
        raise error

    monkeypatch.setattr(MemoryFileSystem, method, fails)
    with pytest.raises(VlddError, match=r"memory://outages") as caught:
        REQUESTS[asked]()
    assert type(caught.value) is kind
    assert (len(calls) > 1) == (kind is Outage)


def test_an_outage_of_the_hub_is_no_error_of_its_data_set() -> None:
    """Also if `datasets` wraps it in an error of its own."""
    wrapped = datasets.exceptions.DatasetNotFoundError("the data set does not exist on the hub or cannot be accessed")
    wrapped.__cause__ = Throttled("Too Many Requests")
    for error in (Throttled("Too Many Requests"), TimeoutError("no answer"), wrapped):
        with pytest.raises(Outage, match=r"data\.source: user/photos: cannot be reached"), loading("user/photos"):
            raise error
    with pytest.raises(DataError, match=r"user/photos cannot be read"), loading("user/photos"):
        raise datasets.exceptions.DatasetNotFoundError("there is none")
    with pytest.raises(UnusableHere, match=r"user/photos: cannot be reached \(No space left"), loading("user/photos"):
        raise OSError(errno.ENOSPC, "No space left on device")
