"""Guarantees of the store, tested with real units in a folder and on a real S3 server: processes are killed after every
operation, and bits are flipped in every object."""

import os
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vldd_dist import load_distilled
from vldd_dist.artifacts.manifests import UnitManifest, from_json, to_json
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import is_done
from vldd_dist.distilled_set.reading import published_sets, verify
from vldd_dist.errors import StoreError
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.stages import publication
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.sharding.checkpoints import newest_checkpoint
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_units import copy_all_but, digests, first_of, read_everything, with_other_last_bits
from vldd_dist.testing.processes.forks import loaded_process
from vldd_dist.testing.servers.s3_server import S3Server

DIED = 9


@pytest.mark.parametrize("kind", ["expert", "distillation", "publication"])
def test_death_after_any_operation_leaves_nothing_partial(kind: str, finished: Store, store: Store, tmp_path: Path) -> None:
    """P1 and P5: a process is killed after its k-th change of the store, for every k. What is committed can be read and is
    correct, and the next attempt gives bit-identical results."""
    die_and_check(kind, finished, store, tmp_path)


@pytest.mark.parametrize("kind", ["distillation", "publication"])
def test_death_after_any_operation_on_s3(
    kind: str, finished: Store, real_server: S3Server, s3: S3Server, tmp_path: Path
) -> None:
    """An expert writes in the same way as a distillation."""
    bucket = f"promises-{kind}"
    store = Store(f"s3://{bucket}/x")
    store.fs.mkdir(bucket)
    die_and_check(kind, finished, store, tmp_path)


def die_and_check(kind: str, finished: Store, store: Store, tmp_path: Path) -> None:
    unit = first_of(kind)
    copy_all_but(finished, store, unit)
    report = tmp_path / "report"
    # This process has no threads when it forks the processes that are killed.
    spawned = loaded_process(_die_at_every_operation, store.url, unit.order(), digests(finished, unit), str(report))
    spawned.start()
    spawned.join(HANG_SECONDS)
    text = report.read_text()
    assert spawned.exitcode == 0, text
    deaths = text.count("died")
    assert deaths >= {"expert": 12, "distillation": 8, "publication": 5}[kind], text
    assert text.endswith("died, done\nlived\n"), "the last death comes after the commit"


def _die_at_every_operation(url: str, order: UnitOrder, expected: dict[str, Any], report: str) -> None:
    import s3fs  # noqa: F401  (before the forks, once for all)

    with open(report, "w", buffering=1) as file:
        for life in range(1, 200):
            died = _in_fork(lambda life=life: _live(url, order, life), file)
            assert died in (0, DIED), f"life {life}: exit {died}"
            checked = _in_fork(lambda died=died: _check_and_finish(url, order, expected, died == 0, file), file)
            assert checked == 0, f"life {life}: the stored objects were not correct"
            if died == 0:
                return
    raise AssertionError("it never lived to the end")


def _in_fork(work: Callable[[], None], file: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _live(url: str, order: UnitOrder, life: int) -> None:
    left = life

    def mortal(operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Store, *arguments: Any) -> Any:
            nonlocal left
            result = operation(self, *arguments)
            left -= 1
            if left == 0:
                os._exit(DIED)
            return result

        return wrapped

    # Patched on the class, because a publication opens another store.
    for name in ("write", "create", "delete"):
        setattr(Store, name, mortal(getattr(Store, name)))
    execute(order, Store(url), lambda event: None)


def _check_and_finish(url: str, order: UnitOrder, expected: dict[str, Any], lived: bool, file: Any) -> None:
    store = Store(url)
    done = is_done(store, order.kind, order.id)
    assert done or not lived
    print("lived" if lived else f"died, {'done' if done else 'not done'}", file=file)
    if not done:
        # Raises for a checkpoint that cannot be trusted. One with missing objects would be skipped with a warning, and there
        # must be no warning.
        checkpoints = store.keys(f"units/{order.kind}/{order.id}/checkpoints")
        latest = newest_checkpoint(UnitWriter(store, order.kind, order.id, order.spec, {}), SOLO)
        assert (latest is None) == (not checkpoints)
        assert latest is None or latest.step == int(checkpoints[-1].rpartition("/")[2].partition("-")[0])
    for folder in published_sets(store):
        load_distilled(store.url_of(folder))
    # The next attempt gives results that differ by rounding, as on another kind of machine.
    publication._nearest_captions = with_other_last_bits(publication._nearest_captions)
    if not done:
        execute(order, store, lambda event: None)
    assert digests(store, order) == expected
    for folder in published_sets(store):
        verify(store.url_of(folder))
    # The next process starts from an empty state.
    store.delete(store.keys(f"units/{order.kind}/{order.id}") + store.keys("distilled"))


def kinds_of_objects(store: Store) -> dict[str, list[str]]:
    """Keys grouped by the kind of unit and the name without numbers."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in store.keys("units"):
        if key.endswith("/manifest.json"):
            kind = key.split("/")[1]
            found[f"{kind} manifest"].append(key)
            for name, info in from_json(UnitManifest, store.read(key), key).objects.items():
                found[f"{kind} {name.translate(str.maketrans('', '', '0123456789'))}"].append(info.key)
    for key in store.keys("distilled"):
        found[f"distilled set {key.split('/', 2)[2]}"].append(key)
    return found


def test_a_flipped_bit_in_any_kind_of_object_is_found_and_named(finished: Store) -> None:
    """P2."""
    read_everything(finished)
    kinds = kinds_of_objects(finished)
    assert len(kinds) >= 25

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def flip(keys: list[str], data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(keys))
        whole = finished.read(key)
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        finished.write(key, bytes(damaged))
        try:
            with pytest.raises(StoreError) as caught:
                read_everything(finished)
            assert key in str(caught.value), f"bit {bit} of {key}: {caught.value}"
        finally:
            finished.write(key, whole)

    for keys in kinds.values():
        flip(keys=keys)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), mark=st.booleans())
def test_a_flipped_bit_in_a_checkpoint_is_named_and_the_previous_one_is_used(
    place: float, mark: bool, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path_factory.mktemp("checkpoints")))
    writer = UnitWriter(store, "thing", "u", {}, {})
    for step in (1, 2):
        writer.checkpoints.save(step, {"state": bytes([step]) * 40}, {"loss": [0.5]})
    suffix = f"00000002-{writer.attempt}.json" if mark else "checkpoint-00000002/state"
    (key,) = [key for key in store.keys("units") if key.endswith(suffix)]
    damaged = bytearray(store.read(key))
    bit = int(place * 8 * len(damaged))
    damaged[bit // 8] ^= 1 << bit % 8
    store.write(key, bytes(damaged))
    caplog.clear()
    try:
        checkpoint = newest_checkpoint(writer, SOLO)
    except StoreError as error:
        # A record of an unknown version is not damage: it is an error, and the unit is not started from scratch.
        if mark and f"{key}: schema version " in str(error):
            return
        raise
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.read("state")) == (1, bytes([1]) * 40)
    assert key in caplog.text


def test_a_manifest_edited_by_hand_is_refused(finished: Store) -> None:
    key = next(key for key in finished.keys("units/evaluation") if key.endswith("/manifest.json"))
    whole = finished.read(key)
    manifest = from_json(UnitManifest, whole, key)
    facts = manifest.facts | {"test": manifest.facts["test"] | {"tr1": 99.9}}
    edited = to_json(manifest.model_copy(update={"facts": facts}))
    seal = from_json(UnitManifest, edited, key)
    assert seal.facts["test"]["tr1"] == 99.9, "with a seal that matches, the edited manifest is valid"
    finished.write(key, whole.replace(b'"tr1": ', b'"tr1": 1'))
    try:
        with pytest.raises(StoreError, match="its seal does not match its content"):
            read_everything(finished)
    finally:
        finished.write(key, whole)
