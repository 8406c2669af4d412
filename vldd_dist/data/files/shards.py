"""Reading samples from WebDataset tars. Nothing is unpickled, and no command is run."""

import io
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from webdataset import utils
from webdataset.gopen import gopen_schemes
from webdataset.tariterators import base_plus_ext

from vldd_dist.control_characters import one_line
from vldd_dist.data.files.captions import checked_captions, lines_of
from vldd_dist.data.files.image_names import IMAGE_EXTENSIONS
from vldd_dist.data.files.json_files import parse_json
from vldd_dist.data.files.tars import members_of
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.opening import REMOTE_SCHEMES, open_url

# Makes webdataset refuse pickles and commands in URLs and members' names.
utils.enforce_security = True

# Members such as `__meta__/...`, which webdataset ignores too.
META_MEMBER = re.compile(r"__[^/]*__($|/)")
# As long as a path may be on Linux. webdataset needs a time that grows with the square of the length.
LONGEST_NAME = 4096


def samples_of(name: str, data: io.BufferedIOBase) -> Iterator[dict[str, Any]]:
    """The samples of one tar in order, each {"__key__": str, extension: bytes, ...}. If a sample cannot be used, its
    "__fault__" is the reason, with the mend. Hidden files are ignored.

    Raises:
        DataError: the tar is incomplete, or a member's name points outside its folder or is too long.
    """
    sample: dict[str, Any] = {}
    for member, content in members_of(name, data):
        if len(member) > LONGEST_NAME:
            raise DataError(
                f"{name}: a member's name has {len(member):,} characters: write a tar with names of up to {LONGEST_NAME:,}"
            )
        # Such as `d/._1.jpg`, which a Mac writes beside `d/1.jpg`: its key would be `d/`, between the members of a sample.
        if member.rpartition("/")[2].startswith("."):
            continue
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


def _add(sample: dict[str, Any], member: str, extension: str, content: bytes | str) -> None:
    if isinstance(content, str):
        sample["__fault__"] = f"{one_line(member)} {content}"
    elif extension in ("__key__", "__fault__"):
        sample["__fault__"] = f"{one_line(member)} has an extension that is not allowed: remove it"
    elif extension in sample:
        sample["__fault__"] = f"{one_line(member)} occurs twice: remove it"
    else:
        sample[extension] = content


def image_of(sample: dict[str, Any]) -> bytes | None:
    """The sample's encoded image; None if it has none."""
    return next((sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample), None)


def captions_of(sample: dict[str, Any], source: str) -> list[str]:
    """Captions from KEY.json ("captions": [...] or img2dataset's "caption": "..."), or, without these, the one in KEY.txt.

    Raises:
        DataError: there are none, or only empty ones, or they are not JSON or not UTF-8; or KEY.txt has several lines,
            which may be parts of a caption, or a caption each as in the source `folder`.
    """
    captions: object = None
    where = f"{source}.json: captions" if "json" in sample else f"{source}.txt"
    if "json" in sample:
        tree = parse_json(sample["json"], f"{source}.json")
        if isinstance(tree, dict):
            captions = tree.get("caption") if tree.get("captions") is None else tree["captions"]
    if captions is None and "txt" in sample:
        where = f"{source}.txt"
        try:
            text = captions = sample["txt"].decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8: save it as UTF-8") from None
        if (count := sum(bool(line.strip()) for line in lines_of(text))) > 1:
            raise DataError(
                f'{where}: it has {count} lines, and KEY.txt is one caption: write KEY.json with "captions": [...], or one line'
            )
    return checked_captions([captions] if isinstance(captions, str) else captions, where)


def register_openers(worker: int = 0) -> None:
    """Make plain `webdataset` open remote URLs by `open_url`. Also the `worker_init_fn` of a DataLoader that spawns processes,
    which do not inherit the registration."""
    for scheme in REMOTE_SCHEMES:
        gopen_schemes[scheme] = _gopen


def _gopen(url: str, mode: str = "rb", bufsize: int = -1, **options: Any) -> Any:
    return open_url(url) if mode == "rb" else fsspec.open(url, mode).open()


register_openers()
