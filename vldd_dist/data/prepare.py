"""Preparing a source as canonical shards: images are resized once, and the bytes of the tars depend on the content only."""

import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.data import DataSettings
from vldd_dist.data.bad_samples import BadSamples
from vldd_dist.data.images import decode, encode, resize
from vldd_dist.data.sources.base import SPLITS, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.events import Progress, Report
from vldd_dist.store.async_writer import AsyncWriter

UPLOADS_AT_ONCE = 3

# Key, file extension and bytes of the image, content of KEY.json.
Member = tuple[str, str, bytes, dict[str, Any]]


def prepare_dataset(settings: DataSettings, seed: int, writer: UnitWriter, report: Report) -> dict[str, Any]:
    """Write `{split}-{index:06d}.tar` for the three splits, with KEY.jpg (KEY.png up to 64 px) and KEY.json for each image.

    Returns:
        Facts: `splits`: split -> {shards: [{name, images}], images, captions, bad_images}; `image_size`; `licence`.

    Raises:
        DataError: a split is empty, smaller than requested, or more than max_bad_fraction of its images cannot be used (because
            they cannot be read, or have the key of an earlier image).
    """
    preparation = _Preparation(settings, seed, writer, report)
    splits = {split: preparation.split(split) for split in SPLITS}
    return {"splits": splits, "image_size": settings.image_size, "source": settings.source.name, "licence": settings.licence}


class _Preparation:
    def __init__(self, settings: DataSettings, seed: int, writer: UnitWriter, report: Report) -> None:
        self.settings, self.seed, self.writer, self.report = settings, seed, writer, report
        self.done = 0
        self.source: Source = settings.source
        counts = [self.source.count(split, settings.limits[split]) for split in SPLITS]
        self.total = sum(count for count in counts if count) if all(counts) else None

    def split(self, split: str) -> dict[str, Any]:
        shards: list[dict[str, Any]] = []
        captions = 0
        good = self._good_members(split)
        with AsyncWriter(UPLOADS_AT_ONCE) as uploads:
            while members := list(islice(good, self.settings.shard_images)):
                name = f"{split}-{len(shards):06d}.tar"
                uploads.submit(partial(self.writer.put, name, _tar(members)))
                shards.append({"name": name, "images": len(members)})
                captions += sum(len(described["captions"]) for _, _, _, described in members)
        images = sum(shard["images"] for shard in shards)
        wanted = self.settings.limits[split]
        if images == 0:
            raise DataError(f"data: the {split} split has no images: correct data.source's files")
        if wanted is not None and images + self.bad.count < wanted:
            raise DataError(f"data.{split}_images: {wanted} asked for, the source has {images}: lower it or leave it out")
        return {"shards": shards, "images": images, "captions": captions, "bad_images": self.bad.count}

    def _good_members(self, split: str) -> Iterator[Member]:
        self.bad, seen = BadSamples(split, self.settings.max_bad_fraction), 0
        keys: set[str] = set()
        settings = self.settings
        parts = self.source.parts(split, limit=settings.limits[split], images=settings.shard_images)
        samples = (self.source.samples(split, part, image_size=settings.image_size, seed=self.seed) for part in parts)
        for sample in chain.from_iterable(samples):
            seen += 1
            if isinstance(sample, UnreadableSample):
                self.bad.add(sample.error, sample.container, seen)
                continue
            try:
                if sample.key in keys:
                    raise DataError(f"{sample.source}: its key {sample.key!r} is another image's too: rename one of them")
                keys.add(sample.key)
                member = self._member(sample)
            except DataError as error:
                self.bad.add(error, sample.container, seen)
                continue
            self.done += 1
            self.report(Progress(self.done, self.total))
            yield member
        self.bad.judge(seen)

    def _member(self, sample: RawSample) -> Member:
        image = decode(sample.image, sample.source) if isinstance(sample.image, bytes) else sample.image
        extension, data = encode(resize(image, self.settings.image_size, self.settings.resize))
        return sample.key, extension, data, {"id": sample.key, "captions": sample.captions, **sample.extra}


def _tar(members: list[Member]) -> bytes:
    buffer = io.BytesIO()
    # PAX equals plain USTAR, unless a name is long or not ASCII.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, extension, image, description in members:
            text = json.dumps(description, ensure_ascii=False, sort_keys=True).encode()
            for name, data in ((f"{key}.{extension}", image), (f"{key}.json", text)):
                # TarInfo's defaults (no owner, time 0) make the bytes of a second run identical.
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
