"""Existing WebDataset shards, ours or img2dataset's, from any fsspec URL."""

from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.range_reader import open_shard
from vldd_dist.data.files.shards import captions_of, expand, image_of, is_text, reading, samples_of
from vldd_dist.data.files.versions import versions_of
from vldd_dist.data.sources.base import SPLITS, Part, Samples, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError


class Shards(Source):
    """WebDataset tars. Splits without tars of their own are taken out of `train`."""

    train: Annotated[str, LOCATION] = Field(
        description="URLs of the training tars (globs, {000..012} braces, '::' between several)."
    )
    val: Annotated[str | None, LOCATION] = Field(
        None, description="URLs of the validation tars; none: taken out of `train` by `data.split`."
    )
    test: Annotated[str | None, LOCATION] = Field(None, description="The same of the test tars.")

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def parts(self, split: str, *, limit: int | None, images: int) -> list[Part]:
        """Each tar is a part. With a limit all tars are one part: how many samples a tar has is known only after reading."""
        count = len(self._urls[split])
        return [Part(number, number + 1) for number in range(count)] if limit is None else [Part(0, count, limit)]

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        taken = 0
        for number, url in list(enumerate(self._urls[split]))[part.start : part.stop]:
            with reading(f"data.source.{split}: the shard {url}"):
                opened = open_shard(url)
            with opened as file:
                for sample in samples_of(url, file):
                    if part.limit is not None and taken == part.limit:
                        return
                    taken += 1
                    try:
                        yield _raw(sample, number, url)
                    except DataError as error:
                        yield UnreadableSample(url, error)

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """Size, and ETag, checksum or time of the last change tell versions of a shard apart without reading terabytes; where
        a file system has none of these, the sha256 does. The folders are left out."""
        versions = self._versions[split]
        urls = self._urls[split][part.start : part.stop]
        return {"shards": [(url.rpartition("/")[2], *versions[url]) for url in urls]}

    @cached_property
    def _versions(self) -> dict[str, dict[str, tuple[int, str]]]:
        return {split: versions_of(urls, f"data.source.{split}: the shard") for split, urls in self._urls.items()}

    @cached_property
    def _urls(self) -> dict[str, list[str]]:
        """Split -> its tars. Raises DataError when one is a tar of two splits."""
        found = {split: expand(getattr(self, split)) for split in self.own_splits()}
        split_of: dict[str, str] = {}
        for split, urls in found.items():
            for url in urls:
                if split_of.setdefault(url, split) != split:
                    raise DataError(f"data.source: {url} is named for both {split_of[url]} and {split}: leave it out of one")
        return found


def _raw(sample: dict[str, Any], number: int, url: str) -> RawSample:
    key = sample["__key__"]
    source = f"{url}: {one_line(key)}"
    if "__fault__" in sample:
        raise DataError(f"{source}: {sample['__fault__']}: remove it")
    if "\0" in key or not is_text(key):
        raise DataError(f"{source}: its name is no text: rename it")
    image = image_of(sample)
    if image is None:
        raise DataError(f"{source}: no image (.jpg, .png or .webp)")
    return RawSample(f"{number:05d}-{_plain(key)}", source, url, image, captions_of(sample, source))


def _plain(key: str) -> str:
    """Without folders and dots (`./a`, `v1.0/a`): a key written to a tar ends at its first dot when read back."""
    return key.removeprefix("./").replace("/", "-").replace(".", "_")
