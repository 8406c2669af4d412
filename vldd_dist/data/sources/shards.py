"""Existing WebDataset shards, ours or img2dataset's, from any fsspec URL."""

from collections.abc import Iterator
from typing import Any

import fsspec

from vldd_dist.data.opener import open_shard
from vldd_dist.data.shards import captions_of, expand, image_of, reading, samples_of
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.settings import DataSettings


def samples(settings: DataSettings, split: str, seed: int) -> Iterator[RawSample | UnreadableSample]:
    limit, taken = getattr(settings, f"{split}_images"), 0
    for number, url in enumerate(expand(getattr(settings, split))):
        with reading(f"data.{split}: the shard {url}"):
            opened = open_shard(url)
        with opened as file:
            for sample in samples_of(url, file):
                if limit is not None and taken == limit:
                    return
                taken += 1
                try:
                    yield _raw(sample, number, url)
                except DataError as error:
                    yield UnreadableSample(url, error)


def _raw(sample: dict[str, Any], number: int, url: str) -> RawSample:
    source = f"{url}: {sample['__key__']}"
    image = image_of(sample)
    if image is None:
        raise DataError(f"{source}: no picture (.jpg, .png or .webp)")
    return RawSample(f"{number:05d}-{_plain(sample['__key__'])}", source, url, image, captions_of(sample, source))


def describe(settings: DataSettings) -> dict[str, Any]:
    """Sizes tell versions of a shard apart without reading terabytes; names do not matter."""
    sizes: dict[str, list[tuple[str, int]]] = {}
    for split in ("train", "val", "test"):
        sizes[split] = []
        for url in expand(getattr(settings, split)):
            with reading(f"data.{split}: the shard {url}"):
                filesystem, path = fsspec.core.url_to_fs(url)
                sizes[split].append((url.rpartition("/")[2], filesystem.size(path)))
    return {"source": "shards", "shards": sizes}


def _plain(key: str) -> str:
    """Without folders and dots (`./a`, `v1.0/a`): a key written to a tar ends at its first dot when read back."""
    return key.removeprefix("./").replace("/", "-").replace(".", "_")
