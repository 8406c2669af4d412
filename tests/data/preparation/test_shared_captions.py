"""Captions that several images of a split have."""

import logging
from pathlib import Path

import pytest

from tests.data.sample_files import jpeg, tar
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import SharedCaptions
from vldd_dist.data.preparation.shared_captions import count_shared
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare


def test_images_with_captions_of_another_image_are_counted() -> None:
    """A caption that one image has twice is its own."""
    images = [["a", "b"], ["b", "a", "a"], ["b", "c"], ["d", "d"], ["A"], ["e"]]
    assert count_shared(images) == SharedCaptions(images=6, all_shared=2, some_shared=1)
    assert count_shared([]).in_words("val") is count_shared([["a"], ["b"]]).in_words("val") is None


def test_captions_are_compared_within_each_split_over_all_groups(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def write(name: str, captions: list[str]) -> None:
        members = {}
        for number, caption in enumerate(captions):
            members |= {f"{number}.jpg": jpeg((60 * number, 40 * len(name), ord(name[-1]))), f"{number}.txt": caption.encode()}
        tar(tmp_path / f"{name}.tar", members)

    write("train", ["a cat", "a cat", "x"])
    write("val0", ["a cat", "x"])
    write("val1", ["y", "z"])
    write("test0", ["a dog", "a cat", "a bird"])
    write("test1", ["a dog", "a fish"])
    source = {"name": "shards"} | {split: f"{tmp_path}/{split}*.tar" for split in ("train", "val", "test")}
    facts = prepare(store, DataSettings(source=source, image_size=16)).facts
    assert facts.shared_captions == {
        "val": SharedCaptions(images=4, all_shared=0, some_shared=0),
        "test": SharedCaptions(images=5, all_shared=2, some_shared=0),
    }
    assert "of 5 images of test, 2 have only captions that another one has too: recall and" in caplog.text
    assert "images of val, " not in caplog.text
