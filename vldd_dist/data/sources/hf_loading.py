"""Opening data sets with the library `datasets`, whose many kinds of exceptions become DataError or, in an outage,
StoreError."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vldd_dist.errors import DataError, MissingData, message_of
from vldd_dist.extras import how_to_add
from vldd_dist.store.user_files.reachability import check_reachable

# A folder with one of these files was written by `save_to_disk`.
SAVED = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Rows:
    """A split of a data set.

    Attributes:
        opened: an IterableDataset of `datasets`, or a Dataset if it was written by `save_to_disk`.
        columns: names of the columns.
        streamed: whether `opened` is an IterableDataset.
        positions: the number of positions for a `Part`: the files of a stream, or the rows of a saved data set.
        count: number of rows; None: not known.
    """

    opened: Any
    columns: list[str]
    streamed: bool
    positions: int
    count: int | None

    def between(self, start: int, stop: int, image_column: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(key, location, row) of each row of the files [start, stop), or of the rows [start, stop) of a saved data set. Images
        are left encoded.

        Raises:
            Exception: of many kinds, which `loading` turns into DataError or StoreError.
        """
        from datasets import Image

        opened = self.opened
        if opened.features is None or not isinstance(opened.features[image_column], dict):
            opened = opened.cast_column(image_column, Image(decode=False))
        if not self.streamed:
            for number in range(start, stop):
                yield f"{number:09d}", f"row {number}", opened[number]
            return
        for file in range(start, stop):
            for number, row in enumerate(opened.shard(num_shards=self.positions, index=file)):
                yield f"{file:05d}-{number:06d}", f"file {file}, row {number}", row


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Turns any error of the `with` block into DataError, except what `check_reachable` raises for faults of the network or the
    machine."""
    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except ImportError as error:
        raise DataError(f"data.source: the library `{error.name}` is not installed: {how_to_add('hf')}") from None
    except Exception as error:
        if "OfflineMode" in f"{type(error).__name__}: {error}":
            advice = "unset HF_HUB_OFFLINE, or download the data set and name its folder"
            raise MissingData(f"data.source.path: {path} is not a folder, and HF_HUB_OFFLINE is set: {advice}") from None
        check_reachable(f"data.source: {path}", error, ", or correct data.source.path if it is meant to be a folder")
        reason = f"{type(error).__name__}: {message_of(error)}"
        raise DataError(f"data.source: {path} cannot be read ({reason}): correct path, config, revision or splits") from None


def load(path: str, config: str | None, revision: str | None, split: str) -> Rows:
    """Open a split. Only its metadata are read.

    Args:
        path: OWNER/NAME on the hub, or a folder.
        split: the data set's name for it.

    Raises:
        DataError: it cannot be read, or has no such split.
        StoreError: it cannot be reached at the moment.
    """
    with loading(path):
        import datasets

        datasets.disable_progress_bars()
        if any(os.path.isfile(os.path.join(path, name)) for name in SAVED):
            return _saved(datasets.load_from_disk(path), path, split)
        opened = datasets.load_dataset(path, config, split=split, streaming=True, revision=revision)
        columns = opened.column_names or list(next(iter(opened.take(1)), {}))
        split_info = (opened.info.splits or {}).get(split)
        return Rows(opened, columns, True, opened.num_shards, split_info.num_examples if split_info else None)


def commit_of(path: str, revision: str | None) -> str:
    """The commit of a revision of a data set on the hub.

    Raises:
        DataError: it cannot be read, or `path` is no name there.
        StoreError: the hub cannot be reached at the moment.
    """
    if path.startswith(("/", ".", "~")):
        kind = DataError if os.path.exists(path) else MissingData
        raise kind(f"data.source.path: {path} is not a folder: correct the path")
    with loading(path):
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(path, revision=revision).sha)


def _saved(opened: Any, path: str, split: str) -> Rows:
    splits = _by_name(opened)
    if split not in splits:
        raise DataError(f"data.source.splits: {path} has no split {split!r}: name one of {', '.join(map(repr, splits))}")
    rows = splits[split]
    return Rows(rows, rows.column_names, False, len(rows), len(rows))


def _by_name(opened: Any) -> dict[str, Any]:
    """The splits in what `load_from_disk` returns. A data set without splits is `train`, as `load_dataset` calls it."""
    return opened if isinstance(opened, dict) else {"train": opened}


def split_names(path: str) -> list[str]:
    """A data set's own names of its splits."""
    import datasets

    if any(os.path.isfile(os.path.join(path, name)) for name in SAVED):
        return list(_by_name(datasets.load_from_disk(path)))
    return list(datasets.get_dataset_split_names(path))
