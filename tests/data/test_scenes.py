"""The built-in scenes: reproducible, disjoint, and described by their captions."""

from collections import Counter

import numpy as np

from vldd_dist.data.scenes import ATTRIBUTE_NAMES, attribute_vector, draw_scenes
from vldd_dist.data.sources.scenes import OFFSETS
from vldd_dist.experts.pretraining import PRETRAINING_OFFSET


def test_scenes_are_a_function_of_seed_and_number() -> None:
    whole, part = draw_scenes(6, seed=3, size=32), draw_scenes(2, seed=3, size=32, offset=4)
    for scene, again in zip(whole[4:], part, strict=True):
        assert np.array_equal(np.asarray(scene.image), np.asarray(again.image))
        assert scene.captions == again.captions
    assert not np.array_equal(np.asarray(draw_scenes(1, 4, 32)[0].image), np.asarray(whole[0].image))


def test_splits_and_pretraining_share_no_image() -> None:
    offsets = (*OFFSETS.values(), PRETRAINING_OFFSET)
    images = [scene.image.tobytes() for offset in offsets for scene in draw_scenes(50, 0, 16, offset)]
    assert len(set(images)) == len(images)


def test_captions_tell_what_the_attributes_say() -> None:
    for scene in draw_scenes(50, seed=0, size=32):
        assert len(set(scene.captions)) == 5
        shapes = scene.attributes[:2]
        colours = scene.attributes[2:4]
        for caption in scene.captions:
            assert all(word in caption for word in (*shapes, *colours, scene.attributes[6]))
        vector = attribute_vector(scene)
        assert vector.shape == (len(ATTRIBUTE_NAMES),)
        assert {ATTRIBUTE_NAMES[i] for i in vector.nonzero().flatten().tolist()} == set(scene.attributes)


def test_captions_of_different_images_rarely_collide() -> None:
    counts = Counter(caption for scene in draw_scenes(400, seed=0, size=8) for caption in scene.captions)
    assert sum(count - 1 for count in counts.values()) / counts.total() < 0.02
