"""The built-in scenes as a source. The splits and the pretraining scenes are disjoint ranges of scene numbers."""

from typing import Any, ClassVar

from vldd_dist.data.scenes import CAPTIONS, GENERATOR_VERSION, draw_scenes
from vldd_dist.data.sources.base import Part, Samples, Source, parts_of
from vldd_dist.data.sources.sample import RawSample

OFFSETS = {"train": 0, "val": 20_000_000, "test": 40_000_000}
COUNTS = {"train": 2000, "val": 200, "test": 200}


class Scenes(Source):
    """Scenes drawn by the package; without a limit 2,000 for training, 200 for validation and 200 for the test."""

    draws_images: ClassVar[bool] = True

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        return parts_of(limit or COUNTS[split], part_samples)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        for index in range(part.start, part.stop):
            (scene,) = draw_scenes(1, seed, image_size, OFFSETS[split] + index)
            source = f"scene {index} of {split}"
            yield RawSample(
                f"{index:06d}", source, "scenes", scene.image, scene.captions, extra={"attributes": scene.attributes}
            )

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        return {"generator": GENERATOR_VERSION, "seed": seed}

    def most_samples(self, split: str, limit: int | None) -> int | None:
        return limit or COUNTS[split]

    def captions_per_image(self) -> int:
        return CAPTIONS
