"""What `benchmarks.badinput` tries: a function a kind of bad input, which lays it out in a folder and says how to meet it."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from benchmarks import _bad_values as bad
from vldd_dist.artifacts.manifests import _canonical, _seal, to_json
from vldd_dist.artifacts.run_status import RunStatus
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.load import load_experiment
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions, Recipe
from vldd_dist.distilled_set.write import save
from vldd_dist.recall_metrics import METRICS
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store

SCENES = str(Path(__file__).parent.parent / "jobs/presets/scenes.yaml")
ANY = frozenset({0, 2, 4})
# Nothing listens there.
NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Case:
    """Arguments of `vldd` (of `import`: description, store, overrides), the exit codes that are right, and which files below
    the working directory it may make, change or remove."""

    arguments: list[str]
    codes: frozenset[int]
    may_change: tuple[str, ...] = ()
    imports: bool = False


Kind = Callable[[Random], Case]
KINDS: dict[str, tuple[int, Kind]] = {}


def kind(share: int) -> Callable[[Kind], Kind]:
    """Register a kind of case, `share` of every hundred or so. It runs in the working directory."""

    def register(function: Kind) -> Kind:
        KINDS[function.__name__] = (share, function)
        return function

    return register


def make_set(url: str) -> None:
    recipe = Recipe(
        image_model="test_nfnet", image_model_args={}, image_weights="random", image_train="full", image_head="none",
        image_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), text_encoder={"model": "minilm"}, text_head="projection",
        joint_dim=None, loss={"name": "infonce", "temperature": 0.07}, epochs=3, batch_size=4, learning_rate=0.01, momentum=0.9,
        weight_decay=0.0,
    )  # fmt: skip
    recalls = dict.fromkeys(METRICS, 50.0)
    distilled = DistilledSet(
        rows={"images": torch.zeros(2, 3, 8, 8), "texts": torch.ones(2, 4)},
        learned={"inner_lr_image": 0.1, "inner_lr_text": 0.2},
        recipe=recipe,
        captions=[NearestCaptions(before="a", after="b", similarity=0.5)] * 2,
        facts={"recalls": {"distilled": [recalls]}},
    )
    save(distilled, url)


def seal(tree: Any) -> bytes:
    """With its seal in order where it can have one."""
    try:
        return _canonical(tree | {"seal": _seal(tree)})
    except (TypeError, ValueError, RecursionError):
        return bad.dumped(tree)


def unsealed(path: str) -> dict[str, Any]:
    tree = json.loads(Path(path).read_bytes())
    del tree["seal"]
    return tree


def of_a_set(draw: Random) -> list[str]:
    """A command that meets the set `store/distilled/a`."""
    url = "store/distilled/a"
    return draw.choice([["show", url], ["verify", url], ["fetch", url, "out"], ["list", "store"]])


TO_OUT = ("out", "out.partial")


@kind(10)
def bytes_for_a_manifest(draw: Random) -> Case:
    make_set("store/distilled/a")
    make_set("store/distilled/b")
    path = Path("store/distilled/a/manifest.json")
    path.write_bytes(draw.choice([draw.choice(bad.JSON_TEXTS), bad.damaged(draw, path.read_bytes())]))
    # A byte that is flipped back is no damage, and there is none such.
    return Case(of_a_set(draw), frozenset({4}), TO_OUT)


@kind(12)
def changed_manifest(draw: Random) -> Case:
    make_set("store/distilled/a")
    path = "store/distilled/a/manifest.json"
    Path(path).write_bytes(seal(bad.changed(draw, unsealed(path))))
    return Case(of_a_set(draw), frozenset({0, 4}), TO_OUT)


NAMES = [
    "/etc/vldd-x", "../x", "a/../../x", "../../neighbour/secret.txt", "README.md/x", "readme.MD", "manifest.json",
    "a\0b", "a\nb", bad.SEQUENCES, "a//b", "./a", "a\\b", "x" * 300, ".vldd-partial", "", ".", "\ud800",
]  # fmt: skip


@kind(6)
def names_in_a_manifest(draw: Random) -> Case:
    make_set("store/distilled/a")
    path, name = "store/distilled/a/manifest.json", draw.choice(NAMES)
    tree = unsealed(path)
    info = ObjectInfo.of("x", b"x").model_dump(mode="json") | {"key": name}
    Path(path).write_bytes(seal(tree | {"objects": tree["objects"] | {name: info}}))
    return Case(of_a_set(draw), frozenset({4}), TO_OUT)


@kind(4)
def sizes_in_a_manifest(draw: Random) -> Case:
    make_set("store/distilled/a")
    path = "store/distilled/a/manifest.json"
    tree = unsealed(path)
    size = draw.choice([2**62, 2**70, 2**52, -1, 10**400, 0, 1.5, 2**40])
    blocks = draw.choice([None, {"size": 1, "sha256": []}, {"size": 2**60, "sha256": ["0" * 64]}, {"size": 0, "sha256": []}])
    name = draw.choice(sorted(tree["objects"]))
    tree["objects"][name] |= {"size": size, "blocks": blocks}
    Path(path).write_bytes(seal(tree))
    command = draw.choice([["verify", "store/distilled/a"], ["fetch", "store/distilled/a", "out"]])
    return Case(command, frozenset({4}), TO_OUT)


@kind(4)
def damaged_objects(draw: Random) -> Case:
    make_set("store/distilled/a")
    path = draw.choice([path for path in Path("store/distilled/a").rglob("*") if path.is_file() and path.suffix != ".json"])
    data = path.read_bytes()
    path.unlink()
    if draw.random() < 0.8:
        path.write_bytes(bad.damaged(draw, data))
    command = draw.choice([["verify", "store/distilled/a"], ["fetch", "store/distilled/a", "out"]])
    same = path.exists() and path.read_bytes() == data
    return Case(command, frozenset({0 if same else 4}), TO_OUT)


@kind(5)
def cards(draw: Random) -> Case:
    make_set("store/distilled/a")
    path = "store/distilled/a/manifest.json"
    tree = unsealed(path)
    texts = [b"", b"\xff\xfe", b"# title", b"---\n", b"---\n---\n", b"---\nx", bad.SEQUENCES.encode(), b"[x](http://\x1b]0;x\x07)",
             b"|" * 2000, b"*" * 5000, b"> " * 300, b"x" * (2 << 20), b"```\n", b"<script>", draw.randbytes(200)]  # fmt: skip
    card = draw.choice(texts)
    Path("store/distilled/a/README.md").write_bytes(card)
    tree["objects"]["README.md"] = ObjectInfo.of("README.md", card).model_dump(mode="json")
    if draw.random() < 0.2:
        del tree["objects"]["README.md"]
    Path(path).write_bytes(seal(tree))
    return Case(["show", "store/distilled/a"], frozenset({0, 4}))


@kind(4)
def places_for_a_fetch(draw: Random) -> Case:
    """Of others, or that cannot be written. `paper.partial` and `notes.txt` are the user's own."""
    make_set("store/distilled/a")
    os.symlink("../neighbour", "elsewhere.partial")
    os.symlink("nothing", "dangling")
    Path("empty.partial").mkdir()
    places = ["paper", "notes.txt", "notes.txt/x", "elsewhere", "empty", "x" * 300, "/proc/vldd", ".", "..", "/", "dangling",
              "units", "../neighbour"]  # fmt: skip
    return Case(["fetch", "store/distilled/a", draw.choice(places)], frozenset({4}))


STATUS: dict[str, Any] = {
    "experiment": "a",
    "state": "running",
    "stages": {"expert": {"total": 3, "done": 1, "failed": 0}},
    "running": [{"label": "expert 1", "seconds": 2.5, "event": {"done": 5, "total": 10, "loss": 1.5}}],
    "time_left": "about 5 s left",
    "notices": ["expert 0: tried again"],
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
    Path("store/status").mkdir(parents=True)
    whole = RunStatus.model_validate(STATUS).model_dump(mode="json")
    Path("store/status/good.json").write_bytes(to_json(RunStatus.model_validate(STATUS)))
    way = draw.randrange(4)
    codes = frozenset({4})
    if way == 0:
        data = draw.choice(bad.JSON_TEXTS)
    elif way == 1:
        data = seal(whole | draw.choice(BAD_STATUSES))
    elif way == 2:
        stages = {draw.choice(["quantum", "", bad.SEQUENCES, "x" * 500]): {"total": 1, "done": 0, "failed": 0}}
        data, codes = seal(whole | {"stages": stages, "notices": [bad.SEQUENCES, "[/b]"]}), frozenset({0})
    else:
        data, codes = seal(bad.changed(draw, whole)), frozenset({0, 4})
    Path("store/status/a.json").write_bytes(data)
    return Case(["status", "store"], codes)


@kind(6)
def marks_of_units(draw: Random) -> Case:
    store = Store("store")
    writer = UnitWriter(store, "thing", "u", {}, {})
    writer.put("x", b"1")
    writer.checkpoints.save(1, {"state": b"2"}, {})
    if draw.random() < 0.5:
        writer.commit({})
    mark = draw.choice(sorted(Path("store/units").rglob("*.json")))
    texts = [draw.choice(bad.JSON_TEXTS), bad.damaged(draw, mark.read_bytes()), seal(bad.changed(draw, unsealed(str(mark))))]
    mark.write_bytes(draw.choice(texts))
    delete = draw.choice([[], ["--delete"]])
    return Case(["gc", "store", "--min-age-hours", draw.choice(["0", "24"]), *delete], frozenset({0, 4}), ("store/units",))


@kind(4)
def gc_of_what_is_no_store(draw: Random) -> Case:
    """`units`, `blobs` and `distilled` of the working directory are the user's own."""
    place = draw.choice(["", ".", "./", "../neighbour", "units", "/proc/self/fd", "notes.txt", "../work"])
    return Case(["gc", place, "--delete", "--min-age-hours", "0"], ANY)


@kind(4)
def hours(draw: Random) -> Case:
    value = draw.choice(["inf", "-inf", "nan", "-1", "1e300", "1e9", "x", "", "[/b]", "0x10", "9" * 5000])
    return Case(["gc", "store", "--min-age-hours", value], frozenset({2}))


@kind(8)
def store_urls(draw: Random) -> Case:
    """Unknown, unreachable or impossible ones."""
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


@kind(6)
def command_lines(draw: Random) -> Case:
    lines = [[], ["walk"], ["[/b]"], ["run"], ["run", SCENES], ["run", SCENES, "--store"], ["show"], ["fetch", "x"],
             ["list", "a", "b"], ["run", SCENES, "--store", "s", "--plan", "--until", "never"],
             ["run", SCENES, "--store", "s", "--max-running", "0"],
             ["run", SCENES, "--store", "s", "--max-running", "many"], ["gc", "--delete"], ["config"], ["config", "none.yaml"],
             ["config", "."], ["config", "/proc/self/mem"], ["config", SCENES, "--set"], ["config", SCENES, "--set", "x"],
             ["config", SCENES, "--set", "=1"], ["config", SCENES, "--set", "a..b=1"], ["status"], ["submit", SCENES],
             ["run", SCENES, "--store", "s", "--plan", "--frobnicate"], ["run", "x" * 5000, "--store", "s"],
             ["run", SCENES, "--store", "memory://x"], ["\ud800"], ["config", "\udcff"]]  # fmt: skip
    return Case(draw.choice(lines), frozenset({2}))


def _section_keys() -> list[str]:
    full = load_experiment(SCENES).model_dump(mode="json")
    return [f"{section}.{key}" for section, values in full.items() if isinstance(values, dict) for key in values]


def with_description(draw: Random, config: str, overrides: list[str]) -> list[str]:
    """A command that reads a description."""
    sets = [part for override in overrides for part in ("--set", override)]
    if draw.random() < 0.5:
        return ["config", config, *sets]
    return ["run", config, "--store", "store", "--plan", *sets]


@kind(10)
def overrides_that_are_no_yaml(draw: Random) -> Case:
    key = draw.choice(_section_keys())
    value = draw.choice([value for value in bad.YAML_VALUES if value not in ("",)])
    return Case(with_description(draw, SCENES, [f"{key}={value}"]), frozenset({0, 2, 4}))


@kind(12)
def overrides_of_the_wrong_kind(draw: Random) -> Case:
    key = draw.choice(_section_keys())
    value = draw.choice(bad.VALUES)
    return Case(with_description(draw, SCENES, [f"{key}={json.dumps(value)}"]), ANY)


REFUSED = [
    "data.licence=2020-13-45", "seed=!!int abc", "seed=" + "9" * 5000, "experts.lr_image=.inf", "distill.lr_images=.nan",
    "distill.seeds=[0, 0]", "distill.pairs=[5, 5]", "evaluation.learning_rates=[0.1, 0.1]", "evaluation.seeds=[]",
    "experts.count=1000000000", "model.image.model_args={a: .inf}", "name=../x", "name=x/y", "data.image_size=100000000",
    "distill.objective.max_loss=1e999", "data.max_bad_fraction=.nan", "name=&a [*a]",
]  # fmt: skip


@kind(8)
def overrides_that_are_refused(draw: Random) -> Case:
    override = draw.choice(REFUSED)
    commands = [with_description(draw, SCENES, [override]), ["submit", SCENES, "--store", "s3://x/y", "--set", override]]
    return Case(draw.choice(commands), frozenset({2}))


@kind(10)
def changed_descriptions(draw: Random) -> Case:
    whole = draw.choice([yaml.safe_load(Path(SCENES).read_text()), load_experiment(SCENES).model_dump(mode="json")])
    tree = bad.changed(draw, whole)
    Path("description.yaml").write_bytes(bad.dumped(tree))
    return Case(with_description(draw, "description.yaml", []), ANY)


@kind(5)
def bytes_for_a_description(draw: Random) -> Case:
    data = Path(SCENES).read_bytes()
    bomb = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else 'x')}]" for n in range(12)])
    texts = [bad.damaged(draw, data), draw.choice(bad.JSON_TEXTS), bomb.encode(), draw.randbytes(300), b"#" * (1 << 20)]
    Path("description.yaml").write_bytes(draw.choice(texts))
    return Case(with_description(draw, "description.yaml", []), ANY)


@kind(2)
def submissions(draw: Random) -> Case:
    wrong = [["--address", NOWHERE], ["--address", "x"], ["--address", ""], ["--address", "ray://127.0.0.1:1"],
             ["--working-dir", "none"], ["--working-dir", "notes.txt"], ["--address", "http://[/b]"]]  # fmt: skip
    address = [] if "--address" in (chosen := draw.choice(wrong)) else ["--address", NOWHERE]
    return Case(["submit", draw.choice([SCENES, "none.yaml"]), "--store", "s3://x/y", *chosen, *address], frozenset({2, 4}))


def importing(overrides: list[str], codes: frozenset[int]) -> Case:
    small = ["data.image_size=8", "data.shard_images=2", "data.train_images=null", "data.val_images=null",
             "data.test_images=null", "model.image.weights=random", "distill.pairs=[1]", "experts.readers=1"]  # fmt: skip
    return Case([SCENES, "store", *small, *overrides], codes, ("store",), imports=True)


def _annotations() -> dict[str, Any]:
    Path("pictures/sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        Path("pictures", name).write_bytes(bad.picture("JPEG"))
    entry = {"filename": "a.jpg", "sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}
    return {
        "images": [
            *({**entry, "split": split} for split in ("train", "val", "test")),
            {**entry, "filename": "b.jpg", "split": "train"},
            {**entry, "filename": "c.jpg", "filepath": "sub", "split": "restval"},
        ]
    }


KARPATHY = ["data.source=karpathy", "data.source.annotations=data.json", "data.source.images=pictures"]
BAD_ENTRIES: list[dict[str, Any]] = [
    {"filename": 3}, {"filename": ["a.jpg"]}, {"filename": "a\0b"}, {"filename": None}, {"filename": ""},
    {"filename": "none.jpg"}, {"filename": "sub"}, {"filename": "../../neighbour/secret.png"}, {"filename": "ABSOLUTE"},
    {"filename": "fifo"},
    {"filename": "link"}, {"filename": "x" * 5000}, {"filename": "bad.jpg"}, {"filepath": "../../neighbour"},
    {"filepath": 3}, {"filepath": "/"}, {"sentences": None}, {"sentences": []}, {"sentences": [3]}, {"sentences": [{"raw": 3}]},
    {"sentences": [{"raw": "\ud800"}]}, {"sentences": [{"raw": "  "}]}, {"sentences": {"raw": "x"}},
]  # fmt: skip


@kind(10)
def karpathy_entries(draw: Random) -> Case:
    tree, change = _annotations(), dict(draw.choice(BAD_ENTRIES))
    os.mkfifo("pictures/fifo")
    os.symlink("../../neighbour/secret.png", "pictures/link")
    Path("pictures/bad.jpg").write_bytes(draw.choice(bad.bad_pictures()))
    if change.get("filename") == "ABSOLUTE":
        change["filename"] = str(Path("../neighbour/secret.png").resolve())
    tree["images"][3] |= change
    Path("data.json").write_bytes(bad.dumped(tree))
    tolerant = draw.random() < 0.3
    # A link inside the folder is the user's own way to lay pictures out.
    good = change.get("filename") == "link"
    codes = frozenset({0, 4}) if tolerant or good else frozenset({4})
    return importing([*KARPATHY, *(["data.max_bad_fraction=0.6"] if tolerant else [])], codes)


@kind(6)
def karpathy_files(draw: Random) -> Case:
    tree = _annotations()
    texts = [draw.choice(bad.JSON_TEXTS), bad.damaged(draw, bad.dumped(tree)), bad.dumped(bad.changed(draw, tree))]
    Path("data.json").write_bytes(draw.choice(texts))
    return importing(KARPATHY, frozenset({0, 4}))


SHARDS = ["data.source=shards", "data.source.val=good.tar", "data.source.test=good.tar"]
SAMPLE_TEXTS = [
    b'{"captions": 3}', b'{"captions": [3]}', b'{"captions": []}', b'{"captions": ["\\ud800"]}', b'{"captions": null}',
    b'{"captions": {"a": 1}}', b"{", b"", b"\xff", b'{"captions": ["' + b"[" * 99 + b'"]', b'{"captions": [NaN]}',
    bad.DEEP.encode(), b'{"captions": ["x"], "id": ' + b"9" * 5000 + b"}",
]  # fmt: skip


def _members(count: int = 4) -> list[tuple[str, bytes]]:
    members = []
    for number in range(count):
        members += [(f"{number:04d}.jpg", bad.picture("JPEG")), (f"{number:04d}.json", b'{"captions": ["a dog"]}')]
    return members


def _tars(members: list[tuple[str, bytes]], data: bytes | None = None) -> None:
    Path("good.tar").write_bytes(bad.tar(_members()))
    Path("bad.tar").write_bytes(bad.tar(members, tarfile.PAX_FORMAT) if data is None else data)


@kind(8)
def samples_in_a_tar(draw: Random) -> Case:
    members = _members()
    at = draw.choice([2, 3, 6, 7])
    name, _ = members[at]
    content = draw.choice(bad.bad_pictures() if at % 2 == 0 else SAMPLE_TEXTS)
    if draw.random() < 0.7:
        members[at] = (name, content)
    else:
        odd = ["../../x", "/x", "a\udcffb", "x" * 200, bad.SEQUENCES, "0000", "", ".", "a/../b", "\t"]
        members[at - at % 2] = (f"{draw.choice(odd)}.jpg", members[at - at % 2][1])
    _tars(members)
    tolerant = draw.random() < 0.3
    more = ["data.source.train=bad.tar", *(["data.max_bad_fraction=0.6"] if tolerant else [])]
    return importing([*SHARDS, *more], frozenset({0, 4}))


@kind(8)
def damaged_tars(draw: Random) -> Case:
    data = bad.tar(_members())
    # Of the third sample: a header that is not the first.
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        header = archive.getmembers()[4].offset
    flipped = bytearray(data)
    flipped[header + draw.choice([0, 100, 124, 148, 156])] ^= 1 << draw.randrange(1, 6)
    huge = bytearray(data)
    huge[header + 124 : header + 136] = b"77777777777\0"
    sure = [bytes(flipped), data[:header], data[: header + 700], bytes(huge), b"", b"\x1f\x8b" + data, data[: header + 100]]
    if draw.random() < 0.6:
        _tars([], draw.choice(sure))
        return importing([*SHARDS, "data.source.train=bad.tar"], frozenset({4}))
    _tars([], bad.damaged(draw, data))
    return importing([*SHARDS, "data.source.train=bad.tar"], frozenset({0, 4}))


@kind(3)
def patterns_of_shards(draw: Random) -> Case:
    _tars(_members())
    os.mkfifo("fifo.tar")
    pattern = draw.choice(["none.tar", "{000..999999999999}.tar", "{a", "[", "", "::", ".", "fifo.tar", "pipe:touch stolen",
                           "gopher://x", "good.tar::none.tar", "x" * 5000,
                           "http://127.0.0.1:1/x.tar", "notes.txt", "a\\b", "/dev/zero"])  # fmt: skip
    return importing([*SHARDS, f"data.source.train={json.dumps(pattern)}"], frozenset({2, 4}))


@kind(2)
def weights_files(draw: Random) -> Case:
    texts = [b"", b"\x80\x02}q\0.", b"PK\x03\x04", b"\xff" * 100, (2**62).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0{}"]
    Path("weights.safetensors").write_bytes(draw.choice(texts))
    place = draw.choice(["weights.safetensors", "none.safetensors", ".", "gopher://x", "/dev/null"])
    return Case(["run", SCENES, "--store", "store", "--plan", "--set", f"model.image.weights={place}"], ANY)
