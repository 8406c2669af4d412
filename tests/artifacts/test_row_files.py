"""Names of row files, and finding a complete series of them."""

import pytest
import torch

from vldd_dist.artifacts.tensor_files.row_files import concatenated, row_file_name, row_file_number, row_files_of
from vldd_dist.errors import StoreError


@pytest.mark.parametrize(("index", "count"), [(0, 1), (0, 2), (1, 2), (9, 12)])
def test_a_name_contains_the_position_of_its_rows(index: int, count: int) -> None:
    file = row_file_name("epoch-0001/image", index, count)
    assert row_file_number("epoch-0001/image", file) == (index, count)
    assert row_file_number("epoch-0001/text", file) is None


def test_a_series_is_found_in_the_order_of_its_rows() -> None:
    files = [row_file_name("rows", index, 3) for index in range(3)]
    assert row_files_of("rows", ["shared.safetensors", *files[::-1]], "here") == files
    assert row_files_of("rows", ["rows.safetensors"], "here") == ["rows.safetensors"]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["other.safetensors"],
        ["rows-00001-of-00002.safetensors"],
        ["rows-00001-of-00002.safetensors", "rows-00003-of-00002.safetensors"],
        ["rows-00001-of-00002.safetensors", "rows-00002-of-00003.safetensors"],
    ],
)
def test_an_incomplete_series_is_an_error(names: list[str]) -> None:
    with pytest.raises(StoreError, match=r"^here: lists neither rows\.safetensors nor a complete series"):
        row_files_of("rows", names, "here")


def test_rows_are_concatenated_by_name() -> None:
    files = [{"a": torch.arange(2), "b": torch.zeros(2, 3)}, {"a": torch.arange(2, 5), "b": torch.ones(3, 3)}]
    whole = concatenated(files, "here")
    assert whole["a"].tolist() == [0, 1, 2, 3, 4]
    assert whole["b"].shape == (5, 3)
