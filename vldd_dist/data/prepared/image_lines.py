"""The list of a shard's images: NAME.jsonl beside NAME.tar, with one line of JSON per image. It allows reading captions without
the images, and one image without the others.
"""

import json
from dataclasses import dataclass
from typing import Any

from vldd_dist.artifacts.units import UnitReader


@dataclass(frozen=True)
class ImageLine:
    """An image of a shard.

    Attributes:
        key: its key in the tar.
        captions: at least one.
        start, size: position and number of the encoded image's bytes in the tar.
        identity: the source's name for the image; None: it has none.
    """

    key: str
    captions: list[str]
    start: int
    size: int
    identity: str | None = None


def repeated_key(key: str) -> AssertionError:
    """For a source, perhaps a plug-in, that gives the same key to images of different groups: by the key alone they would be
    taken for the same image. (Within a group it is a bad sample.)"""
    return AssertionError(
        f"the source gives the key {key!r} to more than one training image: its `samples` must make a key of the position in "
        "the source, not of that in the part"
    )


def encode_lines(lines: list[ImageLine]) -> bytes:
    return "".join(json.dumps(_tree(line), ensure_ascii=False) + "\n" for line in lines).encode()


def read_lines(reader: UnitReader, shard: str) -> list[ImageLine]:
    """The images of a group's shard, whose name is given without extension."""
    # Not splitlines: a caption may contain other line separators.
    return [ImageLine(**json.loads(line)) for line in reader.read(f"{shard}.jsonl").decode().split("\n")[:-1]]


def _tree(line: ImageLine) -> dict[str, Any]:
    return {name: value for name, value in vars(line).items() if value is not None}
