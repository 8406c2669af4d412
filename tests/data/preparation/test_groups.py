"""A split is prepared in groups. Conflicts between groups or splits are found when the groups are merged."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.data.planned_groups import one_split
from tests.data.sample_files import jpeg, tar
from tests.data.small_sources import karpathy, shards
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.data.images import decode
from vldd_dist.data.preparation.groups import Group, groups_of, small_splits
from vldd_dist.data.preparation.merge import count_duplicates
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo, decode_index, encode_index
from vldd_dist.data.sources.scenes import Scenes
from vldd_dist.errors import DataError, StoreError
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare
from vldd_dist.testing.experiments.tiny_experiment import run

SCENES = DataSettings(source="scenes", train_images=23, val_images=4, test_images=4, image_size=16, shard_images=5)


def test_preparation_in_groups_gives_the_same_data_set(store: Store) -> None:
    whole = prepare(store, SCENES)
    in_groups = prepare(Store(f"{store.url}-groups"), SCENES.model_copy(update={"group_images": 10}))
    assert len({shard.group for shard in whole.splits["train"].shards}) == 1
    assert len({shard.group for shard in in_groups.splits["train"].shards}) == 3
    assert in_groups.images("train").equal(whole.images("train"))
    assert in_groups.captions("train") == whole.captions("train")
    assert in_groups.pick("train", [21, 0, 12]).captions == whole.pick("train", [21, 0, 12]).captions


def test_splits_that_the_source_lacks_are_taken_out_of_its_training_images(tmp_path: Path, store: Store) -> None:
    dataset = prepare(store, one_split(tmp_path, 400, split={"val": 0.1, "test": 0.2}))
    found = {split: {given[0] for given in dataset.captions(split)} for split in dataset.splits}
    assert {split: len(captions) for split, captions in found.items()} == {"train": 283, "val": 50, "test": 67}
    assert set.union(*found.values()) == {f"image {number}" for number in range(400)}
    # Adding images does not change the split of the others.
    more = prepare(store, one_split(tmp_path, 440, split={"val": 0.1, "test": 0.2}))
    assert all(captions <= {given[0] for given in more.captions(split)} for split, captions in found.items())


def test_small_splits_are_found_by_their_name(tmp_path: Path) -> None:
    """`vldd init` names the fractions to raise by them."""
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg())
        (tmp_path / f"{number}.txt").write_text("a photo")
    settings = DataSettings(source={"name": "folder", "path": str(tmp_path)}, split={"val": 0.001, "test": 0.3})
    found = small_splits(settings)
    assert found.keys() == {"val", "test"}
    assert found["val"] == "data.split.val: 0.001 of the images probably leaves no val image."
    assert found["test"].startswith("With about 3 test images, ")


def test_limits_hold_for_splits_that_are_taken_out(tmp_path: Path, store: Store) -> None:
    settings = one_split(tmp_path, 400, train_images=50, val_images=6, test_images=5)
    assert len(list(groups_of(settings))) == 1
    dataset = prepare(store, settings)
    assert {split: info.images for split, info in dataset.splits.items()} == {"train": 50, "val": 6, "test": 5}
    with pytest.raises(
        DataError, match=r"data.val_images \(100\) is more than data.split.val took \(\d+\): lower it, or raise"
    ):
        prepare(store, one_split(tmp_path, 400, val_images=100))
    with pytest.raises(DataError, match=r"data.train_images \(400\) is more than data.split leaves \(\d+\): lower it"):
        prepare(store, one_split(tmp_path, 400, train_images=400))


def test_images_of_a_split_that_has_reached_its_limit_are_not_decoded(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(data: bytes, source: str) -> Any:
        decoded.append(source)
        return decode(data, source)

    monkeypatch.setattr("vldd_dist.data.sources.sample.decode", counted)
    dataset = prepare(store, one_split(tmp_path, 400, train_images=10, val_images=6, test_images=5))
    assert {split: info.images for split, info in dataset.splits.items()} == {"train": 10, "val": 6, "test": 5}
    assert len(decoded) == 21


def test_a_fraction_that_is_too_small_leaves_a_split_empty(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError, match=r"the val split has no images: raise data.split.val"):
        prepare(store, one_split(tmp_path, 40, split={"val": 1e-6, "test": 0.2}))


def test_a_group_survives_json() -> None:
    for group in (*groups_of(SCENES), Group("train", (), (("val", 0.1), ("test", 0.2)), (("val", 3),))):
        assert Group.from_json(group.as_json()) == group


def test_images_in_two_splits_are_counted_and_reported(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first, second, third = (jpeg((n, n, n)) for n in (10, 90, 170))
    members = {"a.jpg": first, "a.txt": b"x", "b.jpg": second, "b.txt": b"y", "c.jpg": first, "c.txt": b"z"}
    settings = shards(tmp_path, members)
    tar(tmp_path / "val.tar", {"n.jpg": first, "n.txt": b"n"})
    tar(tmp_path / "test.tar", {"n.jpg": third, "n.txt": b"n", "o.jpg": first, "o.txt": b"o"})
    dataset = prepare(store, settings)
    assert dataset.facts.duplicates == {"train, val": 2, "train, test": 2, "val, test": 1}
    assert "2 images are in two splits (train, val)" in caplog.text


def test_an_image_that_is_named_in_two_splits_is_refused(tmp_path: Path, store: Store) -> None:
    def twice(tree: dict[str, Any]) -> None:
        tree["images"][3]["filename"] = "0.jpg"

    with pytest.raises(DataError, match=r"the source has 0\.jpg both in the train and in the test split"):
        prepare(store, karpathy(tmp_path, twice))


@pytest.mark.parametrize(("entry", "split", "group_images"), [(1, "train", 10), (2, "val", 1), (3, "test", 1)])
def test_an_image_that_is_named_twice_in_a_split_is_refused(
    entry: int, split: str, group_images: int, tmp_path: Path, store: Store
) -> None:
    """With one image in a group, the two entries are in different groups."""

    def twice(tree: dict[str, Any]) -> None:
        tree["images"].append(tree["images"][entry])

    settings = karpathy(tmp_path, twice).model_copy(update={"group_images": group_images})
    with pytest.raises(DataError, match=rf"the source has {entry}\.jpg twice in the {split} split: give each image once, with"):
        prepare(store, settings)


def test_equal_images_of_a_split_are_reported(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    members = {f"{n}.jpg": jpeg((25 * (n // 4), 0, 0)) for n in range(40)} | {f"{n}.txt": b"x" for n in range(40)}
    settings = shards(tmp_path, dict(sorted(members.items())))
    dataset = prepare(store, settings)
    assert dataset.splits["train"].images == 40
    assert "30 images of train equal an earlier image of the split: give each image once, with all its captions" in caplog.text
    assert "1 images of val equal an earlier image" in caplog.text


def test_bad_images_are_judged_over_all_groups(tmp_path: Path, store: Store) -> None:
    settings = one_split(tmp_path, 400, max_bad_fraction=0.01)
    members = {f"{n}.jpg": jpeg((n, 0, 0)) if n > 3 else b"bad" for n in range(8)} | {f"{n}.txt": b"x" for n in range(8)}
    tar(tmp_path / "2.tar", dict(sorted(members.items())))
    # Half of the images of the third tar are bad.
    dataset = prepare(store, settings)
    assert dataset.facts.splits["train"].bad_images == 4
    with pytest.raises(DataError, match=r"4 of 408 images of the train split cannot be read, 4 of them in .*2\.tar"):
        prepare(Store(f"{store.url}-again"), settings.model_copy(update={"max_bad_fraction": 0.009}))


def test_a_group_without_a_usable_image_is_no_obstacle(tmp_path: Path, store: Store) -> None:
    settings = one_split(tmp_path, 400, max_bad_fraction=0.01)
    tar(tmp_path / "!.tar", {"0.jpg": b"bad", "0.txt": b"x"})
    text = {"model": "minilm", "pooling": "mean"}
    image = {"model": "test_nfnet", "weights": str(weights_file(tmp_path)), "train": "head", "head": {"kind": "linear"}}
    model = {"image": image, "text": text, "joint_dim": 8}
    graph = Graph(Experiment(name="empty", data=settings, model=model, distill={"pairs": [2]}))
    embeddings, features = graph.unit("caption_embeddings"), graph.unit("image_features", "test_nfnet")
    run(store, in_dependency_order([embeddings, features]))
    first = graph.unit("dataset").inputs["group_000000"]
    assert UnitReader(store, first.kind, first.id).manifest.facts["splits"]["train"]["shards"] == []
    found = [UnitReader(store, unit.kind, unit.id).manifest.facts for unit in (embeddings, features)]
    assert (found[0]["captions"], found[0]["dim"]) == (400, 384)
    assert found[1]["images"] == 400
    assert found[1]["dim"] > 0


def weights_file(folder: Path) -> Path:
    path = folder / "tower.safetensors"
    path.write_bytes(tensors.encode(create_backbone("test_nfnet", {}, pretrained=False, seed=0).state_dict()))
    return path


def test_a_plan_counts_what_is_taken_out_of_the_training_images() -> None:
    class OneSplit(Scenes):
        def own_splits(self) -> tuple[str, ...]:
            return ("train",)

    data = DataSettings(source=OneSplit(name="scenes"), split={"val": 0.1, "test": 0.05}, test_images=30)
    found = data_size(Experiment(name="x", data=data, distill={"pairs": [2]}), None)
    assert found is not None
    assert found.images == {"train": 1700, "val": 200, "test": 30}


def test_the_index_finds_shards_by_the_index_of_an_image() -> None:
    info = SplitInfo.of([Shard("g", str(n), 10, 50, 10 * n, "0" * 64) for n in range(3)])
    assert decode_index(encode_index({"train": info})) == {"train": info}
    found = info.shards_with([25, 3, 9, 20, 3])
    assert [(shard.name, positions) for shard, positions in found] == [("0", [1, 4, 2]), ("2", [3, 0])]


def test_the_first_group_whose_fingerprints_cannot_be_read_is_named(tmp_path: Path, store: Store) -> None:
    """Whichever of the groups that are read in parallel fails first."""
    settings = SCENES.model_copy(update={"group_images": 5})
    dataset = prepare(store, settings)
    groups = [UnitReader(store, "shard_group", unit) for unit in dict.fromkeys(s.group for s in dataset.splits["train"].shards)]
    assert len(groups) == 5
    for group in groups[1:3]:
        store.delete([group.info("fingerprints.safetensors").key])
    with pytest.raises(StoreError, match=groups[1].manifest.unit):
        count_duplicates(groups)
