"""Statistics of some samples of a split before it is prepared."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from PIL import Image

from vldd_dist.data.images import resize
from vldd_dist.data.preparation.bad_samples import ONCE
from vldd_dist.data.preparation.shared_captions import count_shared
from vldd_dist.data.sources.base import Part, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError

# The samples are taken from at most this many parts, which are spread evenly over the split.
PARTS = 10
THUMBNAILS, THUMBNAIL_SIDE = 12, 160
ERRORS = 5
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)
# With a smaller fraction of such captions, mirrored images contradict few, and "left" may well be the verb.
MOST_SIDED = 0.02


@dataclass
class Survey:
    """Statistics of some samples of a split.

    Attributes:
        split: one of the source's own splits.
        count: number of samples in the whole split; None: not known without reading all of them.
        captions: those of each readable sample.
        widths, heights: size of each readable image, pixels.
        bad: number of samples that cannot be used.
        errors: the errors of the first of them.
        sided: number of captions that say left or right, in English.
        repeated: number of images with the same bytes as an earlier one.
        thumbnails: some images, each with its first caption.
    """

    split: str
    count: int | None = None
    captions: list[list[str]] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    bad: int = 0
    errors: list[DataError] = field(default_factory=list)
    sided: int = 0
    repeated: int = 0
    thumbnails: list[tuple[Image.Image, str]] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Number of samples that were read."""
        return len(self.captions) + self.bad

    @property
    def captions_each(self) -> list[int]:
        """Number of captions of each readable sample."""
        return [len(captions) for captions in self.captions]

    @property
    def words(self) -> list[int]:
        """Number of words of each caption."""
        return [len(caption.split()) for captions in self.captions for caption in captions]


def survey(source: Source, split: str, *, limit: int, seed: int, image_size: int, part_samples: int) -> Survey:
    """Read at most `limit` samples of one of the source's own splits, spread over the whole split.

    Args:
        image_size: pixels, for sources that draw their images.
        part_samples: approximate number of samples in a part.

    Raises:
        DataError: the source cannot be read.
        StoreError: it cannot be reached at the moment.
    """
    result = Survey(split)
    parts = source.parts(split, limit=None, part_samples=part_samples)
    chosen = _spread(parts, limit)
    digests: set[bytes] = set()
    complete = len(chosen) == len(parts)
    for number, part in enumerate(chosen):
        share = (limit - result.read) // (len(chosen) - number)
        # Thumbnails up to and including this part, rounded up.
        thumbnails = -(-THUMBNAILS * (number + 1) // max(len(chosen), 1))
        for index, sample in enumerate(source.samples(split, part, image_size=image_size, seed=seed)):
            if index == share:
                complete = False
                break
            _add(result, sample, digests, thumbnails)
    result.count = result.read if complete else source.count(split, None)
    return result


def _spread(parts: list[Part], limit: int) -> list[Part]:
    count = min(len(parts), PARTS, limit)
    return [parts[number * len(parts) // count] for number in range(count)]


def _add(result: Survey, sample: RawSample | UnreadableSample, digests: set[bytes], thumbnails: int) -> None:
    """Add a sample to the statistics. `digests`: of the images so far; `thumbnails`: largest number of thumbnails so far."""
    try:
        if isinstance(sample, UnreadableSample):
            raise sample.error
        image = sample.decoded()
    except DataError as error:
        result.bad += 1
        if len(result.errors) < ERRORS:
            result.errors.append(error)
        return
    result.captions.append(sample.captions)
    result.sided += sum(SIDED.search(caption) is not None for caption in sample.captions)
    result.widths.append(image.width)
    result.heights.append(image.height)
    digest = sha256(sample.image if isinstance(sample.image, bytes) else sample.image.tobytes()).digest()
    result.repeated += digest in digests
    digests.add(digest)
    if len(result.thumbnails) < thumbnails:
        result.thumbnails.append((resize(image, THUMBNAIL_SIDE, "crop"), sample.captions[0]))


def contact_sheet(surveys: list[Survey]) -> Image.Image:
    """The thumbnails, a row for each split."""
    sheet = Image.new("RGB", (THUMBNAILS * THUMBNAIL_SIDE, max(len(surveys), 1) * THUMBNAIL_SIDE), "white")
    for row, survey in enumerate(surveys):
        for column, (image, _) in enumerate(survey.thumbnails):
            sheet.paste(image, (column * THUMBNAIL_SIDE, row * THUMBNAIL_SIDE))
    return sheet


def rows(surveys: list[Survey]) -> Iterator[tuple[str, list[str]]]:
    """The figures as a table: name, and a text for each split."""
    yield "images", [f"{survey.count:,}" if survey.count is not None else "not known" for survey in surveys]
    yield "looked at", [f"{survey.read:,}" for survey in surveys]
    yield "unreadable", [f"{survey.bad:,}" for survey in surveys]
    yield "equal to an earlier image", [f"{survey.repeated:,}" for survey in surveys]
    shared = [count_shared(survey.captions) for survey in surveys]
    yield "all, some captions shared", [f"{counts.all_shared:,}, {counts.some_shared:,}" for counts in shared]
    titles = {"captions_each": "captions per image", "words": "words per caption", "widths": "width", "heights": "height"}
    for name, title in titles.items():
        yield title, [_range(getattr(survey, name)) for survey in surveys]


def _range(values: list[int]) -> str:
    """Smallest, median and largest value."""
    if not values:
        return "-"
    low, median, high = min(values), sorted(values)[len(values) // 2], max(values)
    return f"{low:,}" if low == high else f"{low:,} .. {median:,} .. {high:,}"


def remarks(surveys: list[Survey], allowed: float, *, mirrors: bool) -> list[str]:
    """Sentences about samples that cannot be read, about images or captions that occur several times, and about captions that
    mirrored images contradict.

    Args:
        allowed: data.max_bad_fraction.
        mirrors: whether experts are trained on mirrored images too.
    """
    sentences = [str(error) for survey in surveys for error in survey.errors]
    for survey in surveys:
        if survey.bad > allowed * survey.read:
            sentences.append(
                f"{survey.bad / survey.read:.1%} of {survey.split} is unreadable, more than data.max_bad_fraction "
                f"({allowed:g}): correct the source or raise it"
            )
        if survey.repeated:
            sentences.append(f"{survey.repeated:,} images of {survey.split} equal an earlier one: {ONCE}")
        if sentence := count_shared(survey.captions).in_words(f"{survey.split} that were looked at"):
            sentences.append(sentence)
    sided, captions = (sum(counts) for counts in zip(*((one.sided, len(one.words)) for one in surveys), strict=True))
    if mirrors and sided > MOST_SIDED * captions:
        sentences.append(
            f"{sided:,} of {captions:,} captions say left or right, and experts.augment.flip mirrors images: set it to false"
        )
    return sentences
