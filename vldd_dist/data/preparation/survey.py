"""Looking at some samples of a split before it is prepared."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from PIL import Image

from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.images import decode, resize
from vldd_dist.data.sources.base import SPLITS, Part, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError

# Parts that the samples are taken from, if there are as many, at equal distances.
PARTS = 10
THUMBNAILS, THUMBNAIL_SIDE = 12, 96
ERRORS = 5


@dataclass
class Survey:
    """What some samples of a split are like.

    Attributes:
        split: one of the source's own.
        count: samples of the whole split; none: not known without reading all.
        captions_each: captions of each readable sample.
        words: of each caption.
        widths, heights: of each readable image, pixels.
        bad: samples that cannot be used.
        errors: of the first of them.
        repeated: images whose bytes are those of an earlier one.
        thumbnails: some images, with their first captions.
    """

    split: str
    count: int | None = None
    captions_each: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    bad: int = 0
    errors: list[DataError] = field(default_factory=list)
    repeated: int = 0
    thumbnails: list[tuple[Image.Image, str]] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.captions_each) + self.bad


def survey(source: Source, split: str, *, limit: int, seed: int, image_size: int, images: int) -> Survey:
    """Look at `limit` samples of one of the source's own splits at most, from its beginning to its end.

    Args:
        image_size: pixels, for sources that draw their images.
        images: samples of a part, about.

    Raises:
        DataError: the source cannot be read.
    """
    found = Survey(split)
    parts = source.parts(split, limit=None, images=images)
    chosen = _spread(parts, limit)
    digests: set[bytes] = set()
    whole = len(chosen) == len(parts)
    for number, part in enumerate(chosen):
        share = (limit - found.read) // (len(chosen) - number)
        shown = -(-THUMBNAILS * (number + 1) // max(len(chosen), 1))
        for taken, sample in enumerate(source.samples(split, part, image_size=image_size, seed=seed)):
            if taken == share:
                whole = False
                break
            _add(found, sample, digests, shown)
    found.count = found.read if whole else source.count(split, None)
    return found


def _spread(parts: list[Part], limit: int) -> list[Part]:
    count = min(len(parts), PARTS, limit)
    return [parts[number * len(parts) // count] for number in range(count)]


def _add(found: Survey, sample: RawSample | UnreadableSample, digests: set[bytes], shown: int) -> None:
    try:
        if isinstance(sample, UnreadableSample):
            raise sample.error
        image = _image(sample)
    except DataError as error:
        found.bad += 1
        found.errors += [error] if len(found.errors) < ERRORS else []
        return
    found.captions_each.append(len(sample.captions))
    found.words += [len(caption.split()) for caption in sample.captions]
    found.widths.append(image.width)
    found.heights.append(image.height)
    digest = sha256(sample.image if isinstance(sample.image, bytes) else sample.image.tobytes()).digest()
    found.repeated += digest in digests
    digests.add(digest)
    if len(found.thumbnails) < shown:
        found.thumbnails.append((resize(image, THUMBNAIL_SIDE, "crop"), sample.captions[0]))


def _image(sample: RawSample) -> Image.Image:
    return decode(sample.image, sample.source) if isinstance(sample.image, bytes) else sample.image


def contact_sheet(surveys: list[Survey]) -> Image.Image:
    """The thumbnails, a row for each split."""
    sheet = Image.new("RGB", (THUMBNAILS * THUMBNAIL_SIDE, max(len(surveys), 1) * THUMBNAIL_SIDE), "white")
    for row, found in enumerate(surveys):
        for column, (image, _) in enumerate(found.thumbnails):
            sheet.paste(image, (column * THUMBNAIL_SIDE, row * THUMBNAIL_SIDE))
    return sheet


def rows(surveys: list[Survey]) -> Iterator[tuple[str, list[str]]]:
    """The figures as a table: name, and a text for each split."""
    yield "images", [f"{found.count:,}" if found.count is not None else "not known" for found in surveys]
    yield "looked at", [f"{found.read:,}" for found in surveys]
    yield "unreadable", [f"{found.bad:,}" for found in surveys]
    yield "equal to an earlier image", [f"{found.repeated:,}" for found in surveys]
    for name in ("captions_each", "words", "widths", "heights"):
        title = {"captions_each": "captions an image", "words": "words a caption", "widths": "width", "heights": "height"}[name]
        yield title, [_range(getattr(found, name)) for found in surveys]


def _range(values: list[int]) -> str:
    """Smallest, median and largest."""
    if not values:
        return "-"
    low, middle, high = min(values), sorted(values)[len(values) // 2], max(values)
    return f"{low:,}" if low == high else f"{low:,} .. {middle:,} .. {high:,}"


def carved_splits(data: DataSettings) -> list[str]:
    """A sentence for each split that the source lacks."""
    missing = [split for split in SPLITS if split not in data.source.own_splits()]
    return [
        f"{split}: {getattr(data.split, split):.3g} of the training images, by a hash of their names (data.split.{split})"
        for split in missing
    ]


def remarks(surveys: list[Survey], allowed: float) -> list[str]:
    """Sentences on what cannot be read.

    Args:
        allowed: data.max_bad_fraction.
    """
    said = [str(error) for found in surveys for error in found.errors]
    for found in surveys:
        if found.bad > allowed * found.read:
            said.append(
                f"{found.bad / found.read:.1%} of {found.split} is unreadable, more than data.max_bad_fraction ({allowed:g}): "
                "mend the source or raise it"
            )
    return said
