"""The built-in scenes as a source: the three splits and the pretraining scenes are disjoint ranges of numbers."""

from collections.abc import Iterator
from typing import Any

from vldd_dist.config.data import SCENES_BY_DEFAULT, DataSettings
from vldd_dist.data.scenes import GENERATOR_VERSION, draw_scenes
from vldd_dist.data.sources.sample import RawSample

OFFSETS = {"train": 0, "val": 20_000_000, "test": 40_000_000}


def samples(settings: DataSettings, split: str, seed: int) -> Iterator[RawSample]:
    count = getattr(settings, f"{split}_images") or SCENES_BY_DEFAULT[split]
    for index in range(count):
        (scene,) = draw_scenes(1, seed, settings.image_size, OFFSETS[split] + index)
        source = f"scene {index} of {split}"
        yield RawSample(f"{index:06d}", source, "scenes", scene.image, scene.captions, {"attributes": scene.attributes})


def describe(settings: DataSettings) -> dict[str, Any]:
    return {"source": "scenes", "generator": GENERATOR_VERSION}
