"""Planning 100 million pairs: 10,000 shards in the layout of img2dataset. Only the first shard has samples, because a plan
reads the first samples and only the listing of all other shards.
"""

import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

SHARDS, SAMPLES = 10_000, 100
OVERRIDES = (
    "data.source=shards",
    "data.train_images=null",
    "data.val_images=null",
    "data.test_images=null",
    "model.image.weights=random",
)


def plan_of_100_million_pairs() -> dict[str, float]:
    """Wall seconds and peak memory of `vldd run --plan`."""
    with tempfile.TemporaryDirectory() as folder:
        shard = _shard()
        for split, count in (("train", SHARDS), ("val", 1), ("test", 1)):
            for number in range(count):
                Path(folder, f"{split}-{number:05d}.tar").write_bytes(shard if number == 0 else b"")
        paths = (f"data.source.{split}={folder}/{split}-*.tar" for split in ("train", "val", "test"))
        sets = [part for override in (*OVERRIDES, *paths) for part in ("--set", override)]
        command = [sys.executable, "-m", "vldd_dist.cli", "run", "scenes", "--store", f"{folder}/store", "--plan", *sets]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        seconds = time.monotonic() - began
    # The largest of all children, of which this is the only one.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"plan_100m_seconds": seconds, "plan_100m_mib": peak}


def _shard() -> bytes:
    image, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "JPEG")
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(SAMPLES):
            for ending, data in (("jpg", image.getvalue()), ("txt", b"a caption")):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()
