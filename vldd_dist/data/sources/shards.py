"""Existing WebDataset shards, written by this package or by img2dataset, at any fsspec URL."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import is_text, one_line
from vldd_dist.data.files.image_names import has_image_extension
from vldd_dist.data.files.reading import reading
from vldd_dist.data.files.shards import captions_of, image_of, samples_of
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.data.files.versions import FileVersion, versions_of
from vldd_dist.data.sources.base import SPLITS, Part, Samples, Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.opening import local_path, open_url

# Number of members that an error names.
NAMED = 4


class Shards(Source):
    """WebDataset tars. Splits without tars of their own are made from `train` by `data.split`."""

    train: Annotated[str, LOCATION] = Field(
        description="URLs of the training tars, with globs and {000..012} braces; '::' separates several."
    )
    val: Annotated[str | None, LOCATION] = Field(
        None, description="URLs of the validation tars; null: the split is made from `train` by `data.split`."
    )
    test: Annotated[str | None, LOCATION] = Field(
        None, description="URLs of the test tars; null: the split is made from `train` by `data.split`."
    )

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """Each tar is a part. With a limit, all tars are one part, because the number of samples in a tar is not known before
        it is read."""
        count = len(self._urls[split])
        return [Part(number, number + 1) for number in range(count)] if limit is None else [Part(0, count, limit)]

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        count = 0
        for number, url in list(enumerate(self._urls[split]))[part.start : part.stop]:
            with reading(f"data.source.{split}: the shard {url}"):
                opened = open_url(url)
            with opened as file:
                for sample in samples_of(url, file):
                    if part.limit is not None and count == part.limit:
                        return
                    count += 1
                    try:
                        yield _raw(sample, number, url)
                    except DataError as error:
                        yield UnreadableSample(url, error)

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """Names of the tars without their folders, their sizes, and their ETags, checksums or times of the last change, so that
        the data need not be read; their sha256 if the file system has none of these."""
        return self._described(split, part, self._versions[split])

    def describe_only(self, split: str, parts: Sequence[Part], *, seed: int) -> list[dict[str, Any]]:
        """Only the tars of these parts are asked for their versions."""
        urls = [url for part in parts for url in self._urls[split][part.start : part.stop]]
        versions = versions_of(urls, f"data.source.{split}: the shard")
        return [self._described(split, part, versions) for part in parts]

    def _described(self, split: str, part: Part, versions: dict[str, FileVersion]) -> dict[str, Any]:
        urls = self._urls[split][part.start : part.stop]
        return {"shards": [(url.rpartition("/")[2], *versions[url]) for url in urls]}

    @cached_property
    def _versions(self) -> dict[str, dict[str, FileVersion]]:
        return {split: versions_of(urls, f"data.source.{split}: the shard") for split, urls in self._urls.items()}

    @cached_property
    def _urls(self) -> dict[str, list[str]]:
        """Split -> its tars. Raises DataError if a tar is named twice, also if under another name or through a link."""
        urls_of = {split: expand(getattr(self, split)) for split in self.own_splits()}
        named: dict[str, tuple[str, str]] = {}
        for split, urls in urls_of.items():
            for url in urls:
                local = local_path(url)
                place = url if local is None else os.path.realpath(local)
                if place in named:
                    first, other = named[place]
                    both = url if other == url else f"{url}, the same file as {other},"
                    if first == split:
                        raise DataError(
                            f"data.source.{split}: {both} is named twice: remove one of its names, patterns or links"
                        )
                    raise DataError(f"data.source: {both} is named for both {first} and {split}: remove it from one")
                named[place] = split, url
        return urls_of


def _raw(sample: dict[str, Any], number: int, url: str) -> RawSample:
    key = sample["__key__"]
    source = f"{url}: {one_line(key)}"
    if "__fault__" in sample:
        raise DataError(f"{source}: {sample['__fault__']}")
    if "\0" in key or not is_text(key):
        raise DataError(f"{source}: its name is not valid text: rename it")
    image = image_of(sample)
    if image is None:
        raise DataError(f"{source}: no image (.jpg, .png or .webp): {_instead(sample)}")
    return RawSample(f"{number:05d}-{_plain(key)}", source, url, image, captions_of(sample, source))


def _instead(sample: dict[str, Any]) -> str:
    """What a sample without an image has, and what to do."""
    extensions = [extension for extension in sample if extension != "__key__"]
    named = ", ".join(f".{one_line(extension)}" for extension in extensions[:NAMED])
    more = f" and {len(extensions) - NAMED:,} more" if len(extensions) > NAMED else ""
    if any(map(has_image_extension, extensions)):
        return f"it has {named}{more}: a key ends at the first dot of a file's name: rename the files"
    return f"it has only {named}{more}: add the image, or convert it"


def _plain(key: str) -> str:
    """The key without slashes and dots (`./a`, `v1.0/a`), because a key in a tar ends at the first dot when it is read back."""
    return key.removeprefix("./").replace("/", "-").replace(".", "_")
