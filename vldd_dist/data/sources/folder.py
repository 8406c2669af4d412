"""A folder of images with a text file of captions beside each."""

import os
import posixpath
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.image_folder import ImageFolder, local_path
from vldd_dist.data.files.shards import IMAGE_EXTENSIONS, checked_captions, reading
from vldd_dist.data.files.versions import listing
from vldd_dist.data.sources.base import SPLIT_OF, SPLITS, Part, Samples, Source, parts_of
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError


class Folder(Source):
    """Images (jpg, jpeg, png, webp) at any depth, in the order of their paths, with their captions: `a/b.jpg` and `a/b.txt`, of
    which each line is a caption. What lies in a folder `val` or `test` (or validation, valid, dev) at the top is of that split,
    all else of `train`. Hidden files and folders are left out, links to folders are not followed."""

    path: Annotated[str, LOCATION] = Field(description="The folder: a path or an fsspec URL.")
    caption_extension: str = Field("txt", pattern=r"^\w+$", description="Of the text files.")

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split == "train" or split in self._images)

    def parts(self, split: str, *, limit: int | None, images: int) -> list[Part]:
        """Positions count images."""
        return parts_of(self._count(split, limit), images)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        names = self._images.get(split, [])[part.start : part.stop]
        data = self._folder.read_all(names)
        texts = self._folder.read_all(map(self._beside, names))
        for number, (name, image, text) in enumerate(zip(names, data, texts, strict=True), part.start):
            source = one_line(self._folder.path(name))
            try:
                captions = self._captions(name, text)
                if isinstance(image, DataError):
                    raise image
            except DataError as error:
                yield UnreadableSample(self.path, error)
            else:
                container = one_line(posixpath.dirname(self._folder.path(name)))
                yield RawSample(f"{number:08d}", source, container, image, captions, one_line(name))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """Paths, sizes and times of the last change (or what a server has instead) of the images and captions."""
        digest = sha256()
        for name in self._images.get(split, [])[part.start : part.stop]:
            for each in (name, self._beside(name)):
                digest.update(repr((each, self._listing.get(each))).encode())
        return {"files": digest.hexdigest()}

    def count(self, split: str, limit: int | None) -> int | None:
        """By the listing; of a folder that cannot be read the limit, for a worker says what is wrong with it."""
        try:
            return self._count(split, limit)
        except DataError:
            return limit

    def _count(self, split: str, limit: int | None) -> int:
        return len(list(islice(self._images.get(split, []), limit)))

    def _beside(self, name: str) -> str:
        return f"{posixpath.splitext(name)[0]}.{self.caption_extension}"

    def _captions(self, name: str, text: bytes | DataError) -> list[str]:
        where = one_line(self._folder.path(self._beside(name)))
        if self._beside(name) not in self._listing:
            raise DataError(f"{where}: missing: write a caption a line, or remove {one_line(name)}")
        if isinstance(text, DataError):
            raise DataError(f"{where}: {text}")
        try:
            return checked_captions(text.decode("utf-8-sig").splitlines(), where)
        except UnicodeDecodeError:
            raise DataError(f"{where}: no UTF-8: save it as UTF-8") from None

    @cached_property
    def _folder(self) -> ImageFolder:
        return ImageFolder(self.path, "data.source.path")

    @cached_property
    def _images(self) -> dict[str, list[str]]:
        """Split -> its images in the order of their paths."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._listing):
            if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS:
                top, slash, _ = name.partition("/")
                found.setdefault(SPLIT_OF.get(top.lower(), "train") if slash else "train", []).append(name)
        if not found:
            raise DataError(f"data.source.path: {self.path} has no images ({', '.join(IMAGE_EXTENSIONS)}): correct the path")
        return found

    @cached_property
    def _listing(self) -> dict[str, str]:
        local = local_path(self.path)
        if local is not None and not os.path.isdir(local):
            raise DataError(f"data.source.path: {self.path} is no folder")
        with reading(f"data.source.path: {self.path}"):
            found = listing(self.path)
        return {name: version for name, version in found.items() if not any(part.startswith(".") for part in name.split("/"))}
