"""The store on local files, in memory and on an S3 server: atomic writes, conditional puts, clear refusals."""

import errno
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.store.new_bucket import new_bucket
from vldd_dist.errors import StoreError, UnusableHere
from vldd_dist.store import faults, retry
from vldd_dist.store.backends.local_files import replace_file
from vldd_dist.store.backends.s3 import PART_BYTES
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.s3_server import SECRET, S3Server


@pytest.fixture(params=["file", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return Store(str(tmp_path / "store"))
    if request.param == "memory":
        return Store(f"memory://{tmp_path.name}")
    request.getfixturevalue("s3")
    return new_bucket()


def test_write_read_list_delete(any_store: Store) -> None:
    any_store.write("a/b/one", b"1")
    any_store.write("a/two", b"22")
    any_store.write("a/two", b"222")
    assert any_store.read("a/two") == b"222"
    assert any_store.read_range("a/two", 1, 2) == b"22"
    assert any_store.size("a/two") == 3
    assert any_store.keys("a") == ["a/b/one", "a/two"]
    assert any_store.keys("none") == []
    any_store.delete(["a/two", "a/never"])
    assert not any_store.exists("a/two")
    with pytest.raises(StoreError, match="a/two: no such object"):
        any_store.read("a/two")


def test_create_has_one_winner(any_store: Store) -> None:
    barrier = threading.Barrier(6)

    def attempt(number: int) -> bool:
        barrier.wait()
        return any_store.create("marks/mark", str(number).encode())

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(attempt, range(6)))
    assert won.count(True) == 1
    assert any_store.read("marks/mark") == str(won.index(True)).encode()
    assert any_store.keys("marks") == ["marks/mark"]


def test_a_pickled_store_works_and_carries_no_file_system(any_store: Store) -> None:
    any_store.write("x", b"1")
    copied = pickle.loads(pickle.dumps(any_store))
    assert SECRET.encode() not in pickle.dumps(any_store)
    assert "fs" not in copied.backend.__dict__
    assert copied.read("x") == b"1"


def test_a_lost_answer_of_a_create_is_still_a_win(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = store.backend.create

    def answer_lost(*arguments: Any) -> None:
        monkeypatch.setattr(store.backend, "create", original)
        original(*arguments)
        raise ConnectionResetError("the put arrived, its answer did not")

    monkeypatch.setattr(store.backend, "create", answer_lost)
    assert store.create("mark", b"ours")


def test_transient_faults_are_retried_and_refused_requests_are_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ConnectionResetError(), TimeoutError()]

    def flaky(path: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        replace_file(path, data)

    monkeypatch.setattr("vldd_dist.store.backends.kinds.replace_file", flaky)
    store.write("x", b"1")
    assert store.read("x") == b"1"
    assert not faults.is_transient(PermissionError())
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.2)
    failures[:] = [ConnectionResetError() for _ in range(10_000)]
    with pytest.raises(StoreError, match="ConnectionResetError"):
        store.write("y", b"1")


def test_an_error_on_the_way_to_a_file_does_not_say_that_there_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed unit would be computed again."""
    store.write("x", b"1")
    stat, failures = os.stat, [OSError(errno.ESTALE, "Stale file handle")] * 2

    def failing(path: Any, **options: Any) -> os.stat_result:
        if failures and str(path).endswith("/x"):
            raise failures.pop()
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    assert store.exists("x")
    assert not failures
    failures[:] = [PermissionError(errno.EACCES, "Permission denied")]
    with pytest.raises(UnusableHere, match="permission denied at x"):
        store.exists("x")
    assert not store.exists("y")


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/./b", "a/..", "", "a\\b"])
def test_keys_that_lead_out_of_the_store_are_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="is not a key"):
        store.write(key, b"")


def test_a_write_that_fails_leaves_the_old_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("x", b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StoreError, match="No space left"):
        store.write("x", b"new")
    assert store.read("x") == b"old"
    assert [path.name for path in Path(store.root).iterdir()] == ["x"]


def test_an_unwritable_place_is_a_one_sentence_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for below in ("file", "file/store"):
        with pytest.raises(StoreError, match="there is a file where a folder should be"):
            Store(str(tmp_path / below)).check_writable()
        with pytest.raises(StoreError, match="there is a file where a folder should be"):
            Store(str(tmp_path / below)).create("mark", b"no one else made it, so this is no lost race")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can make one")
def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StoreError, match=r"^file:///proc/x: this folder cannot be made: name another place$"):
        Store("/proc/x").check_writable()


@pytest.mark.parametrize(
    "operation", [Store.check_writable, lambda store: store.read("x"), lambda store: store.create("x", b"")]
)
def test_a_missing_bucket_is_a_one_sentence_error(operation: Callable[[Store], object], s3: S3Server) -> None:
    with pytest.raises(StoreError, match="the bucket does not exist") as caught:
        operation(Store("s3://nowhere/x"))
    assert SECRET not in str(caught.value)


def test_missing_credentials_are_a_one_sentence_error(
    monkeypatch: pytest.MonkeyPatch, server: S3Server, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    with pytest.raises(StoreError, match=r"^s3://bucket: no usable credentials"):
        Store("s3://bucket").write("x", b"1")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("~/store", "~ is not expanded here: write the whole path (a shell expands ~ at the start of a word, without quotes; "),
        ("s3:/bucket/x", "write s3://bucket/x, or"),
        ("s3:bucket/x", "write s3://bucket/x, or ./s3:bucket/x for a folder of this name"),
        ("gs:/b/x", "write gs://b/x, or"),
        ("file:/tmp/x", "write file:///tmp/x, or"),
    ],
)
def test_a_mistyped_url_is_not_a_folder_of_this_name(url: str, sentence: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store(url)
    assert sentence in str(caught.value)
    assert Store(f"./{url}").is_local


def test_credentials_in_the_url_are_refused() -> None:
    with pytest.raises(StoreError, match="carries credentials") as caught:
        Store(f"s3://key:{SECRET}@bucket/x")
    assert SECRET not in str(caught.value)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StoreError, match="unknown scheme 'gopher'"):
        Store("gopher://x")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_url_of_a_bucket_with_three_slashes_is_refused(scheme: str) -> None:
    with pytest.raises(StoreError, match=rf"names no bucket: write {scheme}://b/x, with two slashes"):
        Store(f"{scheme}:///b/x")


def test_support_of_conditional_puts_is_detected(any_store: Store) -> None:
    assert any_store.creates_conditionally()
    assert not [path for path in any_store.fs.find(any_store.root) if ".probe" in path]


def test_without_conditional_puts_a_create_checks_for_the_object_first(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_bucket()
    original = store.fs.pipe_file

    def refusing(path: str, data: bytes, mode: str = "overwrite", **options: object) -> object:
        if mode == "create":
            raise NotImplementedError("A header you provided implies functionality that is not implemented")
        return original(path, data, **options)

    monkeypatch.setattr(store.fs, "pipe_file", refusing)
    assert not store.creates_conditionally()
    assert store.create("mark", b"ours")
    assert not store.create("mark", b"theirs")
    assert store.read("mark") == b"ours"


def test_a_server_or_client_that_ignores_the_condition_does_not_replace_an_object(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As s3fs before 2024.12 did, which dropped the argument."""
    store = new_bucket()
    original = store.fs.pipe_file
    monkeypatch.setattr(store.fs, "pipe_file", lambda path, data, mode="", **options: original(path, data, **options))
    assert not store.creates_conditionally()
    assert store.create("mark", b"ours")
    assert not store.create("mark", b"theirs")
    assert store.read("mark") == b"ours"


def test_a_link_whose_answer_was_lost_is_found_to_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS the request is repeated, and the second one finds the link that the first one made."""
    store, link = Store(str(tmp_path)), os.link

    def linked_twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", linked_twice)
    assert store.create("mark", b"ours")
    assert not store.create("mark", b"theirs")
    assert store.read("mark") == b"ours"


@pytest.mark.parametrize("size", [1, 40 << 20])
def test_a_write_is_compared_with_the_stored_object(s3: S3Server, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The object of 40 MiB is uploaded in parts."""
    assert PART_BYTES >= 5 << 20, "S3's smallest part; the server of the tests accepts smaller ones"
    store, data = new_bucket(), b"x" * size
    original, sent, read = store.fs.pipe_file, [], []

    def damaging(path: str, data: bytes, **options: object) -> object:
        sent.append(path)
        return original(path, data if len(sent) > 1 else b"y" + data[1:], **options)

    for fs in (store.fs, store.backend.fs_for_parts):
        monkeypatch.setattr(fs, "pipe_file", damaging)
    cat = store.fs.cat_file
    monkeypatch.setattr(store.fs, "cat_file", lambda path, **options: read.append(path) or cat(path, **options))
    store.write("x", data)
    assert (len(sent), len(read)) == (2, 1), "the first attempt is detected as wrong, the second is what was sent"
    assert store.read("x") == data
    info = store.fs.info
    monkeypatch.setattr(store.fs, "info", lambda path, **options: info(path, **options) | {"ETag": '"of-an-encrypting-store"'})
    store.write("x", data)
    assert not store.reports_checksums()
    assert len(sent) == 4, "without a checksum to compare, the bytes are read back"


def test_a_create_is_compared_with_the_stored_object(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that was damaged on its way would be there for ever, and nobody could read it."""
    store, data, sent = new_bucket(), b"the manifest", []
    original = store.fs.pipe_file

    def damaging(path: str, data: bytes, **options: object) -> object:
        sent.append(path)
        return original(path, data if len(sent) > 2 else b"y" + data[1:], **options)

    monkeypatch.setattr(store.fs, "pipe_file", damaging)
    assert store.create("mark", data)
    assert store.read("mark") == data
    assert len(sent) == 3, "the create and the first write are detected as wrong"
    assert not store.create("mark", b"theirs")

    def removed(path: str, data: bytes, **options: object) -> None:
        original(path, data, **options)
        store.fs.rm_file(path)

    monkeypatch.setattr(store.fs, "pipe_file", removed)
    assert store.create("gone", data)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "abfss://container@account.dfs.core.windows.net/x",
            r"abfss://CONTAINER@ACCOUNT: write abfss://CONTAINER/PATH, set AZURE_STORAGE_ACCOUNT_NAME",
        ),
        ("file://localhost/tmp/x", r"file://localhost/tmp/x: the path of a file:// URL begins with '/': write file:///PATH"),
        ("local://x", r"local://x: the path of a local:// URL begins with '/': write local:///PATH"),
    ],
)
def test_urls_of_other_forms_are_refused_with_the_right_one(url: str, sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence):
        Store(url)


def test_both_names_of_local_files_and_paths_are_the_same_store(tmp_path: Path) -> None:
    store = Store(f"local://{tmp_path}/store")
    store.write("a/b", b"1")
    assert store.create("a/c", b"2")
    assert store.keys("a") == ["a/b", "a/c"]
    assert store.url == Store(tmp_path / "store").url == Store(f"file://{tmp_path}/store").url
    assert Store(tmp_path / "store").read("a/b") == b"1"


def test_uploads_that_nobody_ends_are_found_and_aborted(s3: S3Server) -> None:
    """Moto reports that every upload was begun in 2010, but it reports the right times of parts."""
    store = new_bucket()
    bucket = store.root.partition("/")[0]
    for key in ("experiment/units/a/dead", "experiment/units-old/of-a-neighbour", "another/experiment"):
        begun = store.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        store.fs.call_s3("upload_part", Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")
    now = store.now()
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)
    assert store.abort_uploads("units", now - timedelta(hours=1)) == []
    for abort in (False, True):
        assert store.abort_uploads("units", now + timedelta(hours=1), abort=abort) == ["units/a/dead"]
    assert store.abort_uploads("units", now + timedelta(hours=1)) == []
    left = [upload["Key"] for upload in store.fs.list_multipart_uploads(bucket)]
    assert sorted(left) == ["another/experiment", "experiment/units-old/of-a-neighbour"]
