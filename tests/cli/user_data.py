"""Images and captions of a user's own, and the description of an experiment on them."""

from pathlib import Path

import datasets
import pandas
import yaml

from tests.data.sample_files import jpeg
from tests.data.tables import IMAGES, make_images, name_of, rows

SPLITS = ["train", "train", "val", "test"]


def a_table(folder: Path) -> Path:
    make_images(folder)
    pandas.DataFrame(rows()).to_csv(folder / "pairs.csv", index=False)
    return folder / "pairs.csv"


def images_with_texts(folder: Path) -> Path:
    make_images(folder)
    for number in range(IMAGES):
        (folder / name_of(number)).with_suffix(".txt").write_text("a photo\nthe same")
    return folder / "photos"


def saved_by_the_library(folder: Path) -> Path:
    content = [{"image": {"bytes": jpeg((20 * number, 0, 0)), "path": None}, "text": "a photo"} for number in range(8)]
    of_rows = datasets.Dataset.from_list(content).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": of_rows, "validation": of_rows}).save_to_disk(folder / "saved")
    return folder / "saved"


def description(folder: Path, **settings: object) -> Path:
    """An experiment on a table with two captions for each image and with splits."""
    path = folder / "x.yaml"
    source = {"name": "table", "path": str(a_table(folder)), "split_column": "split"}
    content = [row | {"split": SPLITS[number // 2 % 4]} for number, row in enumerate(rows(2))]
    pandas.DataFrame(content).to_csv(source["path"], index=False)
    path.write_text(yaml.safe_dump({"name": "x", "data": {"source": source, **settings}}))
    return path
