"""Recognising the source at a path: wrong guesses that are likely are not made, and each refusal is a one-sentence error."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from tests.data.folders_to_recognise import coco_json, csv
from tests.data.sample_files import jpeg
from tests.data.tables import IMAGES, make_images, name_of, rows
from vldd_dist.data.recognise import recognise
from vldd_dist.errors import DataError


def test_columns_of_extensions_and_paths_are_not_mistaken(tmp_path: Path) -> None:
    content = [{"kind": "jpg", "where": row["filepath"], "was": f"my photo {n}.jpg", "said": row["title"]}
               for n, row in enumerate(rows())]  # fmt: skip
    source = recognise(csv(tmp_path, content)).source
    assert (source["image_column"], source["caption_columns"]) == ("where", ["said"])


def test_a_missing_image_among_the_first_is_no_reason_to_find_none(tmp_path: Path) -> None:
    path = csv(tmp_path, [{"filepath": "lost.jpg", "title": "a lost photo"}, *rows()])
    assert recognise(path).source["name"] == "table"


def test_absolute_paths_have_the_folder_that_all_have_in_common(tmp_path: Path) -> None:
    """Of all rows, not only of the first ones."""
    content = [{"filepath": str(tmp_path / "photos" / f"{n % 2}.jpg"), "title": "a photo"} for n in range(100)]
    content.append({"filepath": str(tmp_path / "others" / "9.jpg"), "title": "a photo"})
    (tmp_path / "table").mkdir()
    path = csv(tmp_path / "table", content)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg((number, 0, 0)))
    assert recognise(path).source["image_folder"] == str(tmp_path)


def test_a_text_file_beside_the_images_is_the_table(tmp_path: Path) -> None:
    """As in Kaggle's Flickr8k. A read-me in another encoding is not taken for a table."""
    csv(tmp_path, rows(), "captions.txt")
    (tmp_path / "a-read-me.txt").write_text("these, are\nnot, captions", encoding="utf-16")
    assert recognise(str(tmp_path)).source["path"] == str(tmp_path / "captions.txt")


def test_images_that_img2dataset_wrote_as_files_have_texts_beside(tmp_path: Path) -> None:
    make_images(tmp_path)
    for number in range(IMAGES):
        (tmp_path / name_of(number)).with_suffix(".txt").write_text("a photo")
    pandas.DataFrame([{"url": "https://example.org/0.jpg", "caption": "a photo"}]).to_parquet(tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    assert recognise(str(tmp_path)).source["name"] == "folder"


def test_the_ending_that_most_images_have_beside_them(tmp_path: Path) -> None:
    make_images(tmp_path)
    for number in range(IMAGES):
        (tmp_path / name_of(number)).with_suffix(".caption").write_text("a photo")
    (tmp_path / name_of(0)).with_suffix(".txt").write_text("notes")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "small.jpg").write_bytes(jpeg((0, 0, 0)))
    found = recognise(str(tmp_path))
    assert found.source["caption_extension"] == "caption"
    # One image has no caption.
    assert f"{IMAGES + 1} images, {IMAGES} of them" in found.what


def test_a_damaged_annotation_is_no_obstacle_and_the_only_json_of_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg((0, 0, 0)))
    images = [None, {"filename": "0.jpg", "split": "train", "sentences": [{"raw": "a photo"}]}]
    (tmp_path / "mine.json").write_text(json.dumps({"images": images}))
    assert recognise(str(tmp_path)).source == {
        "name": "karpathy",
        "annotations": str(tmp_path / "mine.json"),
        "images": str(tmp_path),
    }


def test_a_json_without_captions_is_not_used_as_a_split(tmp_path: Path) -> None:
    path = coco_json(tmp_path, "captions_train.json")
    coco_json(tmp_path, "captions_val.json", annotations=[{"image_id": 0, "bbox": []}])
    assert recognise(path).source == {"name": "coco", "train": path, "train_images": str(tmp_path / "images")}


def test_columns_that_differ_in_a_number_are_all_captions(tmp_path: Path) -> None:
    """Columns of dates and numbers are not."""
    said = {"caption_0": "a photo", "caption_1": "a picture"}
    content = [{"file": row["filepath"], "date": "2020-01-01 10:00:00", "ids": "[0, 1]"} | said for row in rows()]
    assert recognise(csv(tmp_path, content)).source["caption_columns"] == ["caption_0", "caption_1"]


def test_images_in_the_tables_own_folder_are_taken_before_others(tmp_path: Path) -> None:
    path = csv(tmp_path, [{"image": "secret.jpg", "caption": "a photo"}])
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "secret.jpg").write_bytes(b"")
    found = recognise(path)
    assert "image_folder" not in found.source
    assert "the images are in" not in found.what


def test_a_link_to_the_folder_of_images_is_not_another_folder(tmp_path: Path) -> None:
    path = csv(tmp_path, [{"image": Path(row["filepath"]).name, "caption": "a photo"} for row in rows()[::3]])
    (tmp_path / "again").symlink_to(tmp_path / "photos" / "a")
    found = recognise(path)
    assert found.source["image_folder"] == str(tmp_path / "again")
    assert found.what.endswith(f"; the images are in {tmp_path}/again")


def a_header_alone(folder: Path) -> str:
    (folder / "x.csv").write_text("filepath,title\n")
    return str(folder / "x.csv")


def one_column(folder: Path) -> str:
    (folder / "x.csv").write_text("filepath\na.jpg\n")
    return str(folder / "x.csv")


def unquoted(folder: Path) -> str:
    (folder / "x.csv").write_text("filepath,title\na.jpg,red, green\nb.jpg,red, blue\n")
    return str(folder / "x.csv")


def of_the_web(folder: Path) -> str:
    return csv(folder, [{"url": f"https://example.org/{n}.jpg", "caption": "a photo"} for n in range(3)])


def instances(folder: Path) -> str:
    return coco_json(folder, "instances_train2017.json", annotations=[{"image_id": 0, "bbox": []}])


def no_images(folder: Path) -> str:
    return coco_json(folder, "captions_train2017.json", images=[])


def a_damaged_file_beside(folder: Path) -> str:
    (folder / "captions_val.json").write_text("{")
    return coco_json(folder, "captions_train.json")


def two_of_karpathy(folder: Path) -> str:
    for name in ("dataset_coco.json", "dataset_flickr8k.json"):
        (folder / name).write_text("{}")
    return str(folder)


def absolute_and_gone(folder: Path) -> str:
    return csv(folder, [{"filepath": "/none/0.jpg", "title": "a photo"}])


def of_flickr30k(folder: Path) -> str:
    content = {"raw": '["Two guys.", "Two men, outside."]', "sentids": "[0, 1]", "split": "train"}
    return csv(folder, [content | {"filename": row["filepath"], "img_id": n} for n, row in enumerate(rows())])


def with_photographers(folder: Path) -> str:
    content = {"description": "a photo", "photographer": "John Smith", "date": "2020-01-01 10:00:00"}
    return csv(folder, [{"filename": row["filepath"]} | content for row in rows()])


def with_titles(folder: Path) -> str:
    return csv(folder, [{"filename": row["filepath"], "title": "at sea", "caption": "a photo"} for row in rows()])


def without_a_header(folder: Path) -> str:
    make_images(folder)
    (folder / "x.csv").write_text("".join(f"{row['filepath']},a photo\n" for row in rows()))
    return str(folder / "x.csv")


def a_text_without_a_header(folder: Path) -> str:
    Path(without_a_header(folder)).rename(folder / "x.txt")
    return str(folder)


def images_twice(folder: Path) -> None:
    for name in ("depth", "images"):
        (folder / name).mkdir(exist_ok=True)
        for image in ("0.jpg", "x.jpg"):
            (folder / name / image).write_bytes(jpeg((0, 0, 0)))


def a_table_of_images_twice(folder: Path) -> str:
    images_twice(folder)
    return csv(folder, [{"image": "x.jpg", "caption": "a photo"}])


def a_table_beside_images_twice(folder: Path) -> str:
    images_twice(folder)
    (folder / "tables").mkdir()
    (folder / "tables" / "x.csv").write_text("image,caption\n0.jpg,a photo\n")
    return str(folder / "tables")


def a_coco_file_of_images_twice(folder: Path) -> str:
    images_twice(folder)
    return coco_json(folder, "captions_val.json")


def a_karpathy_file_of_images_twice(folder: Path) -> str:
    images_twice(folder)
    (folder / "x.json").write_text(json.dumps({"images": [{"filename": "0.jpg", "sentences": []}]}))
    return str(folder / "x.json")


def a_pattern(folder: Path) -> str:
    return f"{folder}/*.csv"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (a_header_alone, r"x\.csv: it has no rows: its columns are 'filepath', 'title'"),
        (one_column, r"x\.csv: its header has one column, 'filepath'"),
        (unquoted, r"none of its first rows can be read \(3 cells under 2 columns"),
        (of_the_web, r"its images are on the web \(https://example\.org/0\.jpg\): download them first, as img2dataset does"),
        (instances, r"its annotations have no captions: name captions_\*\.json"),
        (no_images, "it names no image"),
        (a_damaged_file_beside, r"captions_val\.json: not JSON"),
        (two_of_karpathy, r"it has dataset_coco\.json, dataset_flickr8k\.json: name one of them"),
        (absolute_and_gone, "it names images such as '/none/0.jpg', which do not exist"),
        (of_flickr30k, "the column 'raw' holds lists as text: save the table as JSONL or parquet"),
        (with_photographers, "the columns 'description' and 'photographer' could each be captions: write .*caption_columns"),
        (with_titles, "the columns 'title' and 'caption' could each be captions: write the description with data.source.capt"),
        (without_a_header, r"x\.csv: its first line is no header: begin it with column names, for example image,caption"),
        (a_text_without_a_header, r"x\.txt: its first line is no header"),
        (a_table_of_images_twice, r"found in .*/depth and in .*/images: write .* data\.source\.image_folder, see"),
        (a_table_beside_images_twice, r"found in .*/depth and in .*/images: write .* data\.source\.image_folder, see"),
        (a_coco_file_of_images_twice, r"found in .*/depth and in .*/images: write .* data\.source\.train_images, see"),
        (a_karpathy_file_of_images_twice, r"found in .*/depth and in .*/images: write .* data\.source\.images, see"),
        (a_pattern, "there is no such file or folder: patterns are for .tar files"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_unrecognised_data_are_one_sentence_errors(make: Callable[[Path], str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence) as error:
        recognise(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("columns", ["image;title", "image;title;part"])
def test_a_first_line_for_excel_is_no_header(tmp_path: Path, columns: str) -> None:
    (tmp_path / "x.csv").write_text(f"sep=;\n{columns}\n", encoding="utf-8-sig")
    with pytest.raises(DataError, match=r"x\.csv: its first line \(sep=;\) is for Excel only: remove it"):
        recognise(str(tmp_path / "x.csv"))


def test_a_missing_file_is_no_data_set_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for place in ("photos/pairs.csv", "data/photos"):
        with pytest.raises(DataError, match=r"there is no such file or folder$"):
            recognise(place)


def test_images_of_a_remote_json_are_not_looked_for(tmp_path: Path) -> None:
    coco_json(tmp_path, "captions_train.json")
    with pytest.raises(DataError, match="its images can be found only on this machine"):
        recognise(f"file://{tmp_path}/captions_train.json")
