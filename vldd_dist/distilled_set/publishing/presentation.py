"""The files of a distilled set for people and other tools: a card, a preview, shards of images and captions, Croissant.

    preview.png          the first images
    similarity.png       the similarity of images (rows) and texts (columns), if the loss learned one
    pairs/*.tar          every pair as an image and its nearest caption, readable by plain webdataset
    README.md            the card
    croissant.json       a description of each object in the vocabulary of ML Commons

They are only for display and search: students are trained on the tensors, not on eight-bit images and captions.
"""

import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.publishing.card import SIMILARITY, render_card
from vldd_dist.distilled_set.publishing.croissant import croissant_metadata
from vldd_dist.distilled_set.publishing.heat_map import heat_map

SHARD_PAIRS = 1000
PREVIEW_IMAGES = 40
PREVIEW_COLUMNS = 10
SMALLEST_SIDE = 96


def present(distilled: DistilledSet, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Name -> bytes of the files above. The same set always gives the same bytes.

    Args:
        objects: the set's other files, which Croissant describes too.
    """
    pixels = distilled.pixels()
    files = {"preview.png": render_preview(pixels), **preview_shards(pixels, distilled.captions)}
    similarity = distilled.similarity()
    if similarity is not None:
        files[SIMILARITY] = heat_map(similarity)
    files["README.md"] = render_card(distilled).encode()
    metadata = croissant_metadata(distilled.facts.get("data", {}), len(distilled), {**objects, **files})
    files["croissant.json"] = (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def shard_names(pairs: int) -> list[str]:
    """The tars of a set of this many pairs."""
    return [f"pairs/{number:06d}.tar" for number in range(math.ceil(pairs / SHARD_PAIRS))]


def preview_shards(pixels: Tensor, captions: Sequence[NearestCaptions]) -> dict[str, bytes]:
    """Tars of NUMBER.png, NUMBER.txt (the nearest caption) and NUMBER.json for images (M, 3, H, W) uint8."""
    shards = {}
    for number, name in enumerate(shard_names(len(captions))):
        buffer, first = io.BytesIO(), number * SHARD_PAIRS
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(first, min(first + SHARD_PAIRS, len(captions))):
                png, caption = io.BytesIO(), captions[index]
                _pil(pixels[index]).save(png, "PNG")
                members = {"json": caption.model_dump_json().encode(), "png": png.getvalue(), "txt": caption.after.encode()}
                for suffix, data in members.items():
                    # TarInfo's defaults have neither time nor owner, so that the same pairs give the same bytes.
                    member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        shards[name] = buffer.getvalue()
    return shards


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def render_preview(pixels: Tensor) -> bytes:
    """A PNG of the first images (M, 3, H, W) uint8 in a grid; small images are enlarged without interpolation."""
    shown = pixels[:PREVIEW_IMAGES]
    scale = max(1, math.ceil(SMALLEST_SIDE / shown.shape[-1]))
    side, columns = shown.shape[-1] * scale, min(PREVIEW_COLUMNS, len(shown))
    gap = 4
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for index, image in enumerate(shown):
        enlarged = _pil(image).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (index % columns * (side + gap), index // columns * (side + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
