"""One image with its captions, as a source returns it."""

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vldd_dist.data.images import decode, on_white
from vldd_dist.errors import DataError


@dataclass(frozen=True)
class RawSample:
    """A sample as it lies in a source.

    Attributes:
        key: unique among all samples of the source's split, without '.' and '/'.
        source: where the sample came from, for error messages.
        container: the shard or folder that holds it, by which bad samples are counted.
        image: encoded bytes, or an image that is already decoded.
        captions: at least one; none is empty.
        identity: the source's name for the image, which is the same in every split; None: the source has no such name.
        extra: further metadata as plain JSON values, stored in KEY.json beside `id`, the key, and `captions`.
    """

    key: str
    source: str
    container: str
    image: bytes | Image.Image
    captions: list[str]
    identity: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def decoded(self) -> Image.Image:
        """The image, decoded: RGB, transparent pixels on white."""
        return decode(self.image, self.source) if isinstance(self.image, bytes) else on_white(self.image)


@dataclass(frozen=True)
class UnreadableSample:
    """A sample whose image or captions cannot be read: `error` says why and where, `container` is its shard or folder."""

    container: str
    error: DataError
