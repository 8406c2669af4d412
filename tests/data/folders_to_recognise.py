"""Files whose source is recognised at their path: a table and a COCO JSON, with their images beside them."""

import json
from pathlib import Path
from typing import Any

import pandas

from tests.data.sample_files import jpeg
from tests.data.tables import make_images


def csv(folder: Path, content: list[dict[str, Any]], name: str = "pairs.csv") -> str:
    make_images(folder)
    pandas.DataFrame(content).to_csv(folder / name, index=False)
    return str(folder / name)


def coco_json(folder: Path, name: str, **changes: Any) -> str:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "0.jpg").write_bytes(jpeg((0, 0, 0)))
    tree = {"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": [{"image_id": 0, "caption": "a photo"}]}
    (folder / name).write_text(json.dumps(tree | changes))
    return str(folder / name)
