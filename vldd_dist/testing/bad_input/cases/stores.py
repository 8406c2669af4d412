"""Bad stores: statuses, records of units, `gc` of folders that are not stores, and URLs."""

from pathlib import Path
from random import Random
from typing import Any

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.runs.run_status import RunStatus
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.store.store import Store
from vldd_dist.testing.bad_input.case import ANY, SCENES, TO_OUT, Case, kind
from vldd_dist.testing.bad_input.cases import values as bad
from vldd_dist.testing.bad_input.cases.seals import seal, unsealed

STATUS: dict[str, Any] = {
    "experiment": "a",
    "run": "0a1b2c3d",
    "state": "running",
    "stages": {"expert": {"total": 3, "done": 1, "failed": 0}},
    "running": [{"label": "expert 1", "seconds": 2.5, "event": {"done": 5, "total": 10, "loss": 1.5}}],
    "time_left": "about 5 s left",
    "notices": ["expert 0: retried"],
}
BAD_STATUSES: list[dict[str, Any]] = [
    {"written_at": "yesterday"},
    {"written_at": "2026-01-01T00:00:00"},
    {"written_at": "2026-13-01T00:00:00+00:00"},
    {"running": [{"label": "x", "seconds": "long", "event": {}}]},
    {"running": [{"label": "x", "seconds": 1, "event": {"done": "few", "total": 2}}]},
    {"running": [{"label": "x", "seconds": 1, "event": {"loss": {}}}]},
    {"state": "asleep"},
]


@kind(8)
def statuses(draw: Random) -> Case:
    Path("store/status/a").mkdir(parents=True)
    whole = RunStatus.model_validate(STATUS).model_dump(mode="json")
    Path("store/status/a/0a1b2c3d.json").write_bytes(to_json(RunStatus.model_validate(STATUS)))
    variant = draw.randrange(4)
    codes = frozenset({4})
    if variant == 0:
        data = draw.choice(bad.JSON_TEXTS)
    elif variant == 1:
        data = seal(whole | draw.choice(BAD_STATUSES))
    elif variant == 2:
        stages = {draw.choice(["quantum", "", bad.SEQUENCES, "x" * 500]): {"total": 1, "done": 0, "failed": 0}}
        data, codes = seal(whole | {"stages": stages, "notices": [bad.SEQUENCES, "[/b]"]}), frozenset({0})
    else:
        data, codes = seal(bad.changed(draw, whole)), frozenset({0, 4})
    Path("store/status/a/00000000.json").write_bytes(data)
    return Case(["status", "store"], codes)


@kind(6)
def marks_of_units(draw: Random) -> Case:
    store = Store("store")
    writer = UnitWriter(store, "thing", "u", {}, {})
    writer.put("x", b"1")
    writer.checkpoints.save(1, {"state": b"2"}, {})
    if draw.random() < 0.5:
        writer.commit(Facts())
    mark = draw.choice(sorted(Path("store/units").rglob("*.json")))
    texts = [draw.choice(bad.JSON_TEXTS), bad.damaged(draw, mark.read_bytes()), seal(bad.changed(draw, unsealed(str(mark))))]
    mark.write_bytes(draw.choice(texts))
    delete = draw.choice([[], ["--delete"]])
    return Case(["gc", "store", "--min-age-hours", draw.choice(["0", "24"]), *delete], frozenset({0, 4}), ("store/units",))


@kind(4)
def gc_of_what_is_no_store(draw: Random) -> Case:
    """`gc` in a working directory whose folders `units`, `blobs` and `distilled` are the user's own."""
    folder = draw.choice(["", ".", "./", "../neighbour", "units", "/proc/self/fd", "notes.txt", "../work"])
    return Case(["gc", folder, "--delete", "--min-age-hours", "0"], ANY)


@kind(4)
def hours(draw: Random) -> Case:
    value = draw.choice(["inf", "-inf", "nan", "-1", "1e300", "1e9", "x", "", "[/b]", "0x10", "9" * 5000])
    return Case(["gc", "store", "--min-age-hours", value], frozenset({2}))


@kind(8)
def store_urls(draw: Random) -> Case:
    """URLs of stores that are unknown, unreachable or impossible."""
    Path("file").write_bytes(b"mine")
    url = draw.choice(["gopher://x", "s3://key:secret@bucket/x", "file/x", "x" * 5000, "://", "http://127.0.0.1:1/x", "[/b]",
                       "file://user:word@host/x", "pipe:touch stolen", "zip://x::file://y", "~nobody/x", "\ud800", "a\0b",
                       bad.SEQUENCES, "simplecache::file://x", "/proc/1/mem/x", "file:///notes.txt/x"])  # fmt: skip
    command = draw.choice([["show", url], ["verify", url], ["fetch", url, "out"], ["run", SCENES, "--store", url, "--plan"],
                           ["list", url], ["status", url], ["gc", url]])  # fmt: skip
    return Case(command, ANY, TO_OUT)


@kind(1)
def doctor(draw: Random) -> Case:
    Path("file").write_bytes(b"mine")
    return Case(["doctor", draw.choice(["file/x", "gopher://x", "s3://key:secret@bucket/x", "/proc/x"])], frozenset({4}))
