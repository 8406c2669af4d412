"""Tables of a few images, as pandas, csv, json and pyarrow write them, and reading a source as workers do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
from pyarrow import parquet

from tests.data.sample_files import jpeg
from vldd_dist.config.base import choose
from vldd_dist.data.sources.base import Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.plugins import SOURCES

IMAGES = 12


def name_of(number: int) -> str:
    return f"photos/{'abc'[number % 3]}/{number}.jpg"


def rows(captions: int = 1) -> list[dict[str, Any]]:
    return [
        {"filepath": name_of(number), "title": f"photo {number}, view {view}"}
        for number in range(IMAGES)
        for view in range(captions)
    ]


def table(path: Path, **settings: Any) -> Source:
    source: Source = choose(SOURCES, {"name": "table", "path": str(path), **settings})
    return source


def read(source: Source, split: str = "train", images: int = 100, limit: int | None = None) -> list[Any]:
    """The samples of all parts, each read by a new source object, as in a worker."""
    found: list[RawSample | UnreadableSample] = []
    for part in source.parts(split, limit=limit, part_samples=images):
        fresh = type(source).model_validate(source.model_dump())
        found += fresh.samples(split, part, image_size=64, seed=0)
    return found


def said(samples: list[Any]) -> list[tuple[str | None, list[str]]]:
    assert all(isinstance(sample, RawSample) for sample in samples), samples
    return [(sample.identity, sample.captions) for sample in samples]


def as_csv(path: Path, content: list[dict[str, Any]], separator: str = ",") -> Path:
    pandas.DataFrame(content).to_csv(path, index=False, sep=separator)
    return path


def as_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    pandas.DataFrame(content).to_json(path, orient="records", lines=True)
    return path


def as_parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(content), path, row_group_size=5)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "csv": as_csv,
    "tsv": lambda path, content: as_csv(path, content, "\t"),
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


def make_images(folder: Path) -> None:
    """Write `IMAGES` images with different colours into three folders, and a file next to them."""
    for number in range(IMAGES):
        path = folder / name_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((20 * number, 0, 0)))
    (folder / "secret.jpg").write_bytes(b"secret")
