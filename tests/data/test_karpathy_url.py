"""Annotations that lie in a bucket."""

from pathlib import Path

import fsspec
import pytest

from tests.data.small_sources import identity, karpathy, training_samples
from vldd_dist.errors import DataError


def test_a_karpathy_file_in_a_bucket_identifies_the_data_as_the_local_one_does(tmp_path: Path) -> None:
    """A working directory of more than 100 MiB, such as one with the file of COCO, cannot be uploaded."""
    description = karpathy(tmp_path)
    url = "memory://annotations/dataset_coco.json"
    fsspec.filesystem("memory").pipe(url, (tmp_path / "data.json").read_bytes())
    in_bucket = description.model_copy(update={"source": description.source.model_copy(update={"annotations": url})})
    assert identity(in_bucket.source) == identity(description.source)
    assert len(training_samples(in_bucket)) == len(training_samples(description)) == 2
    fsspec.filesystem("memory").rm(url)
    fresh = description.model_copy(update={"source": description.source.model_copy(update={"annotations": url})})
    with pytest.raises(DataError, match=r"data.source.annotations: memory://.* cannot be read .*: correct the URL"):
        identity(fresh.source)
