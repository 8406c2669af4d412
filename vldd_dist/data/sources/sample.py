"""One image with its captions, as a source gives it."""

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vldd_dist.errors import DataError


@dataclass(frozen=True)
class RawSample:
    """Attributes:
    key: unique among all samples of the source's split, without '.' and '/'.
    source: where it came from, for error messages.
    container: the shard or folder it lies in, for counting what is bad.
    image: encoded bytes, or an image already decoded.
    captions: at least one, none empty.
    identity: what the source calls the image, the same in whatever split it occurs; none: the source has no such name.
    extra: further plain-JSON facts, kept in KEY.json.
    """

    key: str
    source: str
    container: str
    image: bytes | Image.Image
    captions: list[str]
    identity: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnreadableSample:
    """A sample without an image or captions: `error` says which and where, `container` is its shard or folder."""

    container: str
    error: DataError
