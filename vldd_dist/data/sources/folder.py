"""A folder of images, each with a text file of captions beside it."""

import logging
import math
import os
import posixpath
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.captions import checked_captions, lines_of
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.image_names import IMAGE_EXTENSIONS, has_image_extension, has_other_image_extension
from vldd_dist.data.files.reading import reading
from vldd_dist.data.files.versions import listing, would_list
from vldd_dist.data.sources.base import SPLIT_OF, SPLIT_WORD, SPLITS, Part, Samples, Source, parts_of, split_called
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError, MissingData
from vldd_dist.store.user_files.opening import local_path

# Largest number of parts of a split, because the worker of each part lists the whole folder.
MOST_PARTS = 64

logger = logging.getLogger(__name__)


class Folder(Source):
    """Images (jpg, jpeg, png, webp) at any depth, in the order of their paths. The captions of `a/b.jpg` are the lines of
    `a/b.txt`; an image of another format with captions is a bad sample. Images below a top-level folder `val` or `test` (or
    validation, valid, dev, testing) belong to that split, all others to `train`. Hidden files and folders are ignored, and
    links to folders are not followed."""

    path: Annotated[str, LOCATION] = Field(description="The folder: a path or an fsspec URL.")
    caption_extension: str = Field("txt", pattern=r"^\w+$", description="Extension of the caption files.")

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split == "train" or split in self._images)

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """Positions count images. A large folder has larger parts (see `MOST_PARTS`)."""
        count = len(self._images.get(split, [])[:limit])
        return parts_of(count, max(part_samples, math.ceil(count / MOST_PARTS)))

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        names = self._images.get(split, [])[part.start : part.stop]
        data = self._folder.read_all(names)
        texts = self._folder.read_all(map(self._caption_file, names))
        for number, (name, image, text) in enumerate(zip(names, data, texts, strict=True), part.start):
            source = one_line(self._folder.path(name))
            try:
                if not has_image_extension(name):
                    raise DataError(f"{source}: only {', '.join(IMAGE_EXTENSIONS)} are read: convert it, or remove it")
                captions = self._captions(name, text)
                if isinstance(image, DataError):
                    raise image
            except DataError as error:
                yield UnreadableSample(self.path, error)
            else:
                container = one_line(posixpath.dirname(self._folder.path(name)))
                yield RawSample(f"{number:08d}", source, container, image, captions, one_line(name))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """A digest of the paths, sizes and times of the last change (or a server's equivalent) of images and captions."""
        digest = sha256()
        for name in self._images.get(split, [])[part.start : part.stop]:
            for path in (name, self._caption_file(name)):
                digest.update(repr((path, self._listing.get(path))).encode())
        return {"files": digest.hexdigest()}

    def known_count(self, split: str) -> int:
        """From the listing."""
        return len(self._images.get(split, []))

    def would_include(self, folder: str) -> bool:
        return would_list(self.path, folder)

    def check(self, split: str) -> None:
        """Also logs a warning if there are caption files without an image."""
        super().check(split)
        if split == "train":
            used = {self._caption_file(name) for names in self._images.values() for name in names}
            ending = f".{self.caption_extension}"
            alone = sorted(name for name in self._listing if name.endswith(ending) and name not in used)
            if alone:
                logger.warning(
                    "data.source.path: %s files without an image beside them are not used; the first is %s",
                    f"{len(alone):,} {ending}",
                    one_line(self._folder.path(alone[0])),
                )

    def _caption_file(self, name: str) -> str:
        return f"{posixpath.splitext(name)[0]}.{self.caption_extension}"

    def _captions(self, name: str, text: bytes | DataError) -> list[str]:
        where = one_line(self._folder.path(self._caption_file(name)))
        if self._caption_file(name) not in self._listing:
            raise DataError(f"{where}: missing: write one caption per line, or remove {one_line(name)}")
        if isinstance(text, DataError):
            raise DataError(f"{where}: {text}")
        try:
            return checked_captions(lines_of(text.decode("utf-8-sig")), where)
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8: save it as UTF-8") from None

    @cached_property
    def _folder(self) -> ImageFolder:
        return ImageFolder(self.path, "data.source.path")

    @cached_property
    def _images(self) -> dict[str, list[str]]:
        """Split -> its images in the order of their paths, with those of other formats that have captions."""
        with_image = {self._caption_file(name) for name in self._listing if has_image_extension(name)}
        # A photo and its conversion beside it are one sample.
        only_other = {name for name in self._listing if name.endswith(f".{self.caption_extension}")} - with_image
        images: dict[str, list[str]] = {}
        for name in sorted(self._listing):
            if has_image_extension(name) or (has_other_image_extension(name) and self._caption_file(name) in only_other):
                top, slash, _ = name.partition("/")
                split = (split_called(top) if slash else None) or "train"
                images.setdefault(split, []).append(name)
        self._refuse_linked_splits()
        self._refuse_misnamed_splits(images.get("train", []))
        self._refuse_shared_captions([name for of_split in images.values() for name in of_split])
        if not images:
            raise DataError(f"data.source.path: {self.path} has no images ({', '.join(IMAGE_EXTENSIONS)}): correct the path")
        return images

    def _refuse_linked_splits(self) -> None:
        """Raises DataError if the folder of a split is a link: its images would be left out, and the split made from others."""
        local = local_path(self.path)
        if local is None:
            return
        with reading(f"data.source.path: {self.path}"):
            links = [entry.name for entry in os.scandir(local) if entry.is_symlink() and entry.is_dir()]
        for name in sorted(links):
            split = split_called(name)
            target = os.path.relpath(os.path.realpath(os.path.join(local, name)), os.path.realpath(local))
            # A link such as `validation` to the folder `val` beside it leads to what is read anyway.
            if split is not None and split_called(target.split(os.sep)[0]) != split:
                raise DataError(
                    f"data.source.path: {one_line(self._folder.path(name))} is a link to a folder, and these are not followed: "
                    f"put the {split} folder itself there, or remove the link"
                )

    def _refuse_misnamed_splits(self, names: list[str]) -> None:
        """Raises DataError if training images are in a folder such as `val2017`, which is meant as another split."""
        for top in sorted({name.partition("/")[0] for name in names if "/" in name}):
            word = SPLIT_WORD.match(top)
            if word is not None and (split := SPLIT_OF[word[0].lower()]) != "train":
                raise DataError(
                    f"data.source.path: {one_line(self._folder.path(top))} would be trained on, because it is not called "
                    f"{split}: rename it to {split}, or so that its name does not begin with {word[0]!r}"
                )

    def _refuse_shared_captions(self, names: list[str]) -> None:
        """Raises DataError if two images have the same caption file: each would be a wrong answer for the other's captions."""
        image_of: dict[str, str] = {}
        for name in names:
            other = image_of.setdefault(self._caption_file(name), name)
            if other != name:
                raise DataError(
                    f"data.source.path: {one_line(self._folder.path(other))} and {one_line(name)} have the same caption file, "
                    f"{one_line(self._caption_file(name))}: remove or rename one of the images"
                )

    @cached_property
    def _listing(self) -> dict[str, str]:
        """Path -> version of each file that is not hidden."""
        local = local_path(self.path)
        if local is not None and not os.path.isdir(local):
            kind = DataError if os.path.exists(local) else MissingData
            raise kind(f"data.source.path: {self.path} is not a folder: correct the path")
        with reading(f"data.source.path: {self.path}"):
            return listing(self.path)
