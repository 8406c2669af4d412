"""Faults of an S3 server, injected by a proxy: throttling, failures, cut connections, lost answers, expired tokens."""

import errno
import random
import time
from collections import Counter
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from huggingface_hub.errors import OfflineModeIsEnabled
from s3fs.errors import translate_boto_error

from tests.store.new_bucket import new_bucket
from vldd_dist import load_distilled
from vldd_dist.distilled_set.reading import published_sets, verify
from vldd_dist.errors import Outage, StoreError, UnusableHere
from vldd_dist.pipeline.execute import execute
from vldd_dist.store import faults, objects, retry
from vldd_dist.store.backends.file_systems import open_file_system
from vldd_dist.store.objects import ObjectInfo, read_object
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_units import copy_all_but, digests, first_of
from vldd_dist.testing.servers import faulty_proxy
from vldd_dist.testing.servers.faulty_proxy import FaultyProxy
from vldd_dist.testing.servers.s3_server import ACCESS_KEY, SECRET, S3Server

PASSING = ["SlowDown", "ServiceUnavailable", "InternalError", "ConditionalRequestConflict", "BadDigest", "cut", "cut upload"]
OF_UPLOADS = ["BadDigest", "cut upload"]
# Of an object in three parts: head, begin, three parts, complete, head.
UPLOAD_REQUESTS = 7
AFTERWARDS = ["cut body", "answer lost", "delay"]


@pytest.fixture
def s3_store(proxy: FaultyProxy) -> Store:
    return new_bucket()


def in_three_parts(monkeypatch: pytest.MonkeyPatch, part_bytes: int = 64 << 10) -> bytes:
    """Data that are uploaded in three parts from now on. The server accepts parts smaller than S3's."""
    monkeypatch.setattr("vldd_dist.store.backends.s3.PART_BYTES", part_bytes)
    monkeypatch.setattr("vldd_dist.store.backends.s3.SMALL_BYTES", part_bytes)
    return random.Random(0).randbytes(2 * part_bytes + part_bytes // 5)


@pytest.mark.parametrize("fault", PASSING)
def test_transient_faults_are_retried(s3_store: Store, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault] * 3
    s3_store.write("x", b"1")
    assert not proxy.faults
    if fault not in OF_UPLOADS:
        proxy.faults = [fault] * 3
        assert s3_store.read("x") == b"1"
        assert not proxy.faults


def test_a_create_whose_answer_is_lost_succeeds_exactly_once(s3_store: Store, proxy: FaultyProxy) -> None:
    # The first request asks whether the object exists.
    proxy.faults = ["", "answer lost"]
    assert s3_store.create("mark", b"ours")
    assert not proxy.faults
    assert not s3_store.create("mark", b"theirs")
    proxy.faults = ["answer lost"]
    assert not s3_store.create("mark", b"theirs")
    assert s3_store.read("mark") == b"ours"


def test_an_archived_object_is_no_fault_of_the_machine(s3_store: Store, proxy: FaultyProxy) -> None:
    s3_store.write("x", b"1")
    proxy.faults = ["InvalidObjectState"]
    with pytest.raises(StoreError, match=r"x: is archived, probably by a lifecycle rule of the bucket: restore it") as raised:
        s3_store.read("x")
    assert not raised.value.may_be_of_the_machine


def test_an_object_is_read_by_one_request(s3_store: Store, proxy: FaultyProxy) -> None:
    s3_store.write("x", bytes(10_000))
    proxy.faults = [""] * 5
    assert s3_store.read("x", 10_000) == bytes(10_000)
    assert len(proxy.faults) == 4


def test_a_replaced_file_on_nfs_is_read_again() -> None:
    assert faults.is_transient(OSError(errno.ESTALE, "Stale file handle"))


def test_google_cloud_storage_is_not_waited_for_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr("fsspec.filesystem", lambda scheme, **given: options.update(given))
    open_file_system("gs", attempts=1)
    limits = options["requests_timeout"]
    assert (limits.total, limits.sock_connect, limits.sock_read) == (None, retry.CONNECT_SECONDS, retry.READ_SECONDS)


def test_faults_without_end_are_given_up_within_the_bound(
    s3_store: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.5)
    proxy.faults = ["InternalError"] * 10_000
    with pytest.raises(StoreError, match=r"x: given up after \d+ s of retries \(OSError"):
        s3_store.read("x")


@pytest.mark.parametrize("answers", [True, False], ids=["faults at once", "no answer"])
@pytest.mark.parametrize(("mib", "limit", "deadline"), [(0, 20, 60), (10, 60, 100)])
def test_an_operation_may_take_a_minute_and_four_seconds_for_each_mib(
    mib: int, limit: float, deadline: float, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock advances only by sleeping and by waiting for an answer."""
    now = began = time.monotonic()
    limits: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def ask(seconds: float) -> None:
        limits.append(seconds)
        sleep(0 if answers else seconds)
        raise TimeoutError

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        retry.retried(ask, mib << 20)
    assert limits[0] == pytest.approx(limit)
    assert deadline - retry.LONGEST_WAIT_SECONDS <= now - began <= deadline + 1e-3


def test_a_machine_that_is_told_to_be_offline_is_not_asked_again() -> None:
    asked = []

    def ask(seconds: float) -> None:
        asked.append(seconds)
        raise OfflineModeIsEnabled("offline mode is enabled")

    with pytest.raises(OfflineModeIsEnabled):
        retry.retried(ask)
    assert len(asked) == 1


def test_a_refused_request_is_a_one_sentence_error_without_retries(s3_store: Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["AccessDenied", "SlowDown"]
    with pytest.raises(StoreError, match="permission denied at x: give this user or role") as caught:
        s3_store.write("x", b"1")
    assert proxy.faults == ["SlowDown"], "a refusal is not tried again"
    assert SECRET not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value)


def test_a_wrong_clock_is_named(s3_store: Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["RequestTimeTooSkewed"]
    with pytest.raises(UnusableHere, match=r"^s3://.*: the server refuses requests because this machine's clock is wrong"):
        s3_store.write("x", b"1")


@pytest.mark.parametrize(
    ("error", "kind", "may_be_of_the_machine"),
    [
        (PermissionError("Forbidden"), UnusableHere, True),
        (NoCredentialsError(), UnusableHere, True),
        (TimeoutError(), Outage, True),
        (OSError(errno.ENOSPC, "No space left on device"), UnusableHere, True),
        (NotADirectoryError(), StoreError, False),
    ],
)
def test_errors_of_which_the_machine_may_be_the_cause(
    error: Exception, kind: type[StoreError], may_be_of_the_machine: bool
) -> None:
    raised = faults.store_error(error, "s3://bucket", "x", 1)
    assert (type(raised), raised.may_be_of_the_machine) == (kind, may_be_of_the_machine)


def test_an_expired_token_is_renewed_once(s3_store: Store, proxy: FaultyProxy) -> None:
    before = s3_store.fs
    proxy.faults = ["ExpiredToken"]
    s3_store.write("x", b"1")
    assert s3_store.fs is not before
    proxy.faults = ["ExpiredToken"]
    assert s3_store.read("x") == b"1", "a HEAD request, whose error response has no body with a reason"
    proxy.faults = ["ExpiredToken"] * 2
    with pytest.raises(StoreError, match="the credentials have expired or are refused"):
        s3_store.write("x", b"1")


@pytest.mark.parametrize("code", ["ExpiredTokenException", "InvalidIdentityToken"])
def test_a_token_that_the_token_service_refuses_is_looked_up_again_at_once(
    code: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As raised within a request to S3 when its credentials come from a token in a file, on Kubernetes for example."""
    refusal = ClientError({"Error": {"Code": code, "Message": "no"}}, "AssumeRoleWithWebIdentity")
    attempts = []

    def refuse(*arguments: object) -> None:
        attempts.append("write")
        raise translate_boto_error(refusal)

    monkeypatch.setattr(store.backend, "write", refuse)
    renewed: list[str] = []
    monkeypatch.setattr(store.backend, "renew", lambda: renewed.append("token"))
    with pytest.raises(UnusableHere, match="the credentials have expired or are refused: renew them"):
        store.write("x", b"1")
    assert (attempts, renewed) == (["write"] * 2, ["token"])


def test_an_expired_token_is_renewed_in_a_write_in_parts(
    s3_store: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, data = s3_store.backend.fs_for_parts, in_three_parts(monkeypatch)
    # After the HEAD request, when the upload starts.
    proxy.faults = ["", "ExpiredToken"]
    s3_store.write("large", data)
    assert s3_store.backend.fs_for_parts is not before
    assert not proxy.faults
    assert s3_store.read("large") == data


@pytest.mark.parametrize("fault", [*PASSING, *AFTERWARDS])
def test_a_multipart_upload_retries_a_fault_in_any_request(
    s3_store: Store, proxy: FaultyProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the requests of an upload meets the fault in turn."""
    # Large parts are still being sent when the connection ends in the middle of one.
    data = in_three_parts(monkeypatch, 5 << 20) if fault == "cut upload" else in_three_parts(monkeypatch)
    for place in range(UPLOAD_REQUESTS):
        proxy.faults = [""] * place + [fault]
        s3_store.write("large", data)
        assert not proxy.faults
    assert s3_store.read("large") == data


@pytest.mark.parametrize("fault", ["", "SlowDown"])
def test_a_fault_in_a_part_repeats_the_part_and_not_the_upload(
    s3_store: Store, proxy: FaultyProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.faults = ["", "", "", fault, *[""] * 20]
    s3_store.write("large", in_three_parts(monkeypatch))
    assert 24 - len(proxy.faults) == UPLOAD_REQUESTS + bool(fault)


def test_a_listing_that_takes_longer_than_the_deadline_survives_a_fault_of_a_page(
    s3_store: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"listed/{number}" for number in range(9)]
    for key in keys:
        s3_store.write(key, b"1")
    # Nine pages: together they take more than the deadline, each much less, also on a busy machine.
    store = Store(s3_store.url)
    store.fs.s3_additional_kwargs = {"MaxKeys": 1}
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 7.0)
    monkeypatch.setattr(faulty_proxy, "DELAY_SECONDS", 1.0)
    proxy.faults = ["delay"] * 8 + ["SlowDown"]
    assert store.keys("listed") == keys
    assert not proxy.faults


@pytest.mark.parametrize("fault", ["cut body", "SlowDown", "cut"])
def test_a_fault_costs_one_block_of_an_object_in_blocks(
    s3_store: Store, proxy: FaultyProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1 << 20)
    data = random.Random(0).randbytes(5 << 20)
    s3_store.write("blocks", data)
    asked = []
    read_range = Store.read_range
    monkeypatch.setattr(Store, "read_range", lambda self, *where: asked.append(where) or read_range(self, *where))
    proxy.faults = ["", fault, "", fault]
    assert read_object(s3_store, ObjectInfo.of("blocks", data)) == data
    assert len(asked) == 5, "the fault is retried within the block"


@pytest.mark.parametrize("kind", ["dataset", "expert", "distillation", "publication"])
def test_units_come_out_the_same_over_a_server_that_keeps_failing(
    kind: str, finished: Store, s3: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: two of five requests fail in one of nine ways."""
    unit, bucket = first_of(kind), f"schedule-{kind}"
    direct = Store(f"s3://{bucket}/x")
    # A client keeps the endpoint that it finds when it connects.
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    direct.fs.connect()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    direct.fs.mkdir(bucket)
    copy_all_but(finished, direct, unit)
    dice = random.Random(kind)
    ways = [fault for fault in PASSING + AFTERWARDS if fault != "ConditionalRequestConflict"]
    schedule = [dice.choice(ways) if dice.random() < 0.4 else "" for _ in range(2000)]
    proxy.faults = list(schedule)
    execute(unit.order(), Store(f"s3://{bucket}/x"), lambda event: None)
    met = Counter(schedule[: len(schedule) - len(proxy.faults)])
    proxy.faults = []
    assert met.total() - met[""] >= 5, "the schedule was met"
    assert digests(direct, unit) == digests(finished, unit)
    for folder in published_sets(direct):
        verify(direct.url_of(folder))
        load_distilled(direct.url_of(folder))
