"""The files of a distilled set for people and other tools: a card, a preview, shards of images and captions, Croissant.

    preview.png          the first images
    similarity.png       the similarity of images, the rows, and texts that the loss learned, if it did
    pairs/*.tar          every pair as an image and its nearest caption, to be read by plain webdataset
    README.md            the card
    croissant.json       a description of each object in the vocabulary of ML Commons

They are for display and search only: a student trains on the tensors, not on eight-bit images and captions.
"""

import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from textwrap import indent
from typing import Any

import yaml
from PIL import Image
from torch import Tensor

from vldd_dist.distilled_set.croissant import describe
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.heat_map import heat_map
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.recall_metrics import DISPLAY_NAMES, METRICS, mean_over_runs

SHARD_PAIRS = 1000
PREVIEW_IMAGES = 40
PREVIEW_COLUMNS = 10
SMALLEST_SIDE = 96
SIMILARITY = "similarity.png"


def present(distilled: DistilledSet, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Name -> bytes of the files above. The same set always gives the same bytes.

    Args:
        objects: the set's other files, which Croissant describes too.
    """
    pixels = distilled.pixels()
    shown = {"preview.png": render_preview(pixels), **preview_shards(pixels, distilled.captions)}
    similarity = distilled.loss.similarity_of(distilled.rows)
    if similarity is not None:
        shown[SIMILARITY] = heat_map(similarity)
    shown["README.md"] = render_card(distilled).encode()
    metadata = describe(distilled.facts.get("data", {}), len(distilled), {**objects, **shown})
    shown["croissant.json"] = (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode()
    return shown


def preview_shards(pixels: Tensor, captions: Sequence[NearestCaptions]) -> dict[str, bytes]:
    """Tars of NUMBER.png, NUMBER.txt (the nearest caption) and NUMBER.json of images (M, 3, H, W) uint8."""
    shards = {}
    for first in range(0, len(captions), SHARD_PAIRS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(first, min(first + SHARD_PAIRS, len(captions))):
                png, caption = io.BytesIO(), captions[index]
                _pil(pixels[index]).save(png, "PNG")
                members = {"json": caption.model_dump_json().encode(), "png": png.getvalue(), "txt": caption.after.encode()}
                for suffix, data in members.items():
                    # The header has neither time nor owner, so that the same pairs give the same bytes.
                    member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        shards[f"pairs/{first // SHARD_PAIRS:06d}.tar"] = buffer.getvalue()
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


# Read when the module is imported, because a worker's copy of this package may be removed while it runs.
_TEMPLATE = resources.files("vldd_dist.distilled_set").joinpath("card.md").read_text()


def render_card(distilled: DistilledSet) -> str:
    """README.md with a YAML header as on the Hugging Face hub."""
    phases = len(distilled.as_datasets())
    recipe, facts, learned, pairs = distilled.recipe, distilled.facts, distilled.learned, len(distilled)
    data = facts.get("data", {})
    header = {
        "license": "other",
        "license_name": data.get("licence", "unknown"),
        "task_categories": ["image-to-text", "text-to-image"],
        "tags": ["dataset-distillation", "vision-language", "retrieval"],
        "size_categories": [_size_category(pairs)],
    }
    encoder = ", ".join(f"{key} {value}" for key, value in recipe.text_encoder.items())
    return Template(_TEMPLATE).substitute(
        header=yaml.safe_dump(header, sort_keys=False).strip(),
        pairs=pairs,
        source=data.get("source", "unknown"),
        licence=data.get("licence", "unknown"),
        image_size=recipe.image_size,
        recalls=_recall_table(facts.get("recalls", {})),
        image_model=recipe.image_model,
        image_weights=recipe.image_weights,
        image_train=recipe.image_train,
        image_head=recipe.image_head,
        text_head=recipe.text_head,
        joint_dim=recipe.joint_dim or "the image features' size",
        text_encoder=encoder,
        mean=", ".join(f"{value:g}" for value in recipe.mean),
        std=", ".join(f"{value:g}" for value in recipe.std),
        loss=_in_words(recipe.loss),
        size=_size_of(distilled.sizes),
        similarity=_SIMILARITY_SHOWN if distilled.loss.similarity_of(distilled.rows) is not None else "",
        learned=", ".join(f"{name} {value:.4g}" for name, value in learned.items()) or "nothing",
        training=_training_of(recipe.batch_size, phases),
        of_phases=f" of each of the {phases} phases, one after the other" if phases > 1 else "",
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=f"{recipe.learning_rate:g}",
        momentum=f"{recipe.momentum:g}",
        weight_decay=f"{recipe.weight_decay:g}",
        objective=str(facts.get("objective", "synthetic pairs learned by gradients")).replace("_", " "),
        start=_start_of(facts.get("start", {})),
        best=facts.get("outer_steps_to_best", "unknown"),
        digest=distilled.digest,
    )


def _training_of(batch_size: int, phases: int) -> str:
    """The loop over an epoch's batches; of pairs in phases in a loop over these."""
    pairs = "phase" if phases > 1 else "distilled.as_dataset()"
    loop = (
        f"for batch in torch.utils.data.DataLoader({pairs}, batch_size={batch_size}, shuffle=True):\n"
        '    loss = distilled.loss(image_tower(batch["images"]), text_head(batch["texts"]), batch, distilled.shared)'
    )
    return loop if phases == 1 else f"for phase in distilled.as_datasets():\n{indent(loop, '    ')}"


def _in_words(settings: Mapping[str, Any]) -> str:
    """`infonce, temperature 0.07`; settings within settings in brackets."""
    said = {key: f"({_in_words(value)})" if isinstance(value, dict) else value for key, value in settings.items()}
    return ", ".join(str(value) if key in ("name", "kind") else f"{key} {value}" for key, value in said.items())


def _size_of(parts: Mapping[str, int]) -> str:
    return f"{sum(parts.values()):,} bytes: " + ", ".join(f"{name} {size:,}" for name, size in parts.items())


_SIMILARITY_SHOWN = f"""
![similarity]({SIMILARITY})

The learned similarity of images (rows) and texts (columns): blue below zero, white at zero, red above.
"""


def _start_of(start: dict[str, Any]) -> str:
    images, texts, fixed = start.get("images", "unknown"), start.get("texts", "unknown"), start.get("fixed", [])
    said = images if images == texts else f"images {images}, texts {texts}"
    return said + (f"; {' and '.join(fixed)} were not learned" if fixed else "")


def _size_category(pairs: int) -> str:
    """The size category of the Hugging Face hub."""
    sizes = ("1K", "10K", "100K", "1M")
    limits = dict(zip(sizes, (10**3, 10**4, 10**5, 10**6), strict=True))
    for low, high in zip(("", *sizes), (*sizes, ""), strict=True):
        if not high or pairs < limits[high]:
            return f"{low}<n<{high}" if low and high else f"n<{high}" if high else f"n>{low}"
    raise AssertionError("the last category has no upper limit")


def _recall_table(recalls: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table with one row a method, averaged over seeds; the distilled set first."""
    lines = [
        f"| pairs | {' | '.join(DISPLAY_NAMES[metric] for metric in METRICS)} | seeds |",
        "|---|" + "--:|" * (len(METRICS) + 1),
    ]
    for method in sorted(recalls, key=lambda name: (name != "distilled", name)):
        runs = recalls[method]
        cells = [f"{mean_over_runs(runs, metric):.1f}" for metric in METRICS]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)
