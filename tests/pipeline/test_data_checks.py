"""What a description asks of its source is compared with the number of images before anything runs."""

from pathlib import Path

import pytest

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph


def graph(folder: Path, *overrides: str, images: int = 40) -> Graph:
    """The graph of an experiment on a table of images, some of which become validation and test images."""
    table = folder / "pairs.csv"
    table.write_text("image,caption\n" + "".join(f"{number}.jpg,a picture\n" for number in range(images)))
    source = [f"data.source={{name: table, path: {table}}}", "data.train_images=null", "data.val_images=null"]
    small = [*source, "data.test_images=null", "model.image.weights=random", "experts.readers=1", "distill.pairs=[10]"]
    return Graph(load_experiment("scenes", [*small, *overrides]))


def test_pairs_and_readers_are_at_most_the_training_images_and_shards(tmp_path: Path) -> None:
    graph(tmp_path, "distill.pairs=[38]")
    with pytest.raises(ConfigError, match=r"distill\.pairs \(100\) is more than the training images \(38\): lower it"):
        graph(tmp_path, "distill.pairs=[100]")
    with pytest.raises(ConfigError, match=r"experts\.readers \(64\) is more than the training shards \(4\): lower it"):
        graph(tmp_path, "experts.readers=64", "data.shard_images=10")
    # Each of the three groups may end with a shard that is not full.
    graph(tmp_path, "experts.readers=6", "data.shard_images=10", "data.group_images=15")


def test_limits_are_at_most_the_images_of_the_source(tmp_path: Path) -> None:
    graph(tmp_path, "data.train_images=38", "distill.pairs=[5]")
    with pytest.raises(ConfigError, match=r"data\.train_images \(41\) is more than the source has \(40\): lower it or"):
        graph(tmp_path, "data.train_images=41", "distill.pairs=[5]")


def test_limits_are_at_most_what_a_draw_of_the_splits_can_leave(tmp_path: Path) -> None:
    """Of 200 images, about 10 are drawn for each of the splits that the table lacks."""
    graph(tmp_path, "data.train_images=198", "data.val_images=8", "data.test_images=25", images=200)
    taken = r"data\.test_images \(5000\) is more than data\.split\.test takes \(0\.05 of 200 images, about 10\): lower it"
    with pytest.raises(ConfigError, match=taken):
        graph(tmp_path, "data.test_images=5000", images=200)
    with pytest.raises(ConfigError, match=r"data\.val_images \(150\) is more than data\.split\.val takes"):
        graph(tmp_path, "data.train_images=150", "data.val_images=150", images=200)
    with pytest.raises(ConfigError, match=r"data\.train_images \(200\) is more than data\.split leaves \(at most 198 of 200\)"):
        graph(tmp_path, "data.train_images=200", images=200)


def test_variants_with_the_same_data_are_compared_with_its_images(tmp_path: Path) -> None:
    one = graph(tmp_path).experiment
    more = one.model_copy(update={"distill": one.distill.model_copy(update={"pairs": [39]})})
    with pytest.raises(ConfigError, match=r"distill\.pairs \(39\) is more than the training images \(38\)"):
        StudyGraph({"one": one, "more": more})


def test_a_draw_of_the_splits_may_differ_from_the_expected_sizes(tmp_path: Path) -> None:
    """Each of these is possible, although 0.75 validation images, or 900 training images, are expected."""
    graph(tmp_path, "distill.pairs=[13]", images=15)
    graph(tmp_path, "distill.pairs=[940]", images=1000)
    with pytest.raises(ConfigError, match=r"distill\.pairs \(950\) is more than the training images \(947\)"):
        graph(tmp_path, "distill.pairs=[950]", images=1000)


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("{val: 0.05, test: 0}", r"data\.split\.test: 0 leaves no test image, and the source has no test split: raise it"),
        (
            "{val: 0.001, test: 0.1}",
            r"data\.split\.val: 0\.001 of 40 images probably leaves no val image, and the source has no val split",
        ),
    ],
)
def test_fractions_leave_an_image_for_each_split_that_the_source_lacks(tmp_path: Path, split: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        graph(tmp_path, f"data.split={split}")
