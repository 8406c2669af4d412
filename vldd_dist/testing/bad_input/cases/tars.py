"""Bad WebDataset tars."""

import io
import json
import os
import tarfile
from pathlib import Path
from random import Random

from vldd_dist.testing.bad_input.case import Case, importing, kind
from vldd_dist.testing.bad_input.cases import values as bad
from vldd_dist.testing.bad_input.cases.files import bad_images, image, tar

SHARDS = ["data.source=shards", "data.source.val=val.tar", "data.source.test=test.tar"]
SAMPLE_TEXTS = [
    b'{"captions": 3}', b'{"captions": [3]}', b'{"captions": []}', b'{"captions": ["\\ud800"]}', b'{"captions": null}',
    b'{"captions": {"a": 1}}', b"{", b"", b"\xff", b'{"captions": ["' + b"[" * 99 + b'"]', b'{"captions": [NaN]}',
    bad.DEEP.encode(), b'{"captions": ["x"], "id": ' + b"9" * 5000 + b"}",
]  # fmt: skip


def sound_members(count: int = 4) -> list[tuple[str, bytes]]:
    members = []
    for number in range(count):
        members += [(f"{number:04d}.jpg", image("JPEG")), (f"{number:04d}.json", b'{"captions": ["a dog"]}')]
    return members


def lay_out_tars(members: list[tuple[str, bytes]], data: bytes | None = None) -> None:
    """Write valid tars for validation and test, and `bad.tar` with these members or with this content."""
    for split in ("val", "test"):
        Path(f"{split}.tar").write_bytes(tar(sound_members()))
    Path("bad.tar").write_bytes(tar(members, tarfile.PAX_FORMAT) if data is None else data)


@kind(8)
def samples_in_a_tar(draw: Random) -> Case:
    members = sound_members()
    index = draw.choice([2, 3, 6, 7])
    name, _ = members[index]
    content = draw.choice(bad_images() if index % 2 == 0 else SAMPLE_TEXTS)
    if draw.random() < 0.7:
        members[index] = (name, content)
    else:
        odd_names = ["../../x", "/x", "a\udcffb", "x" * 200, bad.SEQUENCES, "0000", "", ".", "a/../b", "\t"]
        image_index = index - index % 2
        members[image_index] = (f"{draw.choice(odd_names)}.jpg", members[image_index][1])
    lay_out_tars(members)
    tolerant = draw.random() < 0.3
    more = ["data.source.train=bad.tar", *(["data.max_bad_fraction=0.6"] if tolerant else [])]
    return importing([*SHARDS, *more], frozenset({0, 4}))


@kind(8)
def damaged_tars(draw: Random) -> Case:
    data = tar(sound_members())
    # The header of the third sample, because the first header is a special case.
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        header = archive.getmembers()[4].offset
    flipped = bytearray(data)
    flipped[header + draw.choice([0, 100, 124, 148, 156])] ^= 1 << draw.randrange(1, 6)
    huge = bytearray(data)
    huge[header + 124 : header + 136] = b"77777777777\0"
    always_bad = [
        bytes(flipped), data[:header], data[: header + 700], bytes(huge), b"", b"\x1f\x8b" + data, data[: header + 100],
    ]  # fmt: skip
    if draw.random() < 0.6:
        lay_out_tars([], draw.choice(always_bad))
        return importing([*SHARDS, "data.source.train=bad.tar"], frozenset({4}))
    lay_out_tars([], bad.damaged(draw, data))
    return importing([*SHARDS, "data.source.train=bad.tar"], frozenset({0, 4}))


@kind(3)
def patterns_of_shards(draw: Random) -> Case:
    lay_out_tars(sound_members())
    os.mkfifo("fifo.tar")
    pattern = draw.choice(["none.tar", "{000..999999999999}.tar", "{a", "[", "", "::", ".", "fifo.tar", "pipe:touch stolen",
                           "gopher://x", "val.tar::none.tar", "x" * 5000,
                           "http://127.0.0.1:1/x.tar", "notes.txt", "a\\b", "/dev/zero"])  # fmt: skip
    return importing([*SHARDS, f"data.source.train={json.dumps(pattern)}"], frozenset({2, 4}))
