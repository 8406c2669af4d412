"""Planning 100 million pairs: 10,000 shards in the layout of img2dataset. Only the first shard has samples, because a plan
reads the first samples and only the listing of all other shards.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
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
# Runs a command as its only child. A process begins with the peak of the one that started it, so this one must be small: the
# benchmark itself holds torch, and its earlier children count in its own RUSAGE_CHILDREN.
ONLY_CHILD = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


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
        peak = peak_mib(command)
        seconds = time.monotonic() - began
    return {"plan_100m_seconds": seconds, "plan_100m_mib": peak}


def peak_mib(command: Sequence[str]) -> float:
    """The largest resident set of a command and its children, computing with one thread. Raises RuntimeError if it fails."""
    measuring = [sys.executable, "-c", ONLY_CHILD, *command]
    ended = subprocess.run(measuring, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return int(ended.stdout) / 1024


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
