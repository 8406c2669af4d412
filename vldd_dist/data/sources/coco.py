"""The files that COCO publishes: captions_train2017.json etc. and the folders of their images."""

import posixpath
from functools import cached_property, partial
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.captions import checked_captions
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.json_files import read_json
from vldd_dist.data.files.pinned import Pinned
from vldd_dist.data.files.reading import reading
from vldd_dist.data.files.versions import content_version
from vldd_dist.data.sources.base import SPLITS, Part, Samples, Source, parts_of
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.opening import local_path

_CAPTIONS = "Caption file of the {} split (captions_*.json), a path or a URL{}."
_IMAGES = (
    "Folder of the images in the {} split, a path or an fsspec URL. The caption file identifies the prepared data: they are "
    "used again if only the images change or move."
)


class _Content(NamedTuple):
    """Content of a caption file.

    Attributes:
        images: the entries of the list `images`.
        captions: image id -> captions of the image.
    """

    images: list[Any]
    captions: dict[Any, list[Any]]


class _Image(NamedTuple):
    """An entry of the list `images`.

    Attributes:
        name: path of the file in the folder.
        error: why the entry cannot be used.
    """

    name: str
    captions: list[str]
    error: DataError | None = None


class Coco(Source):
    """A caption file and a folder of images for each split. Splits without a file are made from `train` by `data.split`."""

    train: Annotated[str, LOCATION] = Field(description=_CAPTIONS.format("training", ""))
    train_images: Annotated[str, LOCATION] = Field(description=_IMAGES.format("training"))
    val: Annotated[str | None, LOCATION] = Field(
        None, description=_CAPTIONS.format("validation", "; null: the split is made from `train` by `data.split`")
    )
    val_images: Annotated[str | None, LOCATION] = Field(None, description=_IMAGES.format("validation"))
    test: Annotated[str | None, LOCATION] = Field(
        None, description=_CAPTIONS.format("test", "; null: the split is made from `train` by `data.split`")
    )
    test_images: Annotated[str | None, LOCATION] = Field(None, description=_IMAGES.format("test"))

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Coco":
        for split in SPLITS:
            if (getattr(self, split) is None) != (getattr(self, f"{split}_images") is None):
                raise ValueError(f"{split} and {split}_images belong together: set both or neither")
        return self

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """Positions count images, in the order of the file."""
        count = len(self._files[split].content.images)
        return parts_of(count if limit is None else min(count, limit), part_samples)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        folder = ImageFolder(getattr(self, f"{split}_images"), f"data.source.{split}_images")
        content = self._files[split].content
        images = [_image(content, entry, folder) for entry in content.images[part.start : part.stop]]
        data = folder.read_all(image.name for image in images if image.error is None)
        for number, image in enumerate(images, part.start):
            data_or_error = image.error or next(data)
            if isinstance(data_or_error, bytes):
                source, container = one_line(folder.path(image.name)), one_line(folder.location)
                identity = one_line(image.name if self._one_folder else f"{split}/{image.name}")
                yield RawSample(f"{number:08d}", source, container, data_or_error, image.captions, identity)
            else:
                where = f"{getattr(self, split)}: images[{number}]"
                yield UnreadableSample(folder.location, DataError(f"{where}: {data_or_error}"))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """The caption file identifies the images too, so that a cluster without access to them finds the prepared unit."""
        return {"captions": self._files[split].version, "one_folder": self._one_folder}

    def known_count(self, split: str) -> int:
        """From the caption file."""
        return len(self._files[split].content.images)

    @property
    def _one_folder(self) -> bool:
        """Whether all splits share one folder of images. Then a name identifies an image; otherwise the split is needed too."""
        return len({_normalised(getattr(self, f"{split}_images")) for split in self.own_splits()}) == 1

    @cached_property
    def _files(self) -> dict[str, Pinned[_Content]]:
        """Split -> its caption file."""
        urls = {split: getattr(self, split) for split in self.own_splits()}
        return {split: Pinned(partial(_version, url, split), partial(_read, url, split)) for split, url in urls.items()}


def _normalised(folder: str) -> str:
    """The same text for different spellings of one folder, such as `photos`, `photos/` and `./photos`."""
    local = local_path(folder)
    return folder.rstrip("/") if local is None else posixpath.normpath(local)


def _image(content: _Content, entry: Any, folder: ImageFolder) -> _Image:
    try:
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise DataError("file_name: missing, or not a text")
        key = entry.get("id")
        if not isinstance(key, int | str):
            raise DataError("id: missing, or neither a number nor a text")
        captions = checked_captions(content.captions[key], f"the annotations of image_id {key!r}")
        return _Image(folder.relative(entry["file_name"]), captions)
    except DataError as error:
        return _Image("", [], error)


def _version(url: str, split: str) -> str:
    with reading(f"data.source.{split}: {url}"):
        return content_version(url)


def _read(url: str, split: str) -> _Content:
    """Read a caption file. Raises DataError if it cannot be read or is inconsistent."""
    tree = read_json(url, f"data.source.{split}: {url}")
    images = tree.get("images") if isinstance(tree, dict) else None
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        raise DataError(f"{url}: this is a Karpathy-style file, whose images have `sentences`: use the source `karpathy`")
    if not isinstance(images, list) or not isinstance(tree.get("annotations"), list):
        raise DataError(f"{url}: a caption file has the lists `images` and `annotations`: name captions_*.json")
    captions: dict[Any, list[Any]] = {}
    for number, image in enumerate(images):
        key = image.get("id") if isinstance(image, dict) else None
        if isinstance(key, int | str):
            if key in captions:
                raise DataError(f"{url}: images[{number}].id: another image has the id {key!r} too: correct it")
            captions[key] = []
    for number, annotation in enumerate(tree["annotations"]):
        where = f"{url}: annotations[{number}]"
        if not isinstance(annotation, dict) or "caption" not in annotation:
            raise DataError(
                f"{where}.caption: missing: files of instances and keypoints have no captions: name captions_*.json"
            )
        key = annotation.get("image_id")
        if not isinstance(key, int | str) or key not in captions:
            raise DataError(f"{where}.image_id: the file has no image {key!r}: correct it or remove the annotation")
        captions[key].append(annotation["caption"])
    return _Content(images, captions)
