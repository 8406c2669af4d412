"""Preparing a group of a source as canonical shards. Images are resized once, and the bytes of the tars depend only on the
content.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import torch

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import BadFacts, GroupSplitFacts, ShardFacts, ShardGroupFacts
from vldd_dist.data.files.captions import checked_captions
from vldd_dist.data.images import encode, resize
from vldd_dist.data.preparation.bad_samples import BadSamples
from vldd_dist.data.preparation.groups import Group
from vldd_dist.data.prepared.fingerprints import FINGERPRINTS
from vldd_dist.data.prepared.image_lines import ImageLine, encode_lines
from vldd_dist.data.sources.base import Part, Samples, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.events import Progress, SendReport
from vldd_dist.store.async_writer import AsyncWriter

UPLOADS_AT_ONCE = 3
# The fingerprint of an image without a name. The probability that a name has this fingerprint is 2^-64.
NAMELESS = 0


class Member(NamedTuple):
    """A prepared image.

    Attributes:
        extension, data: file extension and bytes of the encoded image.
        description: content of KEY.json.
        identity: the source's name for the image.
        fingerprint: of the bytes in the source.
    """

    key: str
    extension: str
    data: bytes
    description: dict[str, Any]
    identity: str | None
    fingerprint: int


def prepare_group(settings: DataSettings, group: Group, seed: int, writer: UnitWriter, report: SendReport) -> ShardGroupFacts:
    """Write the shards of a group. A shard is `{split}-{number:06d}.tar`, with KEY.jpg (KEY.png up to 64 px) and KEY.json for
    each image, and `{split}-{number:06d}.jsonl` (see `image_lines`). Fingerprints of images and names are written too, to find
    images that are in two splits.

    Raises:
        DataError: the source is damaged, or far more images than max_bad_fraction allows cannot be used (because they are
            unreadable or have the key of an earlier image).
    """
    with AsyncWriter(UPLOADS_AT_ONCE) as uploads:
        preparation = _Preparation(settings, group, writer, uploads)
        preparation.run(_samples(settings.source, group, settings, seed), report)
    return preparation.facts()


def _samples(source: Source, group: Group, settings: DataSettings, seed: int) -> Samples:
    for part in group.parts:
        count = 0
        for count, sample in enumerate(source.samples(group.split, part, image_size=settings.image_size, seed=seed), 1):
            _refuse_too_many(source, group.split, part, count)
            yield sample


def _refuse_too_many(source: Source, split: str, part: Part, count: int) -> None:
    """Raises AssertionError if a source, which may be a plug-in, gives more samples of a part than it has said: images of other
    parts would be taken twice."""
    if count > (most := min((bound for bound in (part.limit, part.samples) if bound is not None), default=math.inf)):
        raise AssertionError(
            f"the source {source.name} gave more than the {most:,} samples of {split} that are in a part: its `samples` must "
            f"end at part.stop ({part.stop:,}), and after part.limit samples if that is set"
        )


@dataclass
class _Split:
    """The images of a group that one split gets.

    Attributes:
        limit: their largest number; None: there is no limit.
        waiting: those of the shard that is being filled.
        images, names: the fingerprints of all of them so far, and of their names.
    """

    name: str
    limit: int | None
    waiting: list[Member] = field(default_factory=list)
    shards: list[ShardFacts] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)

    @property
    def takes_more(self) -> bool:
        return self.limit is None or len(self.images) < self.limit


class _Preparation:
    """Puts the samples of a group into shards.

    Args:
        uploads: writes the shards, while the next ones are filled.
    """

    def __init__(self, settings: DataSettings, group: Group, writer: UnitWriter, uploads: AsyncWriter) -> None:
        self.settings, self.group, self.writer, self.uploads = settings, group, writer, uploads
        self.bad, self.seen, self.processed = BadSamples(group.split, settings.max_bad_fraction), 0, 0
        self.keys: set[str] = set()
        limits = dict(group.limits)
        self.splits = {name: _Split(name, limits.get(name)) for name in group.splits}

    def run(self, samples: Samples, report: SendReport) -> None:
        """Write all shards, and then the fingerprints; then there are `facts`. Raises DataError as `prepare_group` does."""
        for split, member in self._members(samples):
            self._add(split, member)
            report(Progress(self.processed, self.group.samples))
        self._finish()

    def _members(self, samples: Samples) -> Iterator[tuple[_Split, Member | None]]:
        """(split, image) of the usable samples, until every split has reached its limit. Of a split that has reached it, images
        are None, because they need not be decoded."""
        for sample in samples:
            self.seen += 1
            if isinstance(sample, UnreadableSample):
                self.bad.add(sample.error, sample.container, self.seen)
                continue
            try:
                if not sample.key or not {".", "/"}.isdisjoint(sample.key):
                    raise DataError(f"{sample.source}: the key {sample.key!r} is empty or has a '.' or '/': correct it")
                if sample.key in self.keys:
                    raise DataError(f"{sample.source}: another image has the key {sample.key!r} too: rename one of them")
                self.keys.add(sample.key)
                split = self.splits[self.group.split_of(sample.identity or sample.key)]
                member = self._member(sample) if split.takes_more else None
            except DataError as error:
                self.bad.add(error, sample.container, self.seen)
                continue
            yield split, member
            if not any(one.takes_more for one in self.splits.values()):
                return

    def _add(self, split: _Split, member: Member | None) -> None:
        """Put an image into its split; None: count it only."""
        self.processed += 1
        if member is None:
            return
        split.images.append(member.fingerprint)
        split.names.append(_fingerprint(member.identity.encode()) if member.identity else NAMELESS)
        split.waiting.append(member)
        if len(split.waiting) == self.settings.shard_images:
            self._write(split)

    def _finish(self) -> None:
        fingerprints = {}
        for split in self.splits.values():
            if split.waiting:
                self._write(split)
            if split.images:
                fingerprints[f"{split.name}.images"] = torch.tensor(split.images, dtype=torch.int64)
                fingerprints[f"{split.name}.names"] = torch.tensor(split.names, dtype=torch.int64)
        self.writer.put(FINGERPRINTS, tensors.encode(fingerprints))

    def facts(self) -> ShardGroupFacts:
        worst, most = (self.bad.of_container.most_common(1) or [("", 0)])[0]
        return ShardGroupFacts(
            splits={name: GroupSplitFacts(shards=split.shards) for name, split in self.splits.items()},
            samples=self.seen,
            bad=BadFacts(count=self.bad.count, worst=worst, in_worst=most),
        )

    def _member(self, sample: RawSample) -> Member:
        # A source may be a plug-in. A text in place of the list would become a caption for each of its letters.
        captions = checked_captions(sample.captions, f"{sample.source}: captions")
        extension, data = encode(resize(sample.decoded(), self.settings.image_size, self.settings.resize))
        description = {**sample.extra, "id": sample.key, "captions": captions}
        fingerprint = _fingerprint(sample.image if isinstance(sample.image, bytes) else data)
        return Member(sample.key, extension, data, description, sample.identity, fingerprint)

    def _write(self, split: _Split) -> None:
        members, split.waiting = split.waiting, []
        name = f"{split.name}-{len(split.shards):06d}"
        data, lines = tar_of(members)
        self.uploads.submit(lambda: self.writer.put(f"{name}.tar", data))
        self.uploads.submit(lambda: self.writer.put(f"{name}.jsonl", encode_lines(lines)))
        captions = sum(len(line.captions) for line in lines)
        split.shards.append(ShardFacts(name=name, images=len(members), captions=captions, bytes=len(data)))


def tar_of(members: list[Member]) -> tuple[bytes, list[ImageLine]]:
    """A shard, and its lines."""
    buffer, lines = io.BytesIO(), []
    # PAX headers equal those of USTAR, unless a name is long or not ASCII.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, extension, image, description, identity, _ in members:
            _add(tar, f"{key}.{extension}", image)
            padding = -len(image) % tarfile.BLOCKSIZE
            lines.append(ImageLine(key, description["captions"], tar.offset - padding - len(image), len(image), identity))
            _add(tar, f"{key}.json", json.dumps(description, ensure_ascii=False, sort_keys=True).encode())
    return buffer.getvalue(), lines


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's defaults (no owner, time 0) make the bytes of every run identical.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _fingerprint(data: bytes) -> int:
    """The first 64 bits of the sha256, as int64."""
    return int.from_bytes(sha256(data).digest()[:8], "big", signed=True)
