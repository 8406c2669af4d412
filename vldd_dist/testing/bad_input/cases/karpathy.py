"""Bad Karpathy-style annotations."""

import os
from pathlib import Path
from random import Random
from typing import Any

from vldd_dist.testing.bad_input.case import Case, importing, kind
from vldd_dist.testing.bad_input.cases import values as bad
from vldd_dist.testing.bad_input.cases.files import bad_images, image


def lay_out_annotations() -> dict[str, Any]:
    """Write images to `photos`, and return valid annotations of them, to be written to `data.json`."""
    Path("photos/sub").mkdir(parents=True)
    for name in ("train.jpg", "val.jpg", "test.jpg", "b.jpg", "sub/c.jpg"):
        Path("photos", name).write_bytes(image("JPEG"))
    entry = {"sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}
    return {
        "images": [
            *({**entry, "filename": f"{split}.jpg", "split": split} for split in ("train", "val", "test")),
            {**entry, "filename": "b.jpg", "split": "train"},
            {**entry, "filename": "c.jpg", "filepath": "sub", "split": "restval"},
        ]
    }


KARPATHY = ["data.source=karpathy", "data.source.annotations=data.json", "data.source.images=photos"]
BAD_ENTRIES: list[dict[str, Any]] = [
    {"filename": 3}, {"filename": ["train.jpg"]}, {"filename": "a\0b"}, {"filename": None}, {"filename": ""},
    {"filename": "none.jpg"}, {"filename": "sub"}, {"filename": "../../neighbour/secret.png"}, {"filename": "ABSOLUTE"},
    {"filename": "fifo"},
    {"filename": "link"}, {"filename": "x" * 5000}, {"filename": "bad.jpg"}, {"filepath": "../../neighbour"},
    {"filepath": 3}, {"filepath": "/"}, {"sentences": None}, {"sentences": []}, {"sentences": [3]}, {"sentences": [{"raw": 3}]},
    {"sentences": [{"raw": "\ud800"}]}, {"sentences": [{"raw": "  "}]}, {"sentences": {"raw": "x"}},
]  # fmt: skip


@kind(10)
def karpathy_entries(draw: Random) -> Case:
    tree, change = lay_out_annotations(), dict(draw.choice(BAD_ENTRIES))
    os.mkfifo("photos/fifo")
    os.symlink("../../neighbour/secret.png", "photos/link")
    Path("photos/bad.jpg").write_bytes(draw.choice(bad_images()))
    if change.get("filename") == "ABSOLUTE":
        change["filename"] = str(Path("../neighbour/secret.png").resolve())
    tree["images"][3] |= change
    Path("data.json").write_bytes(bad.dumped(tree))
    tolerant = draw.random() < 0.3
    # A link inside the folder is allowed: users may arrange their images in this way.
    good = change.get("filename") == "link"
    codes = frozenset({0, 4}) if tolerant or good else frozenset({4})
    return importing([*KARPATHY, *(["data.max_bad_fraction=0.6"] if tolerant else [])], codes)


@kind(6)
def karpathy_files(draw: Random) -> Case:
    tree = lay_out_annotations()
    texts = [draw.choice(bad.JSON_TEXTS), bad.damaged(draw, bad.dumped(tree)), bad.dumped(bad.changed(draw, tree))]
    Path("data.json").write_bytes(draw.choice(texts))
    return importing(KARPATHY, frozenset({0, 4}))
