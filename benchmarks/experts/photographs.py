"""Synthetic photographs with captions as WebDataset tars. They are realistic only in the cost of decoding."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

# As in Flickr30K: about 500 x 375 pixels, five captions of about twelve words.
WIDTH, HEIGHT, CAPTIONS = 500, 375, 5
VOCABULARY = "a man woman dog child red blue large small runs sits jumps near over beside the street water field wall"
WORDS = VOCABULARY.split()


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG of about 60 kB: smooth shapes with noise."""
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.normal(0, 9, (HEIGHT, WIDTH, 1)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def caption(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, int(generator.integers(8, 17))))


def write_shards(folder: Path, split: str, images: int, per_shard: int, seed: int = 0) -> str:
    """Write `images` images, `per_shard` in each tar. Returns a glob pattern for the tars."""
    generator = np.random.default_rng([seed, len(split)])
    for first in range(0, images, per_shard):
        with tarfile.open(folder / f"{split}-{first:06d}.tar", "w") as tar:
            for number in range(first, min(first + per_shard, images)):
                captions = [caption(generator) for _ in range(CAPTIONS)]
                for extension, data in (
                    ("jpg", photograph(generator)),
                    ("json", json.dumps({"captions": captions}).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(folder / f"{split}-*.tar")
