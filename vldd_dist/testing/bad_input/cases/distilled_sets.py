"""Bad distilled sets: manifests, cards, objects, and places to fetch a set to."""

import os
from pathlib import Path
from random import Random

import torch

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions, Recipe
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.testing.bad_input.case import TO_OUT, Case, kind
from vldd_dist.testing.bad_input.cases import values as bad
from vldd_dist.testing.bad_input.cases.seals import seal, unsealed


def make_set(url: str) -> None:
    recipe = Recipe(
        image_model="test_nfnet", image_model_args={}, image_weights="random", image_train="full", image_head="none",
        image_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), text_encoder={"model": "minilm"}, text_head="projection",
        joint_dim=None, loss={"name": "infonce", "temperature": 0.07}, epochs=3, batch_size=4, learning_rate=0.01, momentum=0.9,
        weight_decay=0.0,
    )  # fmt: skip
    recalls = dict.fromkeys(RECALL_METRICS, 50.0)
    distilled = DistilledSet(
        rows={"images": torch.zeros(2, 3, 8, 8), "texts": torch.ones(2, 4)},
        learned={"inner_lr_image": 0.1, "inner_lr_text": 0.2},
        recipe=recipe,
        captions=[NearestCaptions(before="a", after="b", similarity=0.5)] * 2,
        facts={"recalls": {"distilled": [recalls]}},
    )
    save(distilled, url)


def of_a_set(draw: Random) -> list[str]:
    """A command that reads the set `store/distilled/a`."""
    url = "store/distilled/a"
    return draw.choice([["show", url], ["verify", url], ["fetch", url, "out"], ["list", "store"]])


@kind(10)
def bytes_for_a_manifest(draw: Random) -> Case:
    make_set("store/distilled/a")
    make_set("store/distilled/b")
    path = Path("store/distilled/a/manifest.json")
    path.write_bytes(draw.choice([draw.choice(bad.JSON_TEXTS), bad.damaged(draw, path.read_bytes())]))
    # Every kind of damage changes the manifest, so that the command must fail.
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
    """Folders that belong to others or cannot be written. `paper.partial` and `notes.txt` are the user's own."""
    make_set("store/distilled/a")
    os.symlink("../neighbour", "elsewhere.partial")
    os.symlink("nothing", "dangling")
    Path("empty.partial").mkdir()
    folders = ["paper", "notes.txt", "notes.txt/x", "elsewhere", "empty", "x" * 300, "/proc/vldd", ".", "..", "/", "dangling",
              "units", "../neighbour"]  # fmt: skip
    return Case(["fetch", "store/distilled/a", draw.choice(folders)], frozenset({4}))
