"""The images of a shard, a line of JSON each in NAME.jsonl beside NAME.tar: captions are read without the images, and an image
without the others.
"""

import json
from dataclasses import dataclass
from typing import Any

from vldd_dist.artifacts.units import UnitReader


@dataclass(frozen=True)
class ImageLine:
    """Attributes:
    key: in the tar.
    captions: at least one.
    start, size: of the encoded image's bytes in the tar.
    identity: what the source calls the image, where it has a name for it.
    """

    key: str
    captions: list[str]
    start: int
    size: int
    identity: str | None = None


def encode_lines(lines: list[ImageLine]) -> bytes:
    return "".join(json.dumps(_tree(line), ensure_ascii=False) + "\n" for line in lines).encode()


def read_lines(reader: UnitReader, shard: str) -> list[ImageLine]:
    """Of a shard of a group, by its name without ending."""
    # Split at newlines only: a caption may contain other line separators.
    return [ImageLine(**json.loads(line)) for line in reader.read(f"{shard}.jsonl").decode().split("\n")[:-1]]


def _tree(line: ImageLine) -> dict[str, Any]:
    return {name: value for name, value in vars(line).items() if value is not None}
