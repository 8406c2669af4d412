"""The source `shards`: captions in text files."""

from pathlib import Path

from tests.data.prepared.test_dataset import jpeg, shards
from tests.data.tables import read


def test_a_text_file_is_one_caption_without_its_byte_order_mark(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.txt": b"\xef\xbb\xbfcaf\xc3\xa9\nat night\n"}
    (sample,) = read(shards(tmp_path, members).source)
    assert sample.captions == ["café\nat night"]
