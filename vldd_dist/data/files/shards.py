"""Reading samples from WebDataset tars. Nothing is unpickled, and no command is run."""

import glob
import io
import math
import re
from collections.abc import Iterator
from typing import Any

import braceexpand
import fsspec
from webdataset import utils
from webdataset.tariterators import base_plus_ext

from vldd_dist.control_characters import one_line
from vldd_dist.data.files.json_files import parse_json
from vldd_dist.data.files.outages import reading
from vldd_dist.data.files.range_reader import register_openers
from vldd_dist.data.files.tars import MAX_MEMBER_BYTES, members_of
from vldd_dist.errors import DataError

# Makes webdataset refuse pickles and commands in URLs and members' names.
utils.enforce_security = True
register_openers()

MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)", re.ASCII)
_LIST = re.compile(r"\{([^{}]*)\}")
# Members such as `__meta__/...`, which webdataset ignores too.
META_MEMBER = re.compile(r"__[^/]*__($|/)")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def samples_of(name: str, data: io.BufferedIOBase) -> Iterator[dict[str, Any]]:
    """The samples of one tar in order, each {"__key__": str, extension: bytes, ...}. If a sample cannot be used, its
    "__fault__" is the reason.

    Raises:
        DataError: the tar is incomplete, or a member's name points outside its folder.
    """
    sample: dict[str, Any] = {}
    for member, content in members_of(name, data):
        key, extension = base_plus_ext(member)
        if key is None or META_MEMBER.match(member):
            continue
        if key.startswith("/") or ".." in key.split("/"):
            raise DataError(f"{name}: member {one_line(key)!r} points outside the shard: the tar is rejected")
        if sample.get("__key__") != key:
            if sample:
                yield sample
            sample = {"__key__": key}
        _add(sample, member, extension.lower(), content)
    if sample:
        yield sample


def _add(sample: dict[str, Any], member: str, extension: str, content: bytes | None) -> None:
    if content is None:
        sample["__fault__"] = f"{one_line(member)} is larger than {MAX_MEMBER_BYTES >> 20} MiB"
    elif extension in ("__key__", "__fault__"):
        sample["__fault__"] = f"{one_line(member)} has an extension that is not allowed"
    elif extension in sample:
        sample["__fault__"] = f"{one_line(member)} occurs twice"
    else:
        sample[extension] = content


def image_of(sample: dict[str, Any]) -> bytes | None:
    """The sample's encoded image; None if it has none."""
    return next((sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample), None)


def captions_of(sample: dict[str, Any], source: str) -> list[str]:
    """Captions from KEY.json ("captions": [...] or img2dataset's "caption": "..."), or the one caption in KEY.txt.

    Raises:
        DataError: there are none, or only empty ones, or they are not JSON or not UTF-8.
    """
    captions: object = None
    if "json" in sample:
        tree = parse_json(sample["json"], f"{source}.json")
        if isinstance(tree, dict):
            captions = tree.get("captions", tree.get("caption"))
        where = f"{source}.json: captions"
    else:
        where = f"{source}.txt"
        try:
            captions = sample["txt"].decode("utf-8-sig") if "txt" in sample else None
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8: save it as UTF-8") from None
    return checked_captions([captions] if isinstance(captions, str) else captions, where)


def checked_captions(captions: object, where: str) -> list[str]:
    """The captions without surrounding white space.

    Raises:
        DataError: there are none, they are not texts, or one contains a lone surrogate (half a character, which JSON can
            express but UTF-8 cannot).
    """
    if captions is None:
        raise DataError(f"{where}: missing: each image needs a list of captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: expected a list of texts")
    stripped = [caption.strip() for caption in captions if caption.strip()]
    if not stripped:
        raise DataError(f"{where}: empty: give at least one caption, or remove the image")
    for caption in stripped:
        if not is_text(caption):
            raise DataError(f"{where}: {one_line(caption)!r} contains half of a surrogate pair: correct the text")
    return stripped


def is_text(text: str) -> bool:
    """Whether the text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(pattern: str) -> list[str]:
    """The URLs of a pattern: parts separated by '::', with {000..012} braces and globs. The URLs of a glob are sorted.

    Raises:
        DataError: a part matches nothing, is malformed, means more than MOST_SHARDS shards, or its file system cannot be
            reached.
    """
    urls: list[str] = []
    for part in pattern.split("::"):
        # Checked first, because expanding the braces needs memory for all names.
        if _count(part) > MOST_SHARDS:
            raise DataError(f"{part[:200]}: the braces expand to more than {MOST_SHARDS:,} shards: correct the pattern")
        with reading(part):
            candidates = list(braceexpand.braceexpand(part))
        for candidate in candidates:
            with reading(candidate):
                matches = sorted(_glob(candidate)) if glob.has_magic(candidate) else [candidate]
            if not matches:
                raise DataError(f"{candidate}: matches no shard: correct the pattern")
            urls.extend(matches)
    return urls


def _count(pattern: str) -> float:
    """An upper bound of the number of names that the braces of a pattern expand to."""
    ranges, lists = _RANGE.findall(pattern), _LIST.findall(pattern)
    if any(len(bound) > 20 for pair in ranges for bound in pair):
        return math.inf
    return math.prod([abs(int(last) - int(first)) + 1 for first, last in ranges] + [text.count(",") + 1 for text in lists])


def _glob(pattern: str) -> list[str]:
    if "://" not in pattern:
        return glob.glob(pattern)
    filesystem, path = fsspec.core.url_to_fs(pattern)
    # A cached listing may be out of date.
    filesystem.invalidate_cache()
    return [filesystem.unstrip_protocol(match) for match in filesystem.glob(path)]
