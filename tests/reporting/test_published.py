"""Published figures: the files, and looking up figures in them."""

import re

import pytest
from pydantic import ValidationError

from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.tables.published import PublishedTable, published_table, published_tables
from vldd_dist.reporting.tables.table import Number, Published, Text

TREE = {
    "title": "Table",
    "source": "A paper, Table 2",
    "url": "https://example.org",
    "rows": [
        {"dataset": "d", "variant": "v", "method": "distilled", "pairs": 100, "tr1": 9.9, "ir1": {"mean": 4.7, "std": 0.2}},
        {"dataset": "d", "variant": "v", "method": "distilled", "pairs": 100, "image_model": "other", "tr1": 3.1},
        {"dataset": "d", "variant": "v", "method": "full", "tr1": 50.0},
    ],
}


def test_every_file_is_read_and_says_where_its_figures_come_from() -> None:
    tables = published_tables()
    assert {"lors-flickr30k", "mdm-coco", "vldd-lora-flickr30k"} <= set(tables)
    for name, table in tables.items():
        assert {row.dataset for row in table.rows} == {name.rpartition("-")[2]}
        assert re.match(r"https://", table.url)
        # Some papers lack this number.
        assert re.search(r"arXiv \d{4}\.\d{5}|openreview", table.source + table.url), name
        assert table.table().sources(), "each figure carries its source"


def test_a_figure_is_found_by_its_key() -> None:
    table = PublishedTable.model_validate(TREE)
    found = table.cell("v", "distilled", 100, "ir1")
    assert found == Published(mean=4.7, std=0.2, source="A paper, Table 2 (https://example.org)")
    assert table.cell("v", "distilled", 100, "tr1", "other").mean == 3.1  # type: ignore[union-attr]
    # Figures of full data are found for any number of pairs.
    assert table.cell("v", "full", 29000, "tr1").mean == 50.0  # type: ignore[union-attr]
    for key in (("v", "distilled", 200, "tr1"), ("w", "distilled", 100, "tr1"), ("v", "random", 100, "tr1")):
        assert table.cell(*key) is None
    assert table.cell("v", "distilled", 100, "mean") is None


def test_figures_read_in_another_paper_name_that_paper() -> None:
    table = PublishedTable.model_validate(TREE | {"read_in": "a review"})
    assert table.cell("v", "distilled", 100, "tr1").source == "A paper, Table 2 (https://example.org), read in a review"  # type: ignore[union-attr]


def test_a_published_table_is_rendered() -> None:
    table = PublishedTable.model_validate(TREE).table()
    assert [column.key for column in table.columns] == ["pairs", "variant", "image_model", "method", "tr1", "ir1"]
    cells = [row.cells for row in table.sections[0].rows]
    assert [row[0] for row in cells] == [Number(value=100), Number(value=100), Text()]
    assert [row[2].text for row in cells] == ["the same", "other", "the same"]
    assert cells[2][3] == Text(text="full data")
    assert cells[2][5] == Text()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"dataset": "d", "variant": "v", "method": "full", "tr1": 40.0}, "two rows have the same key"),
        ({"dataset": "d", "variant": "v", "method": "random", "pairs": 1, "tr1": 101}, "less than or equal to 100"),
        ({"dataset": "d", "variant": "v", "method": "random", "pairs": 1, "tr2": 1.0}, "tr2"),
        ({"dataset": "d", "variant": "v", "method": "random", "pairs": 1}, "at least 1 item"),
    ],
)
def test_a_wrong_file_is_refused(row: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PublishedTable.model_validate(TREE | {"rows": [*TREE["rows"], row]})


def test_an_unknown_published_table_is_a_one_sentence_error() -> None:
    with pytest.raises(ValueError, match=r"there is no published table 'lors-flickr'.*did you mean 'lors-flickr30k'"):
        published_table("lors-flickr")


def test_metric_names_differ_from_the_other_keys_of_a_row() -> None:
    """In a file, metrics and keys are in the same mapping."""
    assert not set(RECALL_METRICS) & {"dataset", "variant", "method", "pairs", "image_model", "figures"}
