"""A source, for example a plug-in, that numbers the images of each part from zero: groups repeat its keys."""

from types import SimpleNamespace
from typing import Any

import pytest

from vldd_dist.data.prepared.image_lines import ImageLine
from vldd_dist.pipeline.stages.application import starting_numbers
from vldd_dist.pipeline.stages.shared.phases import images_of_earlier_phases

REPEATED = r"the source gives the key '0' to more than one training image: its `samples` must make a key of the position in"
START: dict[str, Any] = {"images": "real", "texts": "real", "keys": ["0", "0"], "captions": ["a", "a"]}


def context(keys: str) -> Any:
    """Of a unit after a phase that started with START, where the training images have these keys, two in a shard."""
    shards = [SimpleNamespace(first=first, keys=keys[first : first + 2]) for first in range(0, len(keys), 2)]

    def lines(shard: SimpleNamespace) -> list[ImageLine]:
        return [ImageLine(key, ["a", "a"], 0, 1) for key in shard.keys]

    dataset = SimpleNamespace(
        splits={"train": SimpleNamespace(shards=shards)}, lines=lines, lines_of=lambda shards: map(lines, shards)
    )
    earlier = SimpleNamespace(facts_as=lambda kind: SimpleNamespace(start=START))
    return SimpleNamespace(
        dataset=dataset, order=SimpleNamespace(inputs={"earlier": "distillation"}), reader=lambda role: earlier
    )


def test_a_key_of_two_images_is_refused_where_images_are_found_by_their_keys() -> None:
    for finds in (images_of_earlier_phases, lambda context: starting_numbers(context, START)):
        with pytest.raises(AssertionError, match=REPEATED):
            finds(context("1020"))


def test_two_pairs_of_one_image_are_allowed() -> None:
    assert images_of_earlier_phases(context("1023")) == {1}
    numbers = starting_numbers(context("1023"), START)
    assert numbers is not None
    assert numbers.images.tolist() == [1]
