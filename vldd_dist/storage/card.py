"""What a person sees of a distilled set: the card and the preview."""

import io
import math
from string import Template
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from vldd_dist.storage.distilled import Recipe

PREVIEW_PICTURES = 40
PREVIEW_COLUMNS = 10
SMALLEST_SIDE = 96
METRICS = ("tr1", "tr5", "tr10", "ir1", "ir5", "ir10", "mean")


def render_preview(pixels: Tensor) -> bytes:
    """PNG of the first pictures (M, 3, H, W) uint8 in a grid; small ones enlarged pixel by pixel."""
    shown = pixels[:PREVIEW_PICTURES]
    scale = max(1, math.ceil(SMALLEST_SIDE / shown.shape[-1]))
    side, columns = shown.shape[-1] * scale, min(PREVIEW_COLUMNS, len(shown))
    gap = 4
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for index, picture in enumerate(shown):
        image = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(image, (index % columns * (side + gap), index // columns * (side + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def render_card(
    template: str, recipe: "Recipe", facts: dict[str, Any], inner_rates: dict[str, float], pairs: int, digest: str
) -> str:
    """README.md with a YAML header as on the Hugging Face hub."""
    data = facts.get("data", {})
    header = {
        "license": "other",
        "license_name": data.get("licence", "unknown"),
        "task_categories": ["image-to-text", "text-to-image"],
        "tags": ["dataset-distillation", "vision-language", "retrieval"],
        "size_categories": ["n<1K" if pairs < 1000 else "1K<n<10K"],
    }
    encoder = ", ".join(f"{key} {value}" for key, value in recipe.text_encoder.items())
    return Template(template).substitute(
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
        loss=recipe.loss,
        temperature=recipe.temperature,
        image_rate=f"{inner_rates['image']:.4g}",
        text_rate=f"{inner_rates['text']:.4g}",
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=f"{recipe.learning_rate:g}",
        momentum=f"{recipe.momentum:g}",
        weight_decay=f"{recipe.weight_decay:g}",
        start=facts.get("start", {}).get("initialise", "unknown"),
        best=facts.get("outer_steps_to_best", "unknown"),
        digest=digest,
    )


def _recall_table(recalls: dict[str, list[dict[str, float]]]) -> str:
    """A row a method, the mean over seeds; this set's first."""
    lines = ["| pairs | TR@1 | TR@5 | TR@10 | IR@1 | IR@5 | IR@10 | mean | seeds |", "|---|" + "--:|" * 8]
    for method in sorted(recalls, key=lambda name: (name != "distilled", name)):
        runs = recalls[method]
        cells = [f"{sum(run[metric] for run in runs) / len(runs):.1f}" for metric in METRICS]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)
